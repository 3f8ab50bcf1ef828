"""The thread that ingests: it starts once, rests long but not too long, and stops between batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import GOOD, BeforeIngest, Host, many, thread_of

from wsgi_tracker import Tracker
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.ingest_thread import IngestThread
from wsgi_tracker.process import new_lock


class AfterIngest:
    """Real storage; ``act`` runs after each batch was stored."""

    def __init__(self, storage: Any, act: Callable[[], None]) -> None:
        self._storage = storage
        self._act = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def ingest(self, *args: Any, **options: Any) -> Any:
        rejected = self._storage.ingest(*args, **options)
        self._act()
        return rejected


def test_thread_ingests_by_itself_and_stops(host: Host) -> None:
    stored = threading.Event()
    thread = thread_of(host, Ingester(AfterIngest(host.storage, stored.set), host.folder))
    before = threading.active_count()

    thread.start()
    thread.start()
    host.segment(GOOD)

    assert stored.wait(30)
    thread.stop()
    thread.stop()
    assert host.hits() == 1
    assert threading.active_count() == before


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
    ("max_spool_bytes", "shortest"), [(1 << 30, 0.1), (8 << 20, 0.1), (1 << 20, 0.05)]
)
def test_rest_gathers_no_more_than_a_share_of_the_spool(
    max_spool_bytes: int, shortest: float, host: Host
) -> None:
    host.segment(many(12_000))  # some 2 MB
    thread = thread_of(host, host.ingester, max_spool_bytes=max_spool_bytes)

    pause = thread._ingest(0.05, new_lock())

    assert shortest <= pause <= 1.0
    assert (pause == 0.05) == (max_spool_bytes == 1 << 20)
    assert 0 < thread._host_lock.rest_seconds(1.0) <= pause


def test_closing_leaves_a_long_spool_to_the_next_start(
    tracked: Callable[..., Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IngestThread, "CLOSING_SECONDS", 0.0)
    tracker = tracked(ingest=True)
    tracker._ingester._batch_bytes = 1000
    (tmp_path / "visits.db-spool" / "found.ndjson").write_bytes(GOOD * 50)

    tracker.close()
    stored = tracker._storage.summary(0).total_hits
    tracker._ingester.wake()

    assert 0 < stored < 10
    assert tracker._storage.summary(0).total_hits == 50
