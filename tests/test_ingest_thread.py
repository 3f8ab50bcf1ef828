"""The thread that ingests: it starts once, rests long but not too long, and stops between batches."""

from __future__ import annotations

import _thread
import atexit
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from counting import look
from hosts import GOOD, BeforeIngest, Host, many, thread_of

from wsgi_tracker import Tracker
from wsgi_tracker.errors import StorageError
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.ingest_thread import (
    ASKED_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_PAUSE_WHILE_ASKED,
    IngestThread,
)
from wsgi_tracker.own_segment import LOOK_BYTES
from wsgi_tracker.process import new_lock
from wsgi_tracker.retention import Retention
from wsgi_tracker.storage import ENOUGH_TO_COUNT
from wsgi_tracker.storage.sqlite import counters


class AfterIngest(BeforeIngest):
    """Real storage; ``act`` runs after each batch was stored."""

    def ingest(self, *args: Any, **options: Any) -> Any:
        self._storage.ingest(*args, **options)
        self._act()


def count_threads() -> int:
    """Return how many there are, those that threading does not know included."""
    return _thread._count()


def test_thread_ingests_by_itself_and_stops(host: Host) -> None:
    stored = threading.Event()
    thread = thread_of(host, Ingester(AfterIngest(host.storage, stored.set), host.folder))
    before = count_threads()

    thread.start()
    thread.start()
    host.segment(GOOD)

    assert stored.wait(30)
    during = count_threads()
    thread.stop()
    thread.stop()
    assert host.hits() == 1
    assert during == before + 1
    deadline = time.monotonic() + 5
    while count_threads() > before:  # it lets go of its lock a moment before it is gone
        assert time.monotonic() < deadline


def test_process_that_may_have_no_thread_drops_no_visit_and_tries_again(
    tracked: Callable[..., Tracker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first visit was dropped, no thread came ever, and health found all well."""
    tracker = tracked(ingest=True, require_token=False)
    app = webtest.TestApp(tracker)

    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        app.get("/")
        health = app.get("/api/tracking/health").json
    visits = 1 + LOOK_BYTES // 200
    for _ in range(visits):
        app.get("/")
    started = tracker._backend.ingest_thread._stop is not None
    tracker.close()

    assert (health["status"], health["dropped"], health["queued"]) == ("degraded", 0, 1)
    assert "can't start new thread" in health["problems"][0]
    assert started
    assert sum("new thread" in message for message in caplog.messages) == 1
    assert tracker._backend.storage.facts([]).counts == {"recorded": visits + 1}


def test_process_that_records_long_registers_its_end_once(tracked: Callable[..., Tracker]) -> None:
    """Every 80th request left a place in atexit's list, and went through all of them."""
    tracker = tracked()
    app = webtest.TestApp(tracker)
    app.get("/")
    before = atexit._ncallbacks()  # type: ignore[attr-defined]
    for _ in range(3 * LOOK_BYTES // 200):
        app.get("/")
    after = atexit._ncallbacks()  # type: ignore[attr-defined]
    tracker.close()
    app.get("/")

    assert after == before
    assert tracker._backend._closing_pid == os.getpid()


def purging(host: Host, clock: list[int]) -> IngestThread:
    retention = Retention(host.storage, 30, lambda: clock[0])
    retention.declare()
    thread = thread_of(host, host.ingester, retention=retention)
    thread._stop = object()
    return thread


def test_purge_that_others_keep_us_from_does_not_work_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1_755_081_000 * 10**9]
    thread = purging(host, clock)
    caplog.clear()
    pauses: list[float] = []
    with closing(sqlite3.connect(host.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            thread._purge()
            with thread._host_lock.held():
                clock[0] += 61 * 10**9
                pauses.append(thread._purge())
        problems = thread.problems
        other.execute("ROLLBACK")
    clock[0] += 61 * 10**9
    thread._purge()

    failed, over = caplog.messages
    assert problems == [failed]
    assert pauses == [1.0, 1.0]  # it spun while another process waited for the database
    assert "database is locked" in failed
    assert "works again" in over


def test_spool_that_is_out_of_order_is_no_bug_of_the_purge(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    thread = purging(host, [1_755_081_000 * 10**9])
    caplog.clear()
    host.folder.rmdir()
    host.folder.write_text("no folder")

    thread._purge()

    (record,) = caplog.records
    assert "the spool cannot be used" in record.getMessage()
    assert not record.exc_info


class AfterCount:
    """Real storage; ``act`` runs after each step of counting."""

    def __init__(self, storage: Any, act: Callable[[bool], None]) -> None:
        self._storage = storage
        self._act = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def count(self, **options: Any) -> Any:
        more = self._storage.count(**options)
        self._act(more)
        return more


def change_by_hand(host: Host) -> None:
    with closing(sqlite3.connect(host.database, isolation_level=None)) as connection:
        connection.execute("UPDATE visits SET timestamp = timestamp + 1")


def test_thread_counts_anew_what_was_changed_by_hand(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "VISITS_PER_STEP", 1200)
    host.segment(many(5000))
    host.ingest()
    change_by_hand(host)
    done, steps = threading.Event(), []

    def note(more: bool) -> None:
        steps.append(more)
        if not more:
            done.set()

    host.segment(GOOD)
    thread = thread_of(host, Ingester(AfterCount(host.storage, note), host.folder))
    thread.start()
    assert done.wait(30)
    thread.stop()

    assert steps == [True, True, True, False]  # 1,200 had been counted behind the last batch
    with host.storage._file.read() as connection:  # type: ignore[attr-defined]
        assert 0 < counters.read_state(connection).uncounted < ENOUGH_TO_COUNT


def test_thread_looks_for_visits_to_count_once_it_has_ingested_some(host: Host) -> None:
    """On an idle host nobody opens a database for it."""
    steps: list[bool] = []
    thread = thread_of(host, Ingester(AfterCount(host.storage, steps.append), host.folder))
    host.segment(GOOD)

    pauses = [thread._count()]
    thread._ingest(1.0, new_lock())
    pauses += [thread._count(), thread._count()]

    assert (steps, pauses) == ([False], [1.0, 1.0, 1.0])


def test_counting_that_others_keep_us_from_is_told_and_tried_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.segment(GOOD)
    host.ingest()
    change_by_hand(host)
    thread = thread_of(host, host.ingester)
    thread._stop, thread._is_count_due = object(), True
    with closing(sqlite3.connect(host.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        thread._count()
        problems = thread.problems
        other.execute("ROLLBACK")

    assert thread._count() == 1.0
    failed, over = caplog.messages
    assert problems == [failed]
    assert "reports are slow, as visits are not counted" in failed
    assert "works again" in over


def test_thread_stops_between_two_batches(host: Host) -> None:
    began, batches = threading.Event(), []

    class Storage(BeforeIngest):
        def ingest(self, *args: Any, **options: Any) -> Any:
            began.set()
            stop.acquire(timeout=30)  # held until the thread is told to stop
            stop.release()
            batches.append(1)
            return self._storage.ingest(*args, **options)

    host.segment(GOOD * 50)
    ingester = Ingester(Storage(host.storage, lambda: None), host.folder, batch_bytes=1000)
    thread = thread_of(host, ingester)
    with ingester._host_lock.held():  # until its stop lock is known here
        thread.start()
        stop = thread._stop
    assert began.wait(30)
    thread.stop()

    assert len(batches) == 1
    assert 0 < host.hits() < 10


@pytest.mark.parametrize(
    ("max_spool_bytes", "shortest"), [(1 << 30, 0.1), (8 << 20, 0.1), (1 << 19, 0.05)]
)
def test_rest_gathers_no_more_than_a_share_of_the_spool(
    max_spool_bytes: int, shortest: float, host: Host
) -> None:
    host.segment(many(12_000))  # some 2 MB
    thread = thread_of(host, host.ingester, max_spool_bytes=max_spool_bytes)

    pause = thread._ingest(0.05, new_lock())

    assert shortest <= pause <= 1.0
    assert (pause == 0.05) == (max_spool_bytes == 1 << 19)
    assert 0 < thread._host_lock.rest_seconds(1.0) <= pause


def test_closing_leaves_a_long_spool_to_the_next_start(
    tracked: Callable[..., Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IngestThread, "CLOSING_SECONDS", 0.0)
    tracker = tracked(ingest=True)
    tracker._backend.ingester._batch_bytes = 1000
    (tmp_path / "visits.db-spool" / "found.ndjson").write_bytes(GOOD * 50)

    tracker.close()
    stored = look(tracker._backend.storage).summary().total_hits
    tracker._backend.ingester.wake()

    assert 0 < stored < 10
    assert look(tracker._backend.storage).summary().total_hits == 50


def test_thread_rests_little_while_reports_are_asked_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.ingest_thread.REST_PER_WORK", 1e6)
    thread, pauses = thread_of(host, host.ingester), []
    for asked_seconds_ago in (None, 1, ASKED_SECONDS + 1):
        if asked_seconds_ago is not None:
            thread.note_report()
            thread._asked_at -= asked_seconds_ago
        host.segment(GOOD)
        pauses.append(thread._ingest(1.0, new_lock()))

    assert pauses == [LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_WHILE_ASKED, LONGEST_PAUSE_SECONDS]


class Tidied:
    """Real storage; ``act`` runs in place of its checkpoints."""

    def __init__(self, storage: Any, act: Callable[[], None]) -> None:
        self._storage = storage
        self.tidy = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        pytest.param(StorageError("the disk is full"), 0, id="outage"),
        pytest.param(ZeroDivisionError(), 1, id="fault"),
    ],
)
def test_checkpoint_that_fails_keeps_the_thread_from_nothing(
    error: Exception, logged: int, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise error

    thread = thread_of(host, Ingester(Tidied(host.storage, fail), host.folder))
    thread.start()
    assert tried.wait(30)
    host.segment(GOOD)
    deadline = time.monotonic() + 30
    while host.hits() < 1:
        assert time.monotonic() < deadline
    thread.stop()

    assert sum("checkpoints are left" in text for text in caplog.messages) == logged


def test_checkpoints_come_with_many_visits_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.sqlite.VISITS_PER_CHECKPOINT", 10)
    found = [host.database.read_bytes()]
    for visits in (6, 6, 6):
        host.segment(many(visits))
        host.ingest()
        host.storage.tidy()
        found.append(host.database.read_bytes())

    assert found[0] == found[1] != found[2] == found[3]


def test_checkpoint_that_failed_is_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.sqlite.VISITS_PER_CHECKPOINT", 3)
    host.segment(many(3))
    host.ingest()
    before = host.database.read_bytes()
    pool = host.storage._file._pool  # type: ignore[attr-defined]

    def refuse() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(pool, "checkpoint", refuse)
        with pytest.raises(StorageError, match="disk I/O"):
            host.storage.tidy()
    assert host.database.read_bytes() == before

    host.storage.tidy()

    assert host.database.read_bytes() != before
