"""What one line of an access log says, and the request line that stands in it.

Text is bytes decoded as latin-1, as WSGI strings are, and as raw as the server wrote it but for the
escapes of the log. Not here: what becomes a visit, and who its client is behind proxies.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from ..errors import TrackerError

LONGEST_EXCERPT = 60
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2: what a method is  # noqa: S105
_IS_TOKEN = re.compile(TOKEN).fullmatch
_PROTOCOL = re.compile(r".* (?=HTTP/\d)", re.ASCII | re.DOTALL).match
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://([^/?#]*)(.*)", re.DOTALL).fullmatch


class LogEntry(NamedTuple):
    """One request as a server logged it; what it did not log is ``None``, or empty.

    ``timestamp`` is in microseconds since the epoch, UTC. ``target`` holds path and query; it and
    ``method`` are empty where a client sent no HTTP. ``status`` has three digits.
    """

    timestamp: int
    method: str
    target: str
    status: str
    bytes_sent: int | None
    duration_us: int | None
    address: str
    user: str | None
    user_agent: str | None
    referer: str | None
    host: str | None
    forwarded_for: str | None


class LogFormat(Protocol):
    """A way to write access logs."""

    name: str

    def read(self, line: str) -> LogEntry:
        """Read one line, without its end; raises :exc:`BadLineError`."""


class BadLineError(TrackerError, ValueError):
    """A line does not hold what its format says; the message says why."""


def excerpt(text: str) -> str:
    """Quote the beginning of what may be long, or hostile."""
    return repr(text[:LONGEST_EXCERPT]) + ("..." if len(text) > LONGEST_EXCERPT else "")


def latin_1(text: str) -> str:
    """Return text as WSGI strings hold it: the bytes of its UTF-8, each as a character."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("latin-1")


def split_request(line: str) -> tuple[str, str]:
    """Return method and target of a request line, both empty where it is none.

    Logs are full of broken ones: TLS sent to a plain port, spaces in the target, no protocol.
    """
    method, _, rest = line.partition(" ")
    if method == "-" or not _IS_TOKEN(method):
        return "", ""
    protocol = _PROTOCOL(" " + rest)
    return method, (protocol[0] if protocol else rest).strip(" ")


def split_absolute(target: str, host: str | None) -> tuple[str, str | None]:
    """Return target and host of a request that may have been sent as to a proxy."""
    absolute = _ABSOLUTE(target)
    if not absolute:
        return target, host
    authority, rest = absolute.groups()
    path = rest if rest.startswith("/") else "/" + rest
    return path, host or authority.rpartition("@")[2] or None
