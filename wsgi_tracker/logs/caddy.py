"""Caddy's access log: a line of JSON per request, among lines of other loggers.

https://caddyserver.com/docs/caddyfile/directives/log
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..period import SECOND
from .entry import BadLineError, LogEntry, excerpt, latin_1, split_absolute
from .times import SECONDS, Minutes, checked, strftime_regexes

MESSAGE = "handled request"
LARGEST = 10**18
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d):([0-5]\d|60)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)", re.ASCII
)


class CaddyFormat:
    """Reads lines of JSON; safe to share between threads."""

    name = "caddy"

    def __init__(self) -> None:
        self._minutes = Minutes("".join(strftime_regexes("%Y-%m-%d %H:%M%z")))

    def read(self, line: str) -> LogEntry:
        """Read one line, without its end; raises :exc:`BadLineError`."""
        try:
            said = json.loads(line.encode("latin-1"))
        except (ValueError, RecursionError) as error:
            raise BadLineError(f"the line is no JSON: {excerpt(line)}") from error
        request = said.get("request") if isinstance(said, dict) else None
        if not isinstance(request, dict) or said.get("msg") != MESSAGE:
            raise BadLineError(f"the line tells of no request that was handled: {excerpt(line)}")
        return self._entry(said, request)

    def _entry(self, said: dict[str, Any], request: dict[str, Any]) -> LogEntry:
        headers = request.get("headers")
        target, host = split_absolute(_text(request.get("uri")), _text(request.get("host")) or None)
        return LogEntry(
            self._timestamp(said.get("ts")),
            _text(request.get("method")),
            target,
            _status(said.get("status")),
            _whole(said.get("size")),
            _whole(said.get("duration"), SECOND),
            _address(request),
            _text(said.get("user_id")) or None,
            _header(headers, "User-Agent"),
            _header(headers, "Referer"),
            host,
            _header(headers, "X-Forwarded-For"),
        )

    def _timestamp(self, when: object) -> int:
        if isinstance(when, str) and (iso := _ISO.fullmatch(when)):
            date, minute, second, fraction, zone = iso.groups()
            start = self._minutes[f"{date} {minute}{zone}"] + SECONDS[second]
            return start + int((fraction or "").ljust(6, "0")[:6])
        timestamp = _whole(when, SECOND)
        if timestamp is None:
            raise BadLineError(
                f"ts is seconds since the epoch, or ISO 8601; given {excerpt(str(when))}"
            )
        return checked(timestamp, str(when))


def _whole(value: object, scale: int = 1) -> int | None:
    """Return a number that is none below zero, nor one that SQLite cannot store."""
    # False is a number, and JSON of Python's knows infinity: neither passes.
    if type(value) not in (int, float) or not 0 <= value * scale < LARGEST:  # type: ignore[operator]
        return None
    return round(value * scale)  # type: ignore[operator]


def _text(value: object) -> str:
    return latin_1(value) if isinstance(value, str) else ""


def _status(value: object) -> str:
    return str(value) if type(value) is int and 100 <= value <= 999 else ""


def _address(request: dict[str, Any]) -> str:
    """Return the client's address, behind proxies that Caddy trusts; old versions add its port."""
    for name in ("client_ip", "remote_ip"):
        if address := _text(request.get(name)):
            return address
    return _text(request.get("remote_addr")).rpartition(":")[0].strip("[]")


def _header(headers: object, name: str) -> str | None:
    values = headers.get(name) if isinstance(headers, dict) else None
    if not isinstance(values, list):
        return None
    return latin_1(", ".join(value for value in values if isinstance(value, str))) or None
