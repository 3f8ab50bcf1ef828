"""Lines of a log become lines of visits: by the same rules as requests, where a log tells enough."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from .endpoints import UNMATCHED
from .logs import BadLineError, LogEntry, LogFormat
from .period import DAY, LAST_TIMESTAMP
from .visit import FIELDS, Fragments, Memo

MAX_JSON = 1 << 14  # of a line; ours have at most some 12,000 characters


class LogVisits:
    """Turn lines of ``format`` into those of visits.

    ``host`` is that of a log which tells none. ``names_users`` takes the user that the log names
    for the visitor, and ``daily`` tells visitors of each day apart.
    """

    def __init__(
        self,
        format: LogFormat,
        fragments: Fragments,
        *,
        host: str | None = None,
        names_users: bool = False,
        daily: bool = False,
    ) -> None:
        self._read = format.read
        self._host = host
        self._names_users = names_users
        self._daily = daily
        self._place = Memo(self._encode_place, capacity_bytes=16 << 20)
        self._fragments = fragments

    def encode(self, line: bytes) -> tuple[int, str] | None:
        """Return a line's timestamp and its visit, or ``None`` where a rule excludes it.

        Raises :exc:`BadLineError`.
        """
        entry = self._read(line.decode("latin-1"))
        place = self._place[
            entry.method, entry.target.partition("?")[0], entry.host or self._host, entry.status
        ]
        client = self._fragments.client[self._client(entry)]
        if not (place and client):
            return None
        duration = "null" if entry.duration_us is None else entry.duration_us
        size = "null" if entry.bytes_sent is None else entry.bytes_sent
        return entry.timestamp, (
            f'{{"timestamp":{entry.timestamp},{place},"duration_us":{duration},'
            f'"first_byte_us":null,"bytes_sent":{size},{client}'
            f"{self._fragments.referer[entry.referer]}}}\n"
        )

    def _client(self, entry: LogEntry) -> tuple[Any, ...]:
        user = entry.user if self._names_users else None
        day = entry.timestamp // DAY if self._daily else 0
        forwarded_for = entry.forwarded_for
        return (entry.address, entry.user_agent, forwarded_for, None, None, None, user, day)

    def _encode_place(self, key: tuple[str, str, str | None, str]) -> str:
        method, target, host, status = key
        path = unquote_to_bytes(target.encode("latin-1", "replace")).decode("latin-1")
        endpoint = None if target else UNMATCHED  # what was no request at all
        return self._fragments.place[((method, host, "", path), endpoint, status)]


class StoredVisits:
    """Lines of visits as an export has them, checked."""

    def encode(self, line: bytes) -> tuple[int, str]:
        """Return a line's timestamp and its visit; raises :exc:`BadLineError`."""
        try:
            visit = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadLineError(f"it is no JSON: {error}") from error
        if not isinstance(visit, dict):
            raise BadLineError("it is no JSON object")
        visit = {name: visit.get(name) for name in FIELDS}
        for name, value in visit.items():
            if not _fits(name, value):
                raise BadLineError(f"{name} of a visit is {_ALLOWED[name]}")
        text = json.dumps(visit, separators=(",", ":"))
        if len(text) > MAX_JSON:
            raise BadLineError("it is longer than a visit can be")
        return visit["timestamp"], f"{text}\n"


_NUMBERS = "status duration_us first_byte_us bytes_sent".split()
_NEEDED = ("method", "endpoint")
_ALLOWED = {
    **dict.fromkeys(FIELDS, "text or null"),
    **dict.fromkeys(_NUMBERS, "a whole number or null"),
    **dict.fromkeys(_NEEDED, "text"),
    "timestamp": "in microseconds since the epoch",
}


def _fits(name: str, value: object) -> bool:
    if name == "timestamp":
        return type(value) is int and 0 <= value <= LAST_TIMESTAMP
    if value is None:
        return name not in _NEEDED
    if name in _NUMBERS:
        return type(value) is int and 0 <= value < 1 << 62
    return isinstance(value, str) and "\0" not in value


def day_keys() -> Callable[[int], bytes]:
    """Return keys of ``user_hash`` for days whose secrets are gone: at random, for this import."""
    keys: dict[int, bytes] = {}
    return lambda day: keys.setdefault(day, secrets.token_bytes(32))
