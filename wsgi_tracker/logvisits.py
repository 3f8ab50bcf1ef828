"""Lines of a log become visits: by the same rules as requests, as far as a log tells them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from .endpoints import UNMATCHED
from .logs import BadLineError, LogFormat
from .period import DAY, LAST_TIMESTAMP
from .storage import SECRET_BYTES, Packed
from .visit import FIELDS, TEXT_FIELDS, Fragments, Memo

LONGEST = 1 << 14  # of a line of NDJSON; ours have at most some 12,000 characters
LONGEST_DURATION = 10**18  # as logs may have it
MOST_BYTES = 1 << 44  # of a response: sums of much more overflow, and no report could be made


class Pack:
    """Visits that are to be stored at once; what comes again stands in it once.

    Visits before ``kept_from`` are left out, and counted as ``old``.
    """

    def __init__(self, kept_from: int = 0) -> None:
        self._kept_from = kept_from
        self._places: dict[str, int] = {}
        self._clients: dict[str, int] = {}
        self._origins: dict[str, int] = {}
        self._visits: list[str] = []
        self.old = 0

    def __len__(self) -> int:
        return len(self._visits)

    def add(
        self,
        timestamp: int,
        place: str,
        client: str,
        origin: str,
        duration_us: int | None,
        first_byte_us: int | None,
        bytes_sent: int | None,
        error: str | None,
    ) -> None:
        """Add a visit; the three texts are what stands within the braces of an object of JSON."""
        if timestamp < self._kept_from:
            self.old += 1
            return
        if bytes_sent is not None and bytes_sent > MOST_BYTES:
            raise BadLineError(f"no response has {bytes_sent} bytes")
        places, clients, origins = self._places, self._clients, self._origins
        self._visits.append(
            f"[{places.setdefault(place, len(places))},{clients.setdefault(client, len(clients))},"
            f"{origins.setdefault(origin, len(origins))},{timestamp},"
            f"{'null' if duration_us is None else duration_us},"
            f"{'null' if first_byte_us is None else first_byte_us},"
            f"{'null' if bytes_sent is None else bytes_sent},"
            f"{'null' if error is None else quote(error)}]"
        )

    def packed(self) -> Packed:
        """Return it as storage takes it."""
        return Packed(
            _objects(self._places),
            _objects(self._clients),
            _objects(self._origins),
            f"[{','.join(self._visits)}]",
        )


def _objects(contents: dict[str, int]) -> str:
    return f"[{','.join([f'{{{content}}}' for content in contents])}]"


class Packer(Protocol):
    """What makes visits of lines."""

    def add(self, line: bytes, pack: Pack) -> bool:
        """Add the visit of a line; False if a rule excludes it. Raises :exc:`BadLineError`."""


class LogVisits:
    """Add lines of ``format``.

    ``host`` is that of a log which tells none; with ``names_users``, visitors are told apart by the
    user that the log names; with ``daily``, those of each day.
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
        self._client = fragments.client
        self._referer = fragments.referer
        self._fragments = fragments

    def add(self, line: bytes, pack: Pack) -> bool:
        """See :meth:`Packer.add`."""
        entry = self._read(line.decode("latin-1"))
        (
            timestamp, method, target, status, bytes_sent, duration_us,
            address, user, user_agent, referer, host, forwarded_for,
        ) = entry  # fmt: skip
        place = self._place[method, target.partition("?")[0], host or self._host, status]
        day = timestamp // DAY if self._daily else 0
        named = user if self._names_users else None
        client = self._client[address, user_agent, forwarded_for, None, None, None, named, day]
        if not (place and client):
            return False
        origin = self._referer[referer][1:]  # a comma stands before it
        pack.add(timestamp, place, client, origin, duration_us, None, bytes_sent, None)
        return True

    def _encode_place(self, key: tuple[str, str, str | None, str]) -> str:
        method, target, host, status = key
        path = unquote_to_bytes(target.encode("latin-1", "replace")).decode("latin-1")
        endpoint = None if target else UNMATCHED  # what was no request at all
        return self._fragments.place[((method, host, "", path), endpoint, status)]


class StoredVisits:
    """Add lines of visits as an export has them."""

    def add(self, line: bytes, pack: Pack) -> bool:
        """See :meth:`Packer.add`."""
        visit = _visit(line)
        pack.add(
            visit["timestamp"],
            _content(visit, "method", "endpoint", "path", "status", "host"),
            _content(visit, "user_hash", "ip_address", "user_agent"),
            _content(visit, "referer"),
            visit["duration_us"],
            visit["first_byte_us"],
            visit["bytes_sent"],
            visit["error"],
        )
        return True


_SURROGATE = re.compile("[\ud800-\udfff]").search


def _content(visit: dict[str, Any], *names: str) -> str:
    return json.dumps({name: visit[name] for name in names})[1:-1]


def _visit(line: bytes) -> dict[str, Any]:
    """Return the visit of a line that may be anything."""
    if len(line) > LONGEST:
        raise BadLineError("it is longer than a visit can be")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadLineError("it is no object of JSON")
    visit = {name: found.get(name) for name in FIELDS}
    for name, value in visit.items():
        if not _fits(name, value):
            raise BadLineError(f"{name} of a visit is {_ALLOWED[name]}")
    return visit


_NUMBERS = {*FIELDS} - {*TEXT_FIELDS, "timestamp"}
_NEEDED = ("method", "endpoint")
_MOST = {"status": 999, "bytes_sent": MOST_BYTES}
_ALLOWED = {
    **dict.fromkeys(FIELDS, "text that SQLite can store, or null"),
    **dict.fromkeys(_NUMBERS, "a whole number that can be one, or null"),
    **dict.fromkeys(_NEEDED, "text that SQLite can store"),
    "timestamp": "in microseconds since the epoch",
}


def _fits(name: str, value: object) -> bool:
    if name == "timestamp":
        return type(value) is int and 0 <= value <= LAST_TIMESTAMP
    if value is None:
        return name not in _NEEDED
    if name in _NUMBERS:
        return type(value) is int and 0 <= value <= _MOST.get(name, LONGEST_DURATION)
    return isinstance(value, str) and "\0" not in value and not _SURROGATE(value)


def day_keys(own: Callable[[int], bytes], today: Callable[[], int]) -> Callable[[int], bytes]:
    """Return the keys of ``user_hash`` for days: today's ``own``, which applications have, too.

    Those of other days are gone: for each a random one stands, for this import.
    """
    keys: dict[int, bytes] = {}

    def key(day: int) -> bytes:
        if day == today():
            return own(day)
        return keys.setdefault(day, secrets.token_bytes(SECRET_BYTES))

    return key
