"""The kinds of parameters that a query string has: what each allows, and what it means.

Nothing is guessed, clamped or ignored: what is not allowed raises :exc:`QueryError`, which says what
is. Each tells its schema, too, as OpenAPI has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import Any, Protocol

from .errors import QueryError
from .period import LAST_TIMESTAMP, SECOND, load_zone, zone_names
from .selection import Filter

SHOWN = 60
LONGEST_VALUE = 2048
NEEDED = object()


class Parameter(Protocol):
    """One parameter that a report takes."""

    @property
    def name(self) -> str:
        """As it stands in the query string."""

    @property
    def description(self) -> str:
        """What it does, in a sentence or two."""

    @property
    def default(self) -> Any:
        """What its absence means; :data:`NEEDED` that it has to be there."""

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""

    def parse(self, value: str) -> Any:
        """Return what ``value`` means; :exc:`QueryError` says what is allowed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    name: str
    choices: tuple[str, ...]
    default: Any
    description: str

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        default = {} if self.default in (None, NEEDED) else {"default": self.default}
        return {"type": "string", "enum": list(self.choices), **default}

    def parse(self, value: str) -> str:
        """Return the word."""
        if value not in self.choices:
            raise QueryError(
                f"{self.name} is one of {', '.join(self.choices)}; given {shown(value)}", self.name
            )
        return value


@dataclass(frozen=True, slots=True)
class Choices:
    """Some of a few words, separated by commas."""

    name: str
    choices: tuple[str, ...]
    description: str
    default: frozenset[str] = frozenset()

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        word = "|".join(self.choices)
        return {"type": "string", "pattern": f"^({word})(,({word}))*$"}

    def parse(self, value: str) -> frozenset[str]:
        """Return the words."""
        words = value.split(",")
        if not set(words) <= set(self.choices):
            raise QueryError(
                f"{self.name} holds {', '.join(self.choices)}, with commas between; "
                f"given {shown(value)}",
                self.name,
            )
        return frozenset(words)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    name: str
    description: str
    default: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        return {"type": "boolean", "default": self.default}

    def parse(self, value: str) -> bool:
        """Return whether it is true."""
        if value not in ("true", "false"):
            raise QueryError(f"{self.name} is true or false; given {shown(value)}", self.name)
        return value == "true"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    name: str
    smallest: int
    largest: int
    default: int | None
    description: str

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        default = {} if self.default is None else {"default": self.default}
        return {"type": "integer", "minimum": self.smallest, "maximum": self.largest, **default}

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
            f"given {shown(value)}",
            self.name,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A place among all visits: a timestamp, in µs since the epoch, and an id."""

    name: str
    description: str
    default: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        return {"type": "string", "pattern": "^[0-9]{1,18}-[0-9]{1,29}$"}

    def parse(self, value: str) -> tuple[int, int]:
        """Return the two."""
        found = re.fullmatch("([0-9]{1,18})-([0-9]{1,29})", value, re.ASCII)
        if found is None:
            raise QueryError(
                f"{self.name} is what the last line of an export says; given {shown(value)}",
                self.name,
            )
        return int(found[1]), int(found[2])


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of RFC 3339, or a date, which is the first moment of the day."""

    name: str
    description: str
    default: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        return {
            "type": "string",
            "anyOf": [{"format": "date"}, {"format": "date-time"}],
            "pattern": "^(19[7-9]|[2-9])",
        }

    def parse(self, value: str) -> date | int:
        """Return the date, or microseconds since the epoch."""
        found = _RFC3339.fullmatch(value)
        try:
            if found is not None and len(value) <= SHOWN:
                moment = _date_or_timestamp(*found.group(1, 2, 3, 4))
                if isinstance(moment, date) or 0 <= moment <= LAST_TIMESTAMP:
                    return moment
        except (ValueError, OverflowError):  # 30 February
            pass
        raise QueryError(
            f"{self.name} is a date, 2025-08-13, or a moment with its zone, "
            f"2025-08-13T15:30:00Z or 2025-08-13T15:30:00%2B02:00, from 1970 on; "
            f"given {shown(value)}",
            self.name,
        )


def _date_or_timestamp(
    day: str, clock: str | None, part: str | None, zone: str | None
) -> date | int:
    if clock is None or zone is None:
        parsed = date.fromisoformat(day)
        if parsed.year < 1970:
            raise ValueError(day)
        return parsed
    seconds = datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp()
    hours, minutes = (0, 0) if zone in "Zz" else (int(zone[1:3]), int(zone[4:]))
    if hours > 23 or minutes > 59:
        raise ValueError(zone)
    offset = (hours * 60 + minutes) * 60 * (-1 if zone[0] == "-" else 1)
    microseconds = int(((part or "") + "000000")[:6])
    return (round(seconds) - offset) * SECOND + microseconds


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone by its IANA name."""

    name: str
    description: str
    default: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        return {"$ref": "#/components/schemas/TimeZone"}

    def parse(self, value: str) -> tzinfo:
        """Return the time zone."""
        if value in zone_names():
            return load_zone(value)
        raise QueryError(
            f"{self.name} is a time zone's name, as Europe/Berlin or UTC; given {shown(value)}",
            self.name,
        )


@dataclass(frozen=True, slots=True)
class Text:
    """What of a visit is any text: the text itself, or a glob; after ``-`` all others."""

    name: str
    description: str
    default: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        return {"type": "string", "maxLength": LONGEST_VALUE, "pattern": "^[^\\u0000]*$"}

    def parse(self, value: str) -> Filter:
        """Return the filter."""
        if len(value) > LONGEST_VALUE or "\0" in value:
            raise QueryError(
                f"{self.name} has at most {LONGEST_VALUE} characters, none of them NUL; "
                f"given {shown(value)}",
                self.name,
            )
        text = value.removeprefix("-")
        return Filter(self.name, (text or None,), excluded=text != value)


@dataclass(frozen=True, slots=True)
class Words:
    """What of a visit is one of some words: one, or several with commas; after ``-`` all others."""

    name: str
    pattern: str
    meaning: str
    description: str
    every: str = ""  # what means the same as no filter
    default: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        words = f"-?({self.pattern})(,({self.pattern}))*"
        every = f"{self.every}|" if self.every else ""
        return {"type": "string", "pattern": f"^({every}{words})$", "maxLength": LONGEST_VALUE}

    def parse(self, value: str) -> Filter | None:
        """Return the filter, or nothing where it lets all through."""
        if self.every and value == self.every:
            return None
        text = value.removeprefix("-")
        words = text.split(",")
        if len(value) > LONGEST_VALUE or not all(
            re.fullmatch(self.pattern, word, re.ASCII) for word in words
        ):
            raise QueryError(f"{self.name} is {self.meaning}; given {shown(value)}", self.name)
        return Filter(self.name, tuple(dict.fromkeys(words)), excluded=text != value)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page goes on; what it holds is looked at by what makes pages."""

    name: str
    description: str
    default: None = None

    @property
    def schema(self) -> dict[str, Any]:
        """What it may be, as JSON Schema."""
        return {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}

    def parse(self, value: str) -> str:
        """Return it."""
        return value


def shown(value: str) -> str:
    """Return what was given, as a message shows it."""
    return repr(value if len(value) <= SHOWN else value[:SHOWN] + "...")
