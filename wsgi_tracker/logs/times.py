"""When a request was, as logs write it: a strftime format, or a number since the epoch.

A date is understood once a minute: most lines cost a look into a dictionary. The names of months
are English whatever the locale is; a time that says no zone is UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone

from ..errors import ConfigurationError
from ..period import LAST_TIMESTAMP, SECOND
from .entry import BadLineError, excerpt

COMPONENTS = frozenset("year month day yearday hour half minute second zone".split())
# A leap second counts as the one before, which is of the same minute, and year.
SECONDS = {f"{second:02}": min(second, 59) * SECOND for second in range(61)}
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ZONES = ("Z", "UTC", "GMT")
_MANY_MINUTES = 10_000
_DIRECTIVE = re.compile(r"%[EO_0^#-]?[A-Za-z%]|[^%]+|%")
_SHORT = {
    "c": "%a %b %e %H:%M:%S %Y",
    "D": "%m/%d/%y",
    "F": "%Y-%m-%d",
    "R": "%H:%M",
    "r": "%I:%M:%S %p",
    "T": "%H:%M:%S",
    "x": "%m/%d/%y",
    "X": "%H:%M:%S",
}
_REGEXES = {
    **dict.fromkeys("Y", r"(?P<year>\d{4})"),
    **dict.fromkeys("y", r"(?P<year>\d\d)"),
    **dict.fromkeys("m", r"(?P<month>\d\d)"),
    **dict.fromkeys("bh", r"(?P<month>[A-Z][a-z]{2})"),
    **dict.fromkeys("B", r"(?P<month>[A-Z][a-z]{2})[a-z]{0,6}"),
    **dict.fromkeys("de", r"(?P<day>[ \d]?\d)"),
    **dict.fromkeys("j", r"(?P<yearday>\d{3})"),
    **dict.fromkeys("HkIl", r"(?P<hour>[ \d]?\d)"),
    **dict.fromkeys("pP", r"(?P<half>[AaPp][Mm])"),
    **dict.fromkeys("M", r"(?P<minute>[0-5]\d)"),
    **dict.fromkeys("S", r"(?P<second>[0-5]\d|60)"),
    **dict.fromkeys("s", r"(?P<epoch>\d{1,12})"),
    **dict.fromkeys("z", r"(?P<zone>[+-]\d\d:?\d\d|Z)"),
    **dict.fromkeys("Z", r"(?P<zone>[+-]\d\d|[A-Z]{1,5})"),
    **dict.fromkeys("aA", r"[A-Z][a-z]{2,8}"),
    **dict.fromkeys("uw", r"\d"),
    **dict.fromkeys("CgUVW", r"\d\d"),
    **dict.fromkeys("G", r"\d{4}"),
    **dict.fromkeys("n", r"\n"),
    **dict.fromkeys("t", r"\t"),
    **dict.fromkeys("%", "%"),
}


def strftime_regexes(pattern: str) -> Iterator[str]:
    """Yield regular expressions of what strftime writes, seconds each in one of its own."""
    regex = ""
    for part in _parts(pattern):
        if part in ("%S", "%s"):
            yield from filter(None, (regex, _REGEXES[part[1]]))
            regex = ""
        elif part[0] == "%":
            regex += _REGEXES[part[-1]]
        else:
            regex += re.escape(part)
    if regex:
        yield regex


def _parts(pattern: str) -> Iterator[str]:
    for part in _DIRECTIVE.findall(pattern):
        letter = part[-1] if part[0] == "%" else "%"
        if letter in _SHORT:
            yield from _parts(_SHORT[letter])
        elif letter in _REGEXES and part != "%":
            yield "%" + letter if part[0] == "%" else part
        else:
            raise ConfigurationError(f"strftime has no {part}; given {pattern!r}")


def check_time(name: str, filled: set[str]) -> None:
    """Refuse a format that does not say when a request was, to the minute."""
    if "epoch" in filled:
        return
    date = {"month", "day"} <= filled or "yearday" in filled
    if not (date and {"year", "hour", "minute"} <= filled):
        raise ConfigurationError(
            f"a log format tells year, month, day, hour and minute of a request; given {name!r}"
        )


class Minutes(dict[str, int]):
    """Microseconds from the epoch to a minute, by what a line says of it; bounded.

    ``regex`` takes what is said apart. Not locked: threads that race compute the same.
    """

    def __init__(self, regex: str) -> None:
        super().__init__()
        self._parts_of = re.compile(regex, re.ASCII).fullmatch

    def __missing__(self, moment: str) -> int:
        parts = self._parts_of(moment)
        try:
            if parts is None:
                raise ValueError
            start = _minute(parts.groupdict()) * SECOND
        except (ValueError, OverflowError) as error:
            raise BadLineError(f"there is no such date: {excerpt(moment.strip())}") from error
        if len(self) >= _MANY_MINUTES:
            self.clear()
        self[moment] = start = checked(start, moment)
        return start


def _minute(parts: Mapping[str, str]) -> int:
    """Return seconds since the epoch; raises :exc:`ValueError`."""
    year = int(parts["year"])
    if len(parts["year"]) == 2:
        year += 1900 if year >= 69 else 2000  # POSIX
    month, day = parts.get("month", "1"), parts.get("day", "1")
    moment = datetime(
        year,
        int(month) if month.isdecimal() else MONTHS.index(month) + 1,
        int(day),
        _hour(int(parts["hour"]), parts.get("half", "")),
        int(parts["minute"]),
        tzinfo=_zone(parts.get("zone", "Z")),
    )
    if "yearday" in parts and "month" not in parts:
        moment += timedelta(days=int(parts["yearday"]) - 1)
    return (moment - _EPOCH) // timedelta(seconds=1)


def _hour(hour: int, half: str) -> int:
    return hour % 12 + (12 if half[0] in "Pp" else 0) if half else hour


def _zone(text: str) -> timezone:
    if text in _ZONES:
        return timezone.utc
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def checked(timestamp: int, said: str) -> int:
    """Return a timestamp that dates can show."""
    if not 0 <= timestamp <= LAST_TIMESTAMP:
        raise BadLineError(f"the time is not in the years 1970 to 9999: {excerpt(said.strip())}")
    return timestamp


def epoch_timestamp(number: str, scale: int) -> int:
    """Return the timestamp of a number since the epoch, with or without decimals."""
    value = int(number) * scale if number.isdecimal() else round(float(number) * scale)
    return checked(value, number)


def timestamp_reader(
    at: Mapping[str, int], minutes: Minutes, scale: int
) -> Callable[[re.Match[str]], int]:
    """Return what makes a timestamp of a match, however many pieces it is in.

    ``at`` has the numbers of groups, ``scale`` is the number of microseconds of one since the epoch.
    """
    moments = [at[name] for name in sorted(at) if name.startswith("moment")]
    second, fraction = (at.get(name, at["nothing"]) for name in ("second", "fraction"))
    epoch = at.get("epoch", at["nothing"])

    def read(match: re.Match[str]) -> int:
        part = (match[fraction] or "").ljust(6, "0")
        number = match[epoch]
        if number is not None:
            return epoch_timestamp(number, scale) + int(part[:6])
        start = minutes["".join(match[moment] for moment in moments)]
        return start + SECONDS[match[second] or "00"] + int(part[:6])

    return read
