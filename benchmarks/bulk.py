"""Databases of millions of visits, made fast: the visits of ``ingest.py``, drawn by numpy.

They go straight into the tables, strings as numbers, without log and sync. Indexes stand there from
the first row on, so that their pages are as full as live ingest leaves them. The package's own
``Storage.rebuild()`` counts the visits then.

What differs from ``ingest.py``: the year ends now; there are no paths; every twentieth user agent is
a search engine's, a trainer's of models, a monitor's and a tool's each, their classes given here; and
users have the hash that Tracker gives them, so that they can come again.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ingest

from wsgi_tracker import open_storage
from wsgi_tracker.addresses import TrustedProxies
from wsgi_tracker.visitors import Client, Visitors

CHUNK = 1_000_000
METHODS = ("GET", "POST", "DELETE")
BOTS = {
    16: ("search", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) {}"),
    17: ("ai_training", "Mozilla/5.0 (compatible; GPTBot/1.{}; +https://openai.com/gptbot)"),
    18: ("monitor", "Mozilla/5.0+(compatible; UptimeRobot/2.{}; http://www.uptimerobot.com/)"),
    19: ("tool", "curl/8.{}.0"),
}
KEPT_SECONDS = 86_400
INSERT = """
INSERT INTO visits (timestamp, endpoint_id, user_id, status, duration_us, first_byte_us, bytes_sent,
    ip_address_id, user_agent_id, referer_id, host_id)
VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?3, ?7, nullif(?8, 0), 1)"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A site: how many endpoints it has, and how many users, who then come in turn."""

    endpoints: int = ingest.ENDPOINTS
    users: int | None = None


KINDS = {
    "site": Kind(),
    "users": Kind(endpoints=5, users=1_000_000),
    "endpoints": Kind(endpoints=10_000),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """Some visits in the order of time: arrays of one length."""

    timestamp: Any
    pair: Any  # endpoint * 3 + method
    user: Any
    status: Any
    duration_us: Any
    bytes_sent: Any
    referer: Any  # 0: none


class Draw:
    """Draw ``count`` visits, the last of them at ``end``, always the same ones but for that."""

    def __init__(self, kind: Kind, count: int, end: int) -> None:
        import numpy

        self._numpy = numpy
        self._chance = numpy.random.default_rng(count)
        self._kind, self._count = kind, count
        self.users = kind.users or max(50, count // ingest.VISITS_PER_USER)
        self._user_sums = self._sums(self.users, ingest.USER_SKEW)
        self._endpoint_sums = self._sums(kind.endpoints, ingest.ENDPOINT_SKEW)
        self._referer_sums = self._sums(ingest.REFERERS, 1.0)
        self._sessions = self._popular(self._user_sums, ingest.SESSIONS_AT_ONCE)
        self._hours = numpy.linspace(0, 1, 4097)
        phase = 2 * math.pi * (self._hours - 0.375)
        waves = numpy.cos(phase) - math.cos(2 * math.pi * 0.375)
        self._quantiles = self._hours - 0.8 / (2 * math.pi) * waves
        day, part = divmod(end / ingest.DAY, 1)
        self._last = day + float(numpy.interp(part, self._hours, self._quantiles))

    def chunks(self) -> Iterator[Drawn]:
        """Yield all of them, a million at a time."""
        for first in range(0, self._count, CHUNK):
            yield self._chunk(self._numpy.arange(first, min(first + CHUNK, self._count)))

    def _chunk(self, numbers: Any) -> Drawn:
        size, chance = len(numbers), self._chance
        endpoint = self._popular(self._endpoint_sums, size)
        return Drawn(
            timestamp=self._timestamps(numbers),
            pair=endpoint * len(METHODS) + self._methods(endpoint),
            user=numbers * 7919 % self.users if self._kind.users else self._visitors(size),
            status=chance.choice((200, 304, 404, 500), size, p=(0.90, 0.05, 0.04, 0.01)),
            duration_us=chance.gamma(2, 15_000, size).astype("int64"),
            bytes_sent=chance.integers(500, 50_000, size),
            referer=self._popular(self._referer_sums, size),
        )

    def _sums(self, size: int, skew: float) -> Any:
        sums = self._numpy.cumsum(self._numpy.arange(1, size + 1) ** -skew)
        return sums / sums[-1]

    def _popular(self, sums: Any, size: int) -> Any:
        """Draw numbers, the first most often, as :class:`ingest.Popularity` does."""
        return self._numpy.searchsorted(sums, self._chance.random(size))

    def _timestamps(self, numbers: Any) -> Any:
        numpy = self._numpy
        ago = (self._count - numbers - self._chance.random(len(numbers)) * 0.9) / self._count
        days, part = numpy.divmod(self._last - ago * ingest.DAYS, 1)
        days += numpy.interp(part, self._quantiles, self._hours)
        return (days * ingest.DAY).astype("int64")

    def _visitors(self, size: int) -> Any:
        """Draw who comes: of the sessions at once each goes on, or gives its place to another."""
        numpy, chance, places = self._numpy, self._chance, ingest.SESSIONS_AT_ONCE
        # Before them stand those whose sessions the last chunk left.
        place = numpy.concatenate([numpy.arange(places), chance.integers(0, places, size)])
        begins = numpy.concatenate(
            [numpy.ones(places, bool), chance.random(size) < 1 / ingest.VISITS_PER_SESSION]
        )
        user = numpy.concatenate([self._sessions, self._popular(self._user_sums, size)])
        order = numpy.argsort(place, kind="stable")
        begun = numpy.where(begins[order], numpy.arange(len(order)), 0)
        user[order] = user[order][numpy.maximum.accumulate(begun)]
        last = numpy.searchsorted(place[order], numpy.arange(places), side="right") - 1
        self._sessions = user[order[last]]
        return user[places:]

    def _methods(self, endpoint: Any) -> Any:
        deletes = (endpoint % 40 == 0) & (self._chance.random(len(endpoint)) < 0.01)
        posts = (endpoint % 5 == 0) & (self._chance.random(len(endpoint)) < 0.15)
        return self._numpy.where(deletes, 2, posts)


@dataclass(slots=True)
class Strings:
    """One table of strings, and the ids that they have, in the order in which they come."""

    table: str
    size: int
    text: Callable[[int], Sequence[str | None]]
    count: int = 0
    ids: Any = field(init=False)

    def __post_init__(self) -> None:
        import numpy

        self.ids = numpy.zeros(self.size, "int64")

    def keep(self, connection: sqlite3.Connection, values: Any) -> Any:
        """Insert what is new, and return the ids."""
        import numpy

        unknown, first = numpy.unique(values[self.ids[values] == 0], return_index=True)
        unknown = unknown[numpy.argsort(first)]
        self.ids[unknown] = numpy.arange(self.count, self.count + len(unknown)) + 1
        self.count += len(unknown)
        rows = [(int(self.ids[value]), *self.text(value)) for value in unknown.tolist()]
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {self.table} VALUES ({marks})", rows)
        return self.ids[values]


def endpoint_of(pair: int) -> tuple[str, str]:
    """Return endpoint and method."""
    endpoint, method = divmod(pair, len(METHODS))
    return f"/section-{endpoint % 20}/page-{endpoint}", METHODS[method]


def address_of(user: int) -> str:
    """Return the user's only address."""
    return f"10.{user >> 16 & 255}.{user >> 8 & 255}.{user & 255}"


def agent_of(user: int) -> tuple[str, str]:
    """Return the user's only user agent, and its class."""
    number = user % ingest.USER_AGENTS
    if number % 20 in BOTS:
        name, text = BOTS[number % 20]
        return text.format(number), name
    return (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{100 + number % 40}.0.{number * 7919 % ingest.USER_AGENTS}.0 Safari/537.36",
        "human",
    )


def referer_of(referer: int) -> str:
    """Return where a visit comes from."""
    return f"https://www.site-{referer:03}.example/links"


def fill(database: Path, kind: Kind, count: int) -> None:
    """Make a database of ``count`` visits, and count them; print how long it took."""
    storage = open_storage(database)
    visitors = Visitors(lambda day: storage.secret(), TrustedProxies(()))
    began = time.perf_counter()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -2000000")
        connection.execute("BEGIN")
        _insert(connection, Draw(kind, count, time.time_ns() // 1000), kind, visitors)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    inserted = time.perf_counter()
    for _ in storage.rebuild():
        pass
    storage.close()
    size = ingest.size_on_disk(database)
    print(
        f"{count} visits made in {inserted - began:.0f} s, counted by Storage.rebuild() in "
        f"{time.perf_counter() - inserted:.0f} s, {size / count:.0f} bytes each",
        flush=True,
    )


def _insert(connection: sqlite3.Connection, draw: Draw, kind: Kind, visitors: Visitors) -> None:
    def user_hash(user: int) -> tuple[str | None]:
        nobody = Client(None, None)
        return (visitors.user_hash(nobody, address_of(user), agent_of(user)[0]),)

    pairs = kind.endpoints * len(METHODS)
    endpoints = Strings("endpoints", pairs, endpoint_of)
    users = Strings("users", draw.users, user_hash)
    addresses = Strings("ip_addresses", draw.users, lambda user: (address_of(user),))
    agents = Strings("user_agents (id, user_agent, class)", ingest.USER_AGENTS, agent_of)
    referers = Strings("referers", ingest.REFERERS, lambda referer: (referer_of(referer),))
    connection.execute("INSERT INTO hosts VALUES (1, 'shop.example.com')")
    for drawn in draw.chunks():
        addresses.keep(connection, drawn.user)  # the same ids
        columns = (
            drawn.timestamp,
            endpoints.keep(connection, drawn.pair),
            users.keep(connection, drawn.user),
            drawn.status,
            drawn.duration_us,
            drawn.bytes_sent,
            agents.keep(connection, drawn.user % ingest.USER_AGENTS),
            referers.keep(connection, drawn.referer) * (drawn.referer > 0),
        )
        rows = [column.tolist() for column in columns]
        connection.executemany(INSERT, zip(*rows, strict=True))


def kept(folder: Path, name: str, count: int) -> Path:
    """Return a database of this kind in ``folder``, made now unless there is one of the last day."""
    database = folder / f"{name}-{count}.db"
    if database.exists():
        age = time.time() - database.stat().st_mtime
        if age < KEPT_SECONDS:
            print(f"{database.name} was made {age / 3600:.1f} h ago", flush=True)
            return database
        database.unlink()
    making = folder / f".making-{database.name}"
    for leftover in folder.glob(f"{making.name}*"):
        if leftover.is_file():
            leftover.unlink()
    fill(making, KINDS[name], count)
    return making.rename(database)


def requests(kind: Kind, count: int, rows: int) -> list[bytes]:
    """Return requests of users of a database of ``rows`` visits, as a proxy hands them on."""
    draw = Draw(kind, max(rows, count), time.time_ns() // 1000)
    drawn = next(draw.chunks())
    columns = (column[:count].tolist() for column in (drawn.pair, drawn.user, drawn.referer))
    return [_request(*visit) for visit in zip(*columns, strict=True)]


def _request(pair: int, user: int, referer: int) -> bytes:
    path, method = endpoint_of(pair)
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: shop.example.com",
        f"X-Forwarded-For: {address_of(user)}",
        f"User-Agent: {agent_of(user)[0]}",
        *([f"Referer: {referer_of(referer)}"] if referer else []),
        *(["Content-Length: 0"] if method == "POST" else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()
