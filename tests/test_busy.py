"""However many ask, and whoever is in the way: a report is answered, or refused, soon."""

from __future__ import annotations

import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
import webtest

from wsgi_tracker import Tracker
from wsgi_tracker.storage.sqlite.pool import PooledConnection

pytestmark = pytest.mark.once

PATIENCE_SECONDS = 30
SUMMARY = "/api/tracking/summary"


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """One thread per request."""


class Quiet(WSGIRequestHandler):
    """Log nothing."""

    def log_message(self, format: str, *args: Any) -> None: ...


class Answer:
    """The answer to a request, sent by a thread of its own."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self._path = path
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with closing(self._connection):
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            self.status, self.headers = response.status, response.headers
            self.body = json.loads(response.read())

    def arrived(self) -> Answer:
        self._thread.join(PATIENCE_SECONDS)
        return self


@pytest.fixture
def serve() -> Iterator[Callable[[Tracker], int]]:
    """Serve a tracker with threads; returns the port."""
    with ExitStack() as servers:

        def serve(tracker: Tracker) -> int:
            server = servers.enter_context(
                make_server("127.0.0.1", 0, tracker, ThreadingServer, Quiet)
            )
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            servers.callback(thread.join, PATIENCE_SECONDS)
            servers.callback(server.shutdown)
            return int(server.server_port)

        yield serve


class SlowReads:
    """Whoever reads ``tracker``'s storage keeps its connection until told to go on."""

    def __init__(self, tracker: Tracker, readers: int) -> None:
        self._storage: Any = tracker._backend.storage
        self._read = self._storage._file.read
        self.all_lent = threading.Barrier(readers + 1)
        self.go_on = threading.Event()
        self._storage._file.read = self._read_slowly

    @contextmanager
    def _read_slowly(self, **given: Any) -> Iterator[PooledConnection]:
        with self._read(**given) as connection:
            if not self.go_on.is_set():
                self.all_lent.wait(PATIENCE_SECONDS)
                self.go_on.wait(PATIENCE_SECONDS)
            yield connection


def test_reader_beyond_the_pool_is_told_to_come_again(
    tracked: Callable[..., Tracker], serve: Callable[[Tracker], int]
) -> None:
    tracker = tracked()
    pool: Any = tracker._backend.storage._file._pool  # type: ignore[attr-defined]
    pool._timeout_seconds = 0.05
    reads = SlowReads(tracker, pool._readers)
    port = serve(tracker)

    within = [Answer(port, SUMMARY) for _ in range(pool._readers)]
    reads.all_lent.wait(PATIENCE_SECONDS)
    beyond = [Answer(port, SUMMARY).arrived() for _ in range(2)]
    health = Answer(port, "/api/tracking/health").arrived()
    reads.go_on.set()

    assert [answer.status for answer in beyond] == [503, 503]
    for answer in beyond:
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.body["error"]["code"] == "storage_unavailable"
        assert answer.body["error"]["message"] == "all 8 connections stayed busy for 0.05 s"
    assert (health.status, health.body["status"]) == (200, "degraded")
    assert [answer.arrived().status for answer in within] == [200] * pool._readers
    assert Answer(port, SUMMARY).arrived().status == 200


def test_reader_beyond_the_pool_is_answered_when_a_connection_comes_free(
    tracked: Callable[..., Tracker], serve: Callable[[Tracker], int]
) -> None:
    tracker = tracked()
    pool: Any = tracker._backend.storage._file._pool  # type: ignore[attr-defined]
    pool._timeout_seconds = PATIENCE_SECONDS
    waiting = threading.Event()
    acquire = pool._slots.acquire

    def acquire_and_tell(**options: Any) -> Any:
        if not acquire(blocking=False):
            waiting.set()
            return acquire(**options)
        return True

    pool._slots.acquire = acquire_and_tell
    reads = SlowReads(tracker, pool._readers)
    port = serve(tracker)

    within = [Answer(port, SUMMARY) for _ in range(pool._readers)]
    reads.all_lent.wait(PATIENCE_SECONDS)
    beyond = Answer(port, SUMMARY)
    assert waiting.wait(PATIENCE_SECONDS)
    reads.go_on.set()

    answers = [answer.arrived().status for answer in (*within, beyond)]
    assert answers == [200] * (pool._readers + 1)


@contextmanager
def all_readers_lent(tracker: Any) -> Iterator[None]:
    with ExitStack() as loans:
        for _ in range(tracker._backend.storage._file._pool._readers):
            loans.enter_context(tracker._backend.storage._file._pool.reader())
        yield


@contextmanager
def writer_lent(tracker: Any) -> Iterator[None]:
    with tracker._backend.storage._file._pool.writer():
        yield


@contextmanager
def database_locked(tracker: Any) -> Iterator[None]:
    with closing(sqlite3.connect(tracker._backend.storage.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def schema_being_restored(tracker: Any) -> Iterator[None]:
    tracker._backend.storage.close()
    Path(tracker._backend.storage.database).unlink()
    with database_locked(tracker):
        yield


@contextmanager
def ingest_held(tracker: Any) -> Iterator[None]:
    with tracker._backend.ingester._host_lock.held() as ours:
        assert ours
        yield


@contextmanager
def both_held(tracker: Any) -> Iterator[None]:
    with ingest_held(tracker), writer_lent(tracker):
        yield


@pytest.mark.parametrize(
    ("block", "status"),
    [
        pytest.param(all_readers_lent, 503, id="all readers are lent"),
        pytest.param(writer_lent, 503, id="the writer is lent"),
        pytest.param(database_locked, 503, id="the database is locked"),
        pytest.param(schema_being_restored, 503, id="the database has no schema and is locked"),
        pytest.param(ingest_held, 200, id="another thread ingests"),
        pytest.param(both_held, 200, id="another thread ingests and writes"),
    ],
)
def test_report_is_answered_or_refused_within_seconds(
    block: Callable[[Any], Any], status: int, tracked: Callable[..., Tracker]
) -> None:
    tracker = tracked()
    app = webtest.TestApp(tracker)
    app.get("/")  # so that the report has something to wait for

    with block(tracker):
        began = time.monotonic()
        answer = app.get(SUMMARY, status=status)
        seconds = time.monotonic() - began

    # By the clock it is 0.5 to 1.1 s; the rest is for a slow machine.
    assert seconds < 4
    if status == 200:
        assert int(answer.headers["Wsgi-Tracker-Queued"]) > 0
    else:
        assert answer.headers["Retry-After"] == "1"
