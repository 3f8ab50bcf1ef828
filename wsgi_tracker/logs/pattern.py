"""A log format as literals and fields between them, compiled to one regular expression.

Most lines fit its strict form, in which a field ends where the literal behind it begins. Lines of
old software, with quotes inside quotes, fit the loose one, in which a field ends where all that
follows fits up to the next text. No line takes more than linear time: in the first form no field can
be cut in two ways, in the second each is cut once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import dropwhile
from typing import NamedTuple, TypeAlias

from ..errors import ConfigurationError
from .entry import BadLineError, LogEntry, excerpt, split_absolute, split_request
from .escapes import Escapes
from .times import COMPONENTS, SECONDS, Minutes, check_time, timestamp_reader

END = "\0"  # in a field's expression: the character that the literal behind it begins with
LINE_END = r"\r?\Z"
FLAGS = re.ASCII | re.DOTALL
# What a better field, if a format has it, leaves to no other.
IMPLIED: dict[str, Collection[str]] = {
    "target": ("path", "query"),
    "epoch": COMPONENTS,
}
_MOMENT_PARTS = COMPONENTS - {"second"}
_NAME = re.compile(r"\?P<(\w+)>")
_MOMENT = ("moment0", "second", "moment1")
_WANTED = """
    method target status bytes_sent duration address user user_agent referer host forwarded_for
""".split()
_REQUEST = ("request", "path", "query")


class Field(NamedTuple):
    """What varies from line to line: a regular expression whose groups are named by what they fill.

    ``loose`` takes any text, and is empty where only ``regex`` will do. Of fields that fill the
    same the one of the lowest rank counts, and of these the first. ``scale`` is how many
    microseconds are one of a duration, or of the time since the epoch.
    """

    regex: str
    loose: str = ""
    rank: int = 0
    scale: int = 1
    also: tuple[str, ...] = ()

    @property
    def fills(self) -> set[str]:
        """What no other field needs to tell."""
        names = {*_NAME.findall(self.regex), *self.also}
        return names.union(*(IMPLIED.get(name, ()) for name in names))


Piece: TypeAlias = "str | Field"
Reader: TypeAlias = "Callable[[str], LogEntry | None]"


def text(name: str, *, ends: str = "", rank: int = 0) -> Field:
    """Return a field of any text, or a dash for none, that does not hold a character of ``ends``."""
    # A dash is a value by itself: text that begins with one comes of columns that are shifted.
    any_character = f"[^{ends}]" if ends else "."
    return Field(
        f"(?:-|(?P<{name}>[^{ends}{END}]+))?",
        f"(?:-||(?P<{name}>(?!- ){any_character}+?))",
        rank,
    )


def number(name: str, *, rank: int = 0) -> Field:
    """Return a field of digits, or a dash for none."""
    return Field(rf"(?:-|None|(?P<{name}>\d{{1,18}}))?", rank=rank)


def duration(scale: int) -> Field:
    """Return a field of a time taken, with or without decimals."""
    # More digits would be no number that SQLite can store.
    return Field(r"(?:-[\d.]{0,20}|(?P<duration>\d{1,12}(?:\.\d{1,9})?))?", rank=scale, scale=scale)


class PatternFormat:
    """Reads the lines of one pattern; safe to share between threads."""

    def __init__(self, name: str, pieces: Sequence[Piece], escapes: Escapes) -> None:
        self.name = name
        self._escapes = escapes
        self._pieces = _choose(pieces)
        filled = set[str]().union(*(field.fills for field in _fields(self._pieces)))
        if filled.isdisjoint(("target", "path")):
            raise ConfigurationError(f"a log format tells what was asked for; given {name!r}")
        check_time(name, filled)
        moments = [field for field in _fields(self._pieces) if _is_moment(field)]
        self._minutes = Minutes("".join(field.regex for field in moments))
        self._strict = self._reader(_strict(self._pieces))

    def read(self, line: str) -> LogEntry:
        """Read one line, without its end; raises :exc:`BadLineError`."""
        if "\\" not in line and (entry := self._strict(line)) is not None:
            return entry
        entry = self._read_odd(line)
        if entry is None:
            shape = self.name if len(self.name) < 20 else "its format"
            raise BadLineError(f"the line does not have the shape of {shape}: {excerpt(line)}")
        return entry

    @cached_property
    def _loose(self) -> Reader:
        return self._reader(_loose(self._pieces))

    def _read_odd(self, line: str) -> LogEntry | None:
        if "\\" not in line:
            return self._loose(line)
        hidden = self._escapes.hide(line)
        # What looks like an escape may be none, as where software writes text as it comes.
        entry = self._strict(hidden) or self._loose(hidden) or self._loose(line)
        return None if entry is None else _shown(entry, self._escapes)

    def _reader(self, regexes: Iterator[str]) -> Reader:
        scales = {
            name: field.scale for field in _fields(self._pieces) for name in sorted(field.fills)
        }
        # A group that takes part in no match stands for all that the format does not have.
        regex = "".join(regexes) + LINE_END + "(?P<nothing>(?!))?"
        return _entry_reader(re.compile(regex, FLAGS), self._minutes, scales)


def _entry_reader(regex: re.Pattern[str], minutes: Minutes, scales: dict[str, int]) -> Reader:
    """Return what makes an entry of a line, as fast as it can be done: logs have millions."""
    match_line = regex.match
    at = regex.groupindex
    other_time = timestamp_reader(at, minutes, scales.get("epoch", 1))
    simple = all(name in at for name in _MOMENT) and at.keys().isdisjoint(("moment2", "fraction"))
    wanted = [at.get(name, at["nothing"]) for name in (*(_MOMENT if simple else "..."), *_WANTED)]
    request = [at.get(name, at["nothing"]) for name in _REQUEST]
    scale = scales.get("duration", 1)
    new_entry = LogEntry._make

    def read(line: str) -> LogEntry | None:
        match = match_line(line)
        if match is None:
            return None
        (
            before, second, after, method, target, status, sent, taken,
            address, user, user_agent, referer, host, forwarded_for,
        ) = match.group(*wanted)  # fmt: skip
        if target is None or target[0] != "/":
            method, target, host = _odd_request(method, target, host, *match.group(*request))
        return new_entry(
            (
                other_time(match) if before is None else minutes[before + after] + SECONDS[second],
                method or "",
                target,
                status or "",
                None if sent is None else int(sent or 0),
                None if taken is None else round(float(taken) * scale),
                address or "",
                user,
                user_agent,
                referer,
                host,
                forwarded_for,
            )
        )

    return read


def _shown(entry: LogEntry, escapes: Escapes) -> LogEntry:
    show = escapes.show
    return LogEntry._make(show(item) if isinstance(item, str) else item for item in entry)


def _odd_request(
    method: str | None,
    target: str | None,
    host: str | None,
    request: str | None,
    path: str | None,
    query: str | None,
) -> tuple[str | None, str, str | None]:
    """Return method, target and host of what is not just a path behind a method."""
    if request is not None:
        method, target = split_request(request)
    elif target is None:
        target = (path or "") + (f"?{query}" if query else "")
    return method, *split_absolute(target, host)


def _fields(pieces: Iterable[Piece]) -> list[Field]:
    return [piece for piece in pieces if isinstance(piece, Field)]


def _is_moment(field: Field) -> bool:
    return not _MOMENT_PARTS.isdisjoint(_NAME.findall(field.regex))


def _choose(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces, without the names of what another field fills better."""
    pieces = list(pieces)
    taken: set[str] = set()
    for at in sorted(range(len(pieces)), key=lambda at: _rank(pieces[at])):
        piece = pieces[at]
        if isinstance(piece, Field):
            if taken.isdisjoint(piece.fills):
                taken |= piece.fills
            else:
                pieces[at] = Field(_unnamed(piece.regex), _unnamed(piece.loose))
    return pieces


def _rank(piece: Piece) -> int:
    return piece.rank if isinstance(piece, Field) else 0


def _unnamed(regex: str) -> str:
    return _NAME.sub("?:", regex)


def _strict(pieces: Sequence[Piece]) -> Iterator[str]:
    """Yield expressions of fields that end where the literals behind them begin."""
    for at, (piece, regex) in enumerate(_named(pieces)):
        ended = regex.replace(END, _first_character(pieces[at + 1 :]))
        side_by_side = isinstance(piece, Field) and isinstance(_next(pieces, at), Field)
        yield _atomic(at, ended) if side_by_side and END in regex else ended


def _loose(pieces: Sequence[Piece]) -> Iterator[str]:
    """Yield expressions of fields that end where what follows fits, up to the next text."""
    for at, (piece, regex) in enumerate(_named(pieces)):
        if isinstance(piece, Field) and _is_loose(piece):
            yield _atomic(at, piece.loose, "".join(_rest(pieces[at + 1 :])))
        else:
            yield regex


def _named(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, str]]:
    """Yield pieces and their expressions; those of dates are to be taken apart later."""
    moments = 0
    for piece in pieces:
        if isinstance(piece, str):
            yield piece, re.escape(piece)
        elif _is_moment(piece):
            yield piece, f"(?P<moment{moments}>{_unnamed(piece.regex)})"
            moments += 1
        else:
            yield piece, piece.regex


def _next(pieces: Sequence[Piece], at: int) -> Piece | None:
    return pieces[at + 1] if at + 1 < len(pieces) else None


def _first_character(pieces: Iterable[Piece]) -> str:
    literal = next((piece for piece in pieces if isinstance(piece, str)), "\n")
    return re.escape(literal[0])


def _rest(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield expressions of what must follow a field, as far as it has a shape.

    Text right behind text is taken to belong to it, as a query to a path that has spaces.
    """
    for piece in dropwhile(_is_loose, pieces):
        if isinstance(piece, str):
            yield re.escape(piece)
        elif _is_loose(piece):
            return
        else:
            yield _unnamed(piece.regex)
    yield LINE_END


def _is_loose(piece: Piece) -> bool:
    return isinstance(piece, Field) and bool(piece.loose)


def _atomic(at: int, regex: str, behind: str = "") -> str:
    """Return what matches in one way only; there is a syntax for it since Python 3.11."""
    return f"(?=(?P<atom{at}>{regex}){behind})(?P=atom{at})"
