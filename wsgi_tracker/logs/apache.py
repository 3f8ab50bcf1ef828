"""Apache's LogFormat: directives such as ``%h``, ``%>s`` and ``%{Referer}i``.

https://httpd.apache.org/docs/current/mod/mod_log_config.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import ConfigurationError
from .escapes import BACKSLASHES
from .fields import (
    ADDRESS,
    BYTES,
    BYTES_WITH_HEADERS,
    CLF_BYTES,
    FIRST_STATUS,
    FRACTION,
    HOST,
    IGNORED,
    METHOD,
    PATH,
    PEER,
    PORT,
    PROTOCOL,
    QUERY_BEHIND_MARK,
    REQUEST,
    SERVER_NAME,
    STATUS,
    USER,
    epoch,
    header,
    moment,
    pieces_of_clf_time,
)
from .pattern import PatternFormat, Piece, duration

COMMON = '%h %l %u %t "%r" %>s %b'
COMBINED = COMMON + ' "%{Referer}i" "%{User-Agent}i"'
VHOST_COMBINED = "%v:%p " + COMBINED  # Debian logs %O for %b: either is a number

# Conditions such as %400,501{...}i and %!200s, and the choice of > and <, stand on either side.
_PIECE = re.compile(
    r"%(?P<before>[!\d,<>]*)(?:\{(?P<argument>[^}]*)\})?(?P<after>[!\d,<>]*)"
    r"(?P<directive>\^[A-Za-z]{2}|[A-Za-z%])|(?P<literal>[^%]+)"
)
_QUOTED = re.compile(r"\\(.)", re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_FIELDS = {
    "h": ADDRESS,
    "a": ADDRESS,
    "{c}a": PEER,
    "u": USER,
    "r": REQUEST,
    "m": METHOD,
    "U": PATH,
    "q": QUERY_BEHIND_MARK,
    "H": PROTOCOL,
    "s": FIRST_STATUS,
    "<s": FIRST_STATUS,
    ">s": STATUS,
    "b": CLF_BYTES,
    "B": BYTES,
    "O": BYTES_WITH_HEADERS,
    "D": duration(1),
    "T": duration(1_000_000),
    "{s}T": duration(1_000_000),
    "{ms}T": duration(1_000),
    "{us}T": duration(1),
    "V": HOST,
    "v": SERVER_NAME,
    "p": PORT,
    "{canonical}p": PORT,
    "{local}p": PORT,
    "{remote}p": PORT,
}
_TIMES = {
    "sec": epoch(1_000_000),
    "msec": epoch(1_000),
    "usec": epoch(1),
    "msec_frac": FRACTION,
    "usec_frac": FRACTION,
}


def apache_format(pattern: str, name: str = "") -> PatternFormat:
    """Return the format of a LogFormat string, with or without the backslashes of its quotes."""
    pieces = [piece for match in _matches(pattern) for piece in _pieces(match)]
    return PatternFormat(name or pattern, pieces, BACKSLASHES)


def _matches(pattern: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(pattern):
        match = _PIECE.match(pattern, at)
        if match is None:
            raise ConfigurationError(
                f"a LogFormat has directives such as %h and %{{Referer}}i; given {pattern[at:]!r}"
            )
        yield match
        at = match.end()


def _pieces(match: re.Match[str]) -> list[Piece]:
    literal, directive, argument = match.group("literal", "directive", "argument")
    if literal:
        return [unquoted(literal)]
    if directive == "%":
        return ["%"]
    if directive == "t":
        return _time(argument or "")
    if directive == "i":
        return [header(argument or "")]
    chosen = re.sub(r"[!\d,]", "", match["before"] + match["after"])
    key = f"{{{argument}}}{directive}" if argument else chosen + directive
    return [_FIELDS.get(key) or _FIELDS.get(chosen + directive) or IGNORED]


def _time(argument: str) -> list[Piece]:
    begin_or_end, separator, rest = argument.partition(":")
    rank = 0
    if separator and begin_or_end in ("begin", "end"):
        argument, rank = rest, int(begin_or_end == "end")
    if not argument:
        return pieces_of_clf_time()
    if argument in _TIMES:
        known = _TIMES[argument]
        return [known._replace(rank=known.rank + rank)]
    return list(moment(argument, rank=rank))


def unquoted(literal: str) -> str:
    """Return a literal as it is written into the log: in a configuration quotes have backslashes."""
    return _QUOTED.sub(lambda match: _CONTROLS.get(match[1], match[1]), literal)
