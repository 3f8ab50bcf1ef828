"""A selection as SQL of ClickHouse: what of a visit is asked for, and which visits are meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...selection import Filter, Selection
from .literals import glob_pattern, literal

_AUTHORITY = "extract(referer, '(?s)^.*?://([^/]*)')"
REFERER_HOST = rf"""
nullIf(lower(if(match({_AUTHORITY}, ':[0-9]') AND NOT endsWith({_AUTHORITY}, ']'),
    replaceRegexpOne({_AUTHORITY}, ':*[0-9]*\\z', ''), {_AUTHORITY})), '')"""
# The newest word on each user agent holds.
AGENTS = """
SELECT user_agent, argMax(class, at) AS class, argMax(browser, at) AS browser,
    argMax(system, at) AS system FROM user_agents GROUP BY user_agent"""
OF_AGENTS = ("class", "browser", "system")
COLUMNS = {"path": "ifNull(path, endpoint)", "referer_host": REFERER_HOST}


def column(name: str) -> str:
    """Return what of a visit a filter or breakdown is about; not of its user agent."""
    return COLUMNS.get(name, name)


def where(selection: Selection) -> str:
    """Return what visits of a selection fulfil."""
    conditions = [f"timestamp >= {literal(selection.start)}"]
    if selection.end is not None:
        conditions.append(f"timestamp < {literal(selection.end)}")
    return " AND ".join([*conditions, *map(_condition, selection.filters)])


def _condition(wanted: Filter) -> str:
    values = [value for value in wanted.values if value is not None]
    condition = f"ifNull({_is_one_of(wanted, values)}, 0)"
    if None in wanted.values:
        condition = f"({condition} OR {_is_missing(wanted.name)})"
    return f"NOT {condition}" if wanted.excluded else condition


def _is_one_of(wanted: Filter, values: Sequence[str]) -> str:
    if not values:
        return "0"
    if wanted.name == "class":
        return _is_of_class(values)
    if wanted.name == "status":
        return _any(map(_is_status, values))
    if wanted.name in OF_AGENTS:
        return _is_agent(_fits(wanted.name, values, is_exact=wanted.is_exact))
    return _fits(column(wanted.name), values, is_exact=wanted.is_exact)


def _is_missing(name: str) -> str:
    if name in ("path", "class"):
        return "0"
    if name in OF_AGENTS:
        return f"(isNull(user_agent) OR NOT {_is_agent(f'isNotNull({name})')})"
    return f"isNull({column(name)})"


def _is_agent(condition: str) -> str:
    """Return that a visit's user agent is one of those that fulfil a condition."""
    return f"(user_agent GLOBAL IN (SELECT user_agent FROM ({AGENTS}) WHERE {condition}))"


def _is_of_class(classes: Sequence[str]) -> str:
    # A visit without any is of the empty class; what nobody has classified is unknown.
    conditions = []
    if "empty" in classes:
        conditions.append("isNull(user_agent)")
    if "unknown" in classes:
        others = f"class NOT IN ({literal(classes)})"
        conditions.append(f"(isNotNull(user_agent) AND NOT {_is_agent(others)})")
    else:
        conditions.append(_is_agent(f"class IN ({literal(classes)})"))
    return _any(conditions)


def _is_status(value: str) -> str:
    # A class, 4xx, is what its first digit says.
    if value.endswith("xx"):
        return f"intDiv(status, 100) = {literal(int(value[0]))}"
    return f"status = {literal(int(value))}"


def _fits(text: str, values: Sequence[str], *, is_exact: bool = False) -> str:
    """Return that a text is one of these, or what a glob among them fits."""
    conditions = [f"{text} IN ({literal(values)})"]
    if not is_exact:
        globs = [value for value in values if set("*?[") & set(value)]
        conditions += [f"match({text}, {literal(glob_pattern(glob))})" for glob in globs]
    return _any(conditions)


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions)})"
