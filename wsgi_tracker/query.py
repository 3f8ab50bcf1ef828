"""What is asked: a query string, parsed and validated. Nothing is guessed, clamped or ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from .agents import CLASSES, ClassFilter
from .errors import QueryError
from .period import PERIODS, TREND_PERIODS, Granularity

SHOWN = 60


class Parameter(Protocol):
    """One parameter that a report takes."""

    @property
    def name(self) -> str:
        """As it stands in the query string."""

    @property
    def default(self) -> Any:
        """What its absence means."""

    def parse(self, value: str) -> Any:
        """Return what ``value`` means; :exc:`QueryError` says what is allowed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    name: str
    choices: tuple[str, ...]
    default: str

    def parse(self, value: str) -> str:
        """Return the word."""
        if value not in self.choices:
            raise QueryError(
                f"{self.name} is one of {', '.join(self.choices)}; given {_shown(value)}", self.name
            )
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    name: str
    smallest: int
    largest: int
    default: int

    def parse(self, value: str) -> int:
        """Return the number."""
        # int() also takes ' 1_0', '+1' and other digits; six are more than any bound has.
        digits = value.lstrip("0") or "0"
        if value.isascii() and value.isdigit() and len(digits) <= 6:
            number = int(digits)
            if self.smallest <= number <= self.largest:
                return number
        raise QueryError(
            f"{self.name} is a whole number from {self.smallest} to {self.largest}; "
            f"given {_shown(value)}",
            self.name,
        )


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """A class of user agents, or all but one, or all."""

    name: str = "class"
    choices: tuple[str, ...] = ("all", *CLASSES)
    default: ClassFilter | None = None

    def parse(self, value: str) -> ClassFilter | None:
        """Return what to leave out; nothing for all."""
        if value == "all":
            return None
        name = value.removeprefix("-")
        if name not in CLASSES:
            raise QueryError(
                f"{self.name} is one of {', '.join(self.choices)}, or all but one, as -human; "
                f"given {_shown(value)}",
                self.name,
            )
        return ClassFilter(name, excluded=value != name)


STATS = (Choice("period", tuple(PERIODS), "all"), ClassChoice())
SUMMARY = (Choice("period", tuple(PERIODS), "all"), ClassChoice())
TRENDS = (
    Choice("granularity", tuple(granularity.value for granularity in Granularity), "day"),
    Choice("period", tuple(TREND_PERIODS), "7d"),
    ClassChoice(),
)
VISITS = (Whole("limit", 1, 1000, 50), ClassChoice())
HEALTH: tuple[Parameter, ...] = ()


def parse_query(query_string: str, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return a value for every parameter, by its name."""
    known = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query_string, keep_blank_values=True):
        if name not in known:
            raise QueryError(
                f"there is no parameter {_shown(name)}; known: {', '.join(known) or 'none'}",
                name[:SHOWN],
            )
        if name in found:
            raise QueryError(f"{name} is given twice", name)
        found[name] = known[name].parse(value)
    return {name: found.get(name, parameter.default) for name, parameter in known.items()}


def _shown(value: str) -> str:
    return repr(value if len(value) <= SHOWN else value[:SHOWN] + "...")
