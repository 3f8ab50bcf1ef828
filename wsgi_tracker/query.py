"""What is asked: which parameters each report takes, and a query string, parsed and validated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any
from urllib.parse import parse_qsl, urlencode

from .agents import CLASSES
from .errors import QueryError
from .latency import ERROR_PERCENT
from .paging import DEFAULT_SORT, SORTS
from .parameters import (
    NEEDED,
    Choice,
    Choices,
    Cursor,
    Flag,
    Moment,
    Parameter,
    Place,
    Text,
    Whole,
    Words,
    Zone,
    shown,
)
from .period import PERIODS, TREND_PERIODS, Granularity
from .reports import VISIT_FIELDS
from .selection import BREAKDOWNS, FILTERS, Filter, Selection
from .spans import DAYS, YESTERDAY, Span, span_of_day, span_of_period, span_of_range
from .visit import METHODS, OTHER_METHOD

ARRIVAL = "arrival"
NAMES_SHOWN = 60
SIMPLE = {"granularity", "period", "start", "class", "limit", "sort", "fill"}
LENGTHS = {**PERIODS, **TREND_PERIODS}
RANGE: tuple[Parameter, ...] = (
    Moment("start", "From then on, in place of a period."),
    Moment("end", "Before then; what begins with it is left out."),
    Zone("tz", "Of dates, days, weeks and months, in place of the database's time zone."),
)
TEXTS = {
    "endpoint": "Visits of this endpoint.",
    "path": "Visits of this path, which is the endpoint's where there is no route.",
    "host": "Visits to this host.",
    "referer": "Visits from this page; empty: from none.",
    "referer_host": "Visits from pages of this host; empty: from none.",
    "browser": "Visits by this browser; empty: by what is none.",
    "system": "Visits from this operating system; empty: from none that is known.",
    "user_agent": "Visits by this user agent; empty: by none.",
    "error": "Visits that ended with this exception, or client_left; empty: with none.",
    "ip_address": "Visits from this address; empty: from none that is stored.",
    "user_hash": "Visits of this user; empty: of nobody.",
}
GLOBS = "The whole text, or a glob (*, ?, [ab], [!ab]); after - all others."
WORDS = {
    "method": Words(
        "method",
        "|".join(map(re.escape, sorted({*METHODS, OTHER_METHOD}))),
        f"one of {', '.join(sorted(METHODS))}, or {OTHER_METHOD} for any other, or several with "
        f"commas, or all others, as -GET",
        "Visits with this method, or these.",
    ),
    "status": Words(
        "status",
        "[1-9][0-9][0-9]|[1-9]xx",
        "404 or another status, 4xx for a class, several with commas, or -404 for all others",
        "Visits with this status, or these.",
    ),
    "class": Words(
        "class",
        "|".join(CLASSES),
        f"one of all, {', '.join(CLASSES)}, or several with commas, or all others, as -human",
        "Visits of user agents of this class, or these.",
        every="all",
    ),
}
FILTER_PARAMETERS: tuple[Parameter, ...] = tuple(
    WORDS[name] if name in WORDS else Text(name, f"{TEXTS[name]} {GLOBS}") for name in FILTERS
)


def _period(choices: Sequence[str], default: str) -> Choice:
    return Choice(
        "period",
        (*choices, *DAYS),
        default,
        "So long before now, to now; or a day of the time zone.",
    )


COMPARE = Choice(
    "compare", ("previous",), None, "Add the same of as long a time before, or of the day before."
)
OUTCOMES = {
    "status": "hits of each class of status, and the share of 5xx as error_rate",
    "latency": f"durations that 50, 90 and 99 % do not exceed, within {ERROR_PERCENT} % either way",
    "bytes": "bytes sent",
}
SESSIONS = "sessions, which end with 30 idle minutes"
CURSOR = Cursor("cursor", "Where a page goes on: what the header Link of the page before says.")


def _include(words: Mapping[str, str]) -> Choices:
    meanings = "; ".join(f"{word}: {meaning}" for word, meaning in words.items())
    return Choices("include", tuple(words), f"Add, with commas between: {meanings}.")


STATS: tuple[Parameter, ...] = (
    _period(tuple(PERIODS), "all"),
    *RANGE,
    COMPARE,
    _include(OUTCOMES),
    Choice(
        "sort",
        (*SORTS, *(f"-{name}" for name in SORTS)),
        DEFAULT_SORT,
        "What rows are sorted by, after - from the greatest; it is included.",
    ),
    Whole("limit", 1, 1000, None, "How many rows at most."),
    CURSOR,
    *FILTER_PARAMETERS,
)
SUMMARY: tuple[Parameter, ...] = (
    _period(tuple(PERIODS), "all"),
    *RANGE,
    COMPARE,
    _include({**OUTCOMES, "sessions": SESSIONS}),
    *FILTER_PARAMETERS,
)
TRENDS: tuple[Parameter, ...] = (
    Choice(
        "granularity",
        tuple(granularity.value for granularity in Granularity),
        "day",
        "How long a bucket is; weeks begin on Monday.",
    ),
    _period(tuple(TREND_PERIODS), "7d"),
    *RANGE,
    COMPARE,
    Flag("fill", "Add buckets without visits, and say of each whether a part of it is left out."),
    _include(OUTCOMES),
    *FILTER_PARAMETERS,
)
VISITS: tuple[Parameter, ...] = (
    Whole("limit", 1, 1000, 50, "How many visits at most."),
    CURSOR,
    Choices("include", tuple(VISIT_FIELDS), "Add these, with commas between."),
    _period(tuple(PERIODS), "all"),
    *RANGE,
    *FILTER_PARAMETERS,
)

BREAKDOWN: tuple[Parameter, ...] = (
    Choice("by", tuple(BREAKDOWNS), NEEDED, "What visits are grouped by."),
    Whole("limit", 1, 1000, 50, "How many values at most."),
    _period(tuple(PERIODS), "week"),
    *RANGE,
    *FILTER_PARAMETERS,
)
USER: tuple[Parameter, ...] = (
    Whole("limit", 1, 1000, 200, "How many visits of the path at most."),
    CURSOR,
    _period(tuple(PERIODS), "all"),
    *RANGE,
    *(each for each in FILTER_PARAMETERS if each.name != "user_hash"),
)
EXPORT: tuple[Parameter, ...] = (
    Choice("format", ("ndjson", "csv"), "ndjson", "One JSON object per line, or CSV."),
    Choice(
        "order",
        ("time", ARRIVAL),
        "time",
        "Oldest first; or as they reached the database, so that who goes on by a cursor misses none "
        "that took long.",
    ),
    Place("cursor", "Visits behind that of the last line that arrived, of the same export."),
    _period(tuple(PERIODS), "all"),
    *RANGE,
    *FILTER_PARAMETERS,
)
LIVE: tuple[Parameter, ...] = (
    Whole("minutes", 1, 60, 10, "How many minutes, to now, are told one by one."),
    *FILTER_PARAMETERS,
)


class Question:
    """What is asked of one report: a value for each of its parameters, by name."""

    def __init__(
        self,
        given: Mapping[str, Any],
        parameters: Sequence[Parameter],
        pairs: Sequence[tuple[str, str]],
    ) -> None:
        if "period" in given and not given.keys().isdisjoint(("start", "end")):
            raise QueryError("period is left out where start or end is given", "period")
        self._given = given
        self._pairs = pairs
        self._defaults = {parameter.name: parameter.default for parameter in parameters}

    def __getitem__(self, name: str) -> Any:
        return self._given.get(name, self._defaults.get(name))

    def with_cursor(self, cursor: str) -> str:
        """Return the query string of the next page."""
        rest = [(name, value) for name, value in self._pairs if name != "cursor"]
        return urlencode([*rest, ("cursor", cursor)])

    @property
    def period(self) -> str | None:
        """The name of the period; ``None`` for a range."""
        return None if self._is_range else self["period"]

    @property
    def _is_range(self) -> bool:
        return not self._given.keys().isdisjoint(("start", "end"))

    @property
    def include(self) -> frozenset[str]:
        """What is added to each row, as what it is sorted by."""
        needed = SORTS[(self["sort"] or DEFAULT_SORT).removeprefix("-")]
        asked: frozenset[str] = self["include"] or frozenset()
        return asked | {needed} if needed else asked

    @property
    def is_simple(self) -> bool:
        """Whether counters may know: it reaches to now, over all visitors or one class of them."""
        return (
            self._given.keys() <= SIMPLE
            and self["period"] != YESTERDAY
            and not self.include
            and Selection(0, None, self.filters).is_simple
        )

    def span(self, now: int, zone: tzinfo) -> Span:
        """Return the time that is asked about, at the time ``now`` in µs since the epoch."""
        if self._is_range:
            return span_of_range(self["start"], self["end"], now, zone)
        if self["period"] in DAYS:
            return span_of_day(self["period"], now, zone)
        return span_of_period(LENGTHS[self["period"]], now)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """What is asked for of visits."""
        found = (self._given.get(name) for name in FILTERS)
        return tuple(each for each in found if each is not None)


def parse_query(query_string: str, parameters: Sequence[Parameter]) -> Question:
    """Return what is asked; :exc:`QueryError` says what is wrong, and what is allowed."""
    known = {parameter.name: parameter for parameter in parameters}
    given: dict[str, Any] = {}
    pairs = parse_qsl(query_string, keep_blank_values=True)
    for name, value in pairs:
        if name not in known:
            raise QueryError(
                f"there is no parameter {shown(name)}; known: {', '.join(known) or 'none'}",
                name[:NAMES_SHOWN],
            )
        if name in given:
            raise QueryError(f"{name} is given twice", name)
        given[name] = known[name].parse(value)
    for parameter in parameters:
        if parameter.default is NEEDED and parameter.name not in given:
            allowed = ", ".join(parameter.schema["enum"])
            raise QueryError(f"{parameter.name} is needed: one of {allowed}", parameter.name)
    return Question(given, parameters, pairs)
