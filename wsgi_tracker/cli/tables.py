"""Reports as tables, for people: each takes the JSON that the API answers.

What is shown was sent by strangers, so nothing of it may reach the terminal as a control character.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich import box
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..period import iso_timestamp

BAR_WIDTH = 32
PIPE_WIDTH = 10_000  # nothing is cut where a program may read it
USER_SHOWN = 8

Row = Mapping[str, Any]


def console(*, stderr: bool = False) -> Console:
    """Return where tables go: in colours on a terminal, unless ``$NO_COLOR`` is set."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def printable(value: object) -> str:
    """Return a text without what a terminal would obey, or could not show."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value)
    )


def shown(value: object) -> str:
    """Return a value as a cell shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else printable(value)


def stats(body: Row) -> None:
    """Print what each endpoint got."""
    rows, before = body["stats"], _by_place(body)
    table = _table("method", "endpoint", "hits", "users", *_outcome_heads(rows), "last access")
    if before is not None:
        table.add_column("hits before", justify="right")
    for row in rows:
        cells = [row["method"], row["endpoint"], row["hit_count"], row["unique_users"]]
        cells += [*_outcomes(row), _moment(row["last_access"])]
        if before is not None:
            cells.append(before.get((row["endpoint"], row["method"]), 0))
        _add(table, cells)
    _print(table, f"{shown(body['total_endpoints'])} endpoints, {_when(body)}")


def _by_place(body: Row) -> dict[tuple[str, str], int] | None:
    if "previous" not in body:
        return None
    return {(row["endpoint"], row["method"]): row["hit_count"] for row in body["previous"]["stats"]}


def summary(body: Row) -> None:
    """Print the totals, beside those of the time before if they are there."""
    columns = [body, *([body["previous"]] if "previous" in body else [])]
    table = _table("", _when(body), *(["before"] if len(columns) > 1 else []))
    for name in body:
        if name in ("period", "start", "end", "tz", "previous"):
            continue
        for label, cells in _totals(name, [column.get(name) for column in columns]):
            _add(table, [label, *cells])
    _print(table)


def _totals(name: str, values: list[Any]) -> Iterable[tuple[str, list[Any]]]:
    """Return the rows of one total, which may have parts."""
    if not isinstance(values[0], Mapping):
        yield name.replace("_", " "), [_total(name, value) for value in values]
        return
    for part in values[0]:
        cells = [value[part] if value else None for value in values]
        yield f"{name} {part}".replace("_", " "), cells


def _total(name: str, value: Any) -> Any:
    if name == "error_rate":
        return _percent(value)
    return _moment(value) if name.endswith("_visit") else value


def trends(body: Row) -> None:
    """Print the buckets, newest first, and a bar for the hits of each."""
    _buckets(body["trends"], f"{body['granularity']}, {_when(body)}")
    if "previous" in body:
        _buckets(body["previous"]["trends"], "before")


def _buckets(rows: list[Row], caption: str) -> None:
    table = _table("time", "hits", "users", "endpoints", *_outcome_heads(rows), "")
    most = max((row["hits"] for row in rows), default=0)
    for row in rows:
        part = " (partly)" if row.get("partial") else ""
        time = row["time_bucket"].replace("T", " ").removesuffix(":00Z")
        cells = [f"{time}{part}", row["hits"], row["unique_users"]]
        _add(table, [*cells, row["unique_endpoints"], *_outcomes(row), _bar(row["hits"], most)])
    _print(table, caption)


def breakdown(body: Row) -> None:
    """Print the values that most visits have."""
    rows = body["breakdown"]
    table = _table(body["by"], "hits", "users", "")
    most = max((row["hits"] for row in rows), default=0)
    for row in rows:
        bar = _bar(row["hits"], most)
        _add(table, [row["value"], row["hits"], row["unique_users"], bar])
    _print(table, f"{shown(len(rows))} of {shown(body['total_values'])} values, {_when(body)}")


def visits(body: Row) -> None:
    """Print visits, newest first."""
    heads = ["time", "method", "endpoint", "user", "address", "user agent", "referer"]
    more = [name for name in (body["visits"] or [{}])[0] if name not in _VISIT]
    table = _table(*heads, *more)
    for visit in body["visits"]:
        user = (visit["user_hash"] or "-")[:USER_SHOWN]
        cells = [_moment(visit["timestamp"]), visit["method"], visit["endpoint"], user]
        cells += [visit["ip_address"], visit["user_agent"], visit["referer"]]
        _add(table, cells + [visit[name] for name in more])
    _print(table, f"{shown(body['count'])} visits")


def user(body: Row) -> None:
    """Print what one user did, the newest sessions first."""
    totals = {name: _total(name, body[name]) for name in ("first_visit", "last_visit", "visits")}
    facts(totals | {f"sessions {name}": value for name, value in body["sessions"].items()})
    for session in body["path"]:
        table = _table("time", "method", "path", "status")
        for step in session["steps"]:
            time = _moment(step["timestamp"])
            _add(table, [time, step["method"], step["path"], step["status"]])
        _print(table, f"{shown(session['visits'])} visits in {session['duration_seconds']} s")


_VISIT = "user_hash endpoint method ip_address user_agent referer timestamp".split()
_NUMBERS = "hits users endpoints errors p50 p90 p99 bytes".split()
# On a narrow terminal: never broken, or cut before another cell takes several lines.
_WHOLE = {*_NUMBERS, "time", "method", "user", "address", "hits before", "status"}
_CUT = {"user agent", "referer", "last access"}


def line(visit: Row) -> str:
    """Return one visit of an export as a line of a log that people read."""
    path = visit["path"] or visit["endpoint"]
    time = _moment(iso_timestamp(visit["timestamp"]))
    parts = [time, visit["ip_address"] or "-", visit["method"], path, visit["status"] or "-"]
    parts += [_duration(visit["duration_us"]), visit["error"], visit["user_agent"]]
    return "  ".join(printable(part) for part in parts if part is not None)


def facts(rows: Mapping[str, object]) -> None:
    """Print names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), Text(shown(value)))
    console().print(table)


def _table(*heads: str) -> Table:
    is_terminal = sys.stdout.isatty()
    table = Table(
        box=box.SIMPLE_HEAD if is_terminal else None, pad_edge=False, collapse_padding=is_terminal
    )
    for head in heads:
        justify: Any = "right" if head in _NUMBERS else "left"
        overflow: Any = "ellipsis" if head in _CUT else "fold"
        table.add_column(
            head.replace("_", " "), justify=justify, overflow=overflow, no_wrap=head in _WHOLE
        )
    return table


def _add(table: Table, cells: Iterable[Any]) -> None:
    table.add_row(
        *(
            cell if isinstance(cell, Bar) else Text(shown(cell), no_wrap=column.overflow != "fold")
            for cell, column in zip(cells, table.columns, strict=True)
        )
    )


def _print(table: RenderableType, caption: str = "") -> None:
    console().print(table)
    if caption:
        click.echo(caption)


def _bar(hits: int, most: int) -> Bar:
    return Bar(max(most, 1), 0, hits, width=BAR_WIDTH, color="cyan")


def _outcome_heads(rows: list[Row]) -> list[str]:
    first = rows[0] if rows else {}
    heads = ["errors"] if "error_rate" in first else []
    heads += ["p50", "p90", "p99"] if "duration_us" in first else []
    return heads + (["bytes"] if "bytes_sent" in first else [])


def _outcomes(row: Row) -> list[Any]:
    cells: list[Any] = [_percent(row["error_rate"])] if "error_rate" in row else []
    cells += [_duration(us) for us in row.get("duration_us", {}).values()]
    return cells + ([row["bytes_sent"]] if "bytes_sent" in row else [])


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _duration(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    is_short = microseconds < 1000
    return f"{microseconds} µs" if is_short else f"{microseconds / 1000:,.1f} ms"


def _moment(timestamp: str | None) -> str | None:
    return timestamp and timestamp.replace("T", " ").replace("Z", "")


def _when(body: Row) -> str:
    """Return which time a report is about."""
    period: str | None = body.get("period")
    if period is None:
        start, end = (_moment(body[name]) or "now" for name in ("start", "end"))
        return " to ".join(moment.removesuffix(" 00:00:00") for moment in (start, end))
    return _PERIODS.get(period, period)


_PERIODS = {
    "day": "last 24 hours",
    "week": "last 7 days",
    "month": "last 30 days",
    "year": "last 365 days",
    "all": "all time",
    "24h": "last 24 hours",
    "7d": "last 7 days",
    "30d": "last 30 days",
    "1y": "last 365 days",
}
