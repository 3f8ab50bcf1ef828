"""Gunicorn's access_log_format: atoms such as ``%(h)s`` and ``%({referer}i)s``.

https://docs.gunicorn.org/en/stable/settings.html#access-log-format
"""

from __future__ import annotations

import re

from .entry import LogEntry
from .escapes import QUOTES
from .fields import (
    ADDRESS,
    BYTES,
    CLF_BYTES,
    IGNORED,
    METHOD,
    PATH,
    PROTOCOL,
    QUERY,
    REQUEST,
    SERVER_NAME,
    STATUS,
    TARGET,
    USER,
    header,
    pieces_of_clf_time,
)
from .pattern import PatternFormat, Piece, duration

DEFAULT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
_PIECE = re.compile(r"%\((?:\{([^}]*)\})?([A-Za-z]+)\)[-#0 +]?[\d.]*[a-zA-Z]|([^%]+|%%?)")
_FIELDS = {
    "h": ADDRESS,
    "u": USER,
    "r": REQUEST,
    "m": METHOD,
    "U": PATH,
    "q": QUERY,
    "H": PROTOCOL,
    "s": STATUS,
    "b": CLF_BYTES,
    "B": BYTES,
    "f": header("referer"),
    "a": header("user-agent"),
    "D": duration(1),
    "M": duration(1_000),
    "L": duration(1_000_000),
    "T": duration(1_000_000),
}
_ENVIRON = {
    "remote_addr": ADDRESS,
    "remote_user": USER,
    "request_method": METHOD,
    "raw_uri": TARGET,
    "path_info": PATH,
    "query_string": QUERY,
    "server_name": SERVER_NAME,
}


class GunicornFormat:
    """Reads the lines of an access_log_format string; safe to share between threads."""

    def __init__(self, pattern: str, name: str = "") -> None:
        self.name = name or pattern
        pieces: list[Piece] = []
        for argument, atom, literal in _PIECE.findall(pattern):
            pieces += [literal.replace("%%", "%")] if literal else _atom(argument.lower(), atom)
        self._read = PatternFormat(self.name, pieces, QUOTES).read

    def read(self, line: str) -> LogEntry:
        """Read one line, without its end; raises :exc:`BadLineError`."""
        return self._read(line if line.isascii() else _decoded(line))


def _decoded(line: str) -> str:
    """Return a line as it was before it was written: gunicorn encodes latin-1 text as UTF-8."""
    try:
        decoded = line.encode("latin-1").decode("utf-8")
        decoded.encode("latin-1")
    except UnicodeError:  # a file of another encoding
        return line
    return decoded


def _atom(argument: str, atom: str) -> list[Piece]:
    if atom == "t":
        return pieces_of_clf_time()
    if not argument:
        return [_FIELDS.get(atom, IGNORED)]
    if atom == "i":
        return [header(argument)]
    if atom == "e" and argument.startswith("http_"):
        return [header(argument[len("http_") :])]
    return [_ENVIRON.get(argument, IGNORED) if atom == "e" else IGNORED]
