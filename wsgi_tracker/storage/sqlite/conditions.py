"""A selection as SQL over the table of visits: what it is made of, and where its strings stand.

Each string of visits is kept once, in a table of its own; so a filter is tried on every string
there, and visits are asked for its number alone. Every value is bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...selection import Filter, Selection
from .classes import CLASS_OF_VISIT

# Of an address after its scheme: up to the path, and without a port.
_AFTER_SCHEME = "substr(referer, instr(referer, '://') + 3)"
_AUTHORITY = f"substr({_AFTER_SCHEME}, 1, instr({_AFTER_SCHEME} || '/', '/') - 1)"
REFERER_HOST = f"""
CASE WHEN instr(referer, '://') > 0 THEN nullif(lower(CASE
    WHEN {_AUTHORITY} GLOB '*:[0-9]*' AND NOT {_AUTHORITY} GLOB '*]'
    THEN rtrim(rtrim({_AUTHORITY}, '0123456789'), ':') ELSE {_AUTHORITY} END), '') END"""


@dataclass(frozen=True, slots=True)
class Strings:
    """What of a visit is a string of a table: the visits' column, the table, and the string.

    ``is_unique`` where no two rows of the table have the same one.
    """

    column: str
    table: str
    text: str
    is_unique: bool = False


STRINGS = {
    "endpoint": Strings("endpoint_id", "endpoints", "endpoint"),
    "method": Strings("endpoint_id", "endpoints", "method"),
    "host": Strings("host_id", "hosts", "host", is_unique=True),
    "referer": Strings("referer_id", "referers", "referer", is_unique=True),
    "referer_host": Strings("referer_id", "referers", REFERER_HOST),
    "browser": Strings("user_agent_id", "user_agents", "browser"),
    "system": Strings("user_agent_id", "user_agents", "system"),
    "user_agent": Strings("user_agent_id", "user_agents", "user_agent", is_unique=True),
    "ip_address": Strings("ip_address_id", "ip_addresses", "ip_address", is_unique=True),
    "user_hash": Strings("user_id", "users", "user_hash", is_unique=True),
}
# What the index of timestamps tells without a look at the visit.
INDEXED = {"endpoint", "method", "user_hash"}
# Of these few visits are left as a rule, which another index finds.
SELECTIVE = {"endpoint", "user_hash"}


@dataclass(slots=True)
class Rows:
    """The visits of a selection: what stands behind FROM, behind WHERE, and for its ``:names``."""

    source: str
    where: str
    values: dict[str, Any] = field(default_factory=dict)


def rows_of(selection: Selection, *, ordered: bool = False) -> Rows:
    """Return where the visits of a selection are; ``ordered`` if the first by time are enough."""
    values: dict[str, Any] = {"start": selection.start}
    conditions = ["timestamp >= :start"]
    if selection.end is not None:
        values["end"] = selection.end
        conditions.append("timestamp < :end")
    for number, each in enumerate(selection.filters):
        condition, more = _condition(each, f"filter{number}_")
        conditions.append(condition)
        values.update(more)
    return Rows(_source(selection, ordered), " AND ".join(conditions), values)


def _source(selection: Selection, ordered: bool) -> str:
    if any(each.name in SELECTIVE and not each.excluded for each in selection.filters):
        return "visits"
    names = {each.name for each in selection.filters}
    is_all = selection.start <= 0 and selection.end is None
    if is_all and names - INDEXED and not ordered:
        return "visits NOT INDEXED"
    return "visits INDEXED BY visits_timestamp"


def _condition(wanted: Filter, prefix: str) -> tuple[str, Mapping[str, Any]]:
    values = {f"{prefix}{n}": v for n, v in enumerate(wanted.values) if v is not None}
    condition = _CONDITIONS.get(wanted.name, _of_strings)(wanted, values)
    # As fnmatch has it, and so does exclude=; SQLite negates by ^.
    values |= {f"{name}_glob": value.replace("[!", "[^") for name, value in values.items()}
    if None in wanted.values:
        condition = f"({condition} OR {_MISSING.get(wanted.name, _is_missing)(wanted.name)})"
    # NULL, where a visit has none, is not true either way.
    return f"NOT coalesce({condition}, 0)" if wanted.excluded else condition, values


def _of_strings(wanted: Filter, values: Mapping[str, str]) -> str:
    strings = STRINGS[wanted.name]
    return _is_in(strings, _fits(strings.text, values, is_exact=wanted.is_exact))


def _is_in(strings: Strings, condition: str) -> str:
    return f"{strings.column} IN (SELECT id FROM {strings.table} WHERE {condition})"


def _is_missing(name: str) -> str:
    strings = STRINGS[name]
    return f"({strings.column} IS NULL OR {_is_in(strings, f'{strings.text} IS NULL')})"


def _of_paths(wanted: Filter, values: Mapping[str, str]) -> str:
    own = _is_in(Strings("path_id", "paths", "path"), _fits("path", values))
    same = _is_in(STRINGS["endpoint"], _fits("endpoint", values))
    return f"({own} OR (path_id IS NULL AND {same}))"


def _of_class(wanted: Filter, values: Mapping[str, str]) -> str:
    names = ", ".join(f":{name}" for name in values)
    return f"{CLASS_OF_VISIT} IN ({names})"


def _of_error(wanted: Filter, values: Mapping[str, str]) -> str:
    return _fits("error", values)


def _of_status(wanted: Filter, values: Mapping[str, str]) -> str:
    # A class, 4xx, is what its first digit says.
    parts = [
        f"status / 100 = CAST(:{name} AS INTEGER)"
        if value.endswith("xx")
        else f"status = CAST(:{name} AS INTEGER)"
        for name, value in values.items()
    ]
    return f"({' OR '.join(parts or ['0'])})"


def _fits(text: str, values: Mapping[str, str], *, is_exact: bool = False) -> str:
    """Return whether a text is one of these, or what a glob among them fits."""
    parts = []
    for name, value in values.items():
        parts.append(f"{text} = :{name}")
        if not is_exact and set("*?[") & set(value):
            parts.append(f"{text} GLOB :{name}_glob")
    return f"({' OR '.join(parts or ['0'])})"


_CONDITIONS: dict[str, Callable[[Filter, Mapping[str, str]], str]] = {
    "path": _of_paths,
    "class": _of_class,
    "error": _of_error,
    "status": _of_status,
}
_MISSING: dict[str, Callable[[str], str]] = {
    "path": lambda _: "0",
    "class": lambda _: "0",
    "error": lambda _: "error IS NULL",
    "status": lambda _: "status IS NULL",
}
