"""Lists of visits, newest first or oldest first, each behind its id.

An id is the visit's batch and its row within it, as one number.
"""

from __future__ import annotations

from dataclasses import replace

from ...period import DAY, HOUR, LAST_TIMESTAMP
from ...reports import Position
from ...selection import Selection
from ...visit import FIELDS, Visit
from .client import Client
from .conditions import where
from .literals import literal

ROWS = 1 << 32  # that a batch may have
WHOLE_BATCH = ROWS - 1
# Of a batch, a server finds rows by their time: a list is looked for in more and more of it.
REACHES = (HOUR, DAY, 30 * DAY, LAST_TIMESTAMP)
_FIELDS = ", ".join("nullIf(path, endpoint)" if name == "path" else name for name in FIELDS)
VISITS = f"""
SELECT batch, row, {_FIELDS} FROM visits WHERE {{where}}
ORDER BY {{order}} LIMIT {{limit}}"""
NEWEST_FIRST = "timestamp DESC, batch DESC, row DESC"
OLDEST_FIRST = "timestamp, batch, row"
ARRIVED_FIRST = "batch, row"

Found = list[tuple[int, Visit]]


def newest_visits(
    client: Client, selection: Selection, limit: int, position: Position | None, now: int
) -> Found:
    """Return the newest visits, or those behind a position."""
    more = ""
    if position is not None:
        upto = position.timestamp
        end = upto + 1 if selection.end is None else min(selection.end, upto + 1)
        selection = replace(selection, end=end)
        if position.id is not None:
            more = f" AND (timestamp < {literal(upto)} OR {_id('<', position.id)})"
    newest = now if selection.end is None else min(now, selection.end)
    found: Found = []
    for reach in REACHES:
        start = max(selection.start, newest - reach)
        near = replace(selection, start=start)
        found = _list(client, where(near) + more, NEWEST_FIRST, limit)
        if len(found) >= limit or start == selection.start:
            break
    return found


def oldest_visits(
    client: Client, selection: Selection, limit: int, behind: tuple[int, int] | None, upto: int
) -> Found:
    """Return the oldest visits, or those behind a timestamp and id, with ids to ``upto``."""
    conditions = [_id("<=", upto)]
    if behind is not None:
        since, last = behind
        selection = replace(selection, start=max(selection.start, since))
        conditions.append(f"(timestamp > {literal(since)} OR {_id('>', last)})")
    return _list(client, " AND ".join([where(selection), *conditions]), OLDEST_FIRST, limit)


def arrived_visits(
    client: Client, selection: Selection, limit: int, behind: int | None, upto: int
) -> Found:
    """Return the first visits that arrived, or those behind an id, with ids to ``upto``."""
    conditions = [where(selection), _id("<=", upto)]
    if behind is not None:
        conditions.append(_id(">", behind))
    return _list(client, " AND ".join(conditions), ARRIVED_FIRST, limit)


def newest_id(client: Client) -> int:
    """Return the greatest id that a visit can have now."""
    ((batch,),) = client.rows("SELECT max(batch) FROM visits")
    return int(batch) * ROWS + WHOLE_BATCH


def _list(client: Client, conditions: str, order: str, limit: int) -> Found:
    statement = VISITS.replace("{order}", order).replace("{limit}", literal(limit))
    rows = client.rows(statement.replace("{where}", conditions))
    return [(batch * ROWS + row, Visit(*fields)) for batch, row, *fields in rows]


def _id(comparison: str, id: int) -> str:
    batch, row = divmod(id, ROWS)
    return f"(batch, row) {comparison} ({literal(batch)}, {literal(row)})"
