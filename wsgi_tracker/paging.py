"""Pages of reports: in which order rows stand, and cursors, which say behind which one to go on.

A cursor holds what the last row was sorted by, and no secret. Rows are never counted from the first
one, so that none is missing or there twice because others came meanwhile; but one whose own value
changes may move across a cursor.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, TypeAlias

from .errors import QueryError
from .reports import Position

Row: TypeAlias = "dict[str, Any]"
# What rows of stats can be sorted by, and what has to be included for it.
SORTS = {
    "hit_count": "",
    "unique_users": "",
    "endpoint": "",
    "method": "",
    "first_access": "",
    "last_access": "",
    "error_rate": "status",
    "p50": "latency",
    "p90": "latency",
    "p99": "latency",
    "bytes_sent": "bytes",
}
DEFAULT_SORT = "-hit_count"
LONGEST_CURSOR = 16_384
LARGEST = 2**63 - 1
LARGEST_ID = 2**96 - 1  # whichever the storage is


def sort_rows(rows: list[Row], sort: str) -> list[Row]:
    """Return rows of stats in order, those without a value last; of equal ones, by endpoint."""
    by = sort.removeprefix("-")
    known = [row for row in rows if _value(row, by) is not None]
    unknown = [row for row in rows if _value(row, by) is None]
    for some in (known, unknown):
        some.sort(key=_place)
    known.sort(key=lambda row: _value(row, by), reverse=sort != by)
    return known + unknown


def page_of_stats(
    rows: list[Row], sort: str, limit: int | None, cursor: str | None
) -> tuple[list[Row], str | None]:
    """Return the rows of one page, and the cursor of the next."""
    if cursor is not None:
        value, place = _read_stats(cursor, sort)
        try:
            rows = [row for row in rows if _is_behind(row, sort, value, place)]
        except TypeError as error:  # a value that rows of this order do not have
            raise _foreign() from error
    if limit is None or len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], _write(
        ["stats", sort, _value(last, sort.removeprefix("-")), *_place(last)]
    )


def _is_behind(row: Row, sort: str, value: Any, place: tuple[str, str]) -> bool:
    by = sort.removeprefix("-")
    own = _value(row, by)
    if own == value:
        return _place(row) > place
    if value is None or own is None:
        return own is None
    return bool(own < value if sort != by else own > value)


def _value(row: Row, by: str) -> Any:
    return row["duration_us"][by] if SORTS[by] == "latency" else row[by]


def _place(row: Row) -> tuple[str, str]:
    return row["endpoint"], row["method"]


def _read_stats(cursor: str, sort: str) -> tuple[Any, tuple[str, str]]:
    match _read(cursor):
        case [
            "stats",
            str(known),
            str() | int() | float() | None as value,
            str(endpoint),
            str(method),
        ]:
            if known == sort:
                return value, (endpoint, method)
    raise _foreign()


def cursor_of_visits(position: Position | None) -> str | None:
    """Return the cursor of a position."""
    if position is None:
        return None
    return _write(["visits", position.timestamp, position.id, position.shown])


def position_of(cursor: str | None) -> Position | None:
    """Return what a cursor of visits says."""
    if cursor is None:
        return None
    match _read(cursor):
        case ["visits", int(timestamp), int() | None as id, int(shown)]:
            is_known = abs(timestamp) <= LARGEST and -LARGEST <= (id or 0) <= LARGEST_ID
            if is_known and 0 <= shown <= 1000:
                return Position(timestamp, id, shown)
    raise _foreign()


def _write(parts: list[Any]) -> str:
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def _read(cursor: str) -> Any:
    try:
        if len(cursor) <= LONGEST_CURSOR:
            text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            return json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        pass
    raise _foreign()


def _foreign() -> QueryError:
    return QueryError(
        "cursor is what the header Link of the page before says, to the same question", "cursor"
    )
