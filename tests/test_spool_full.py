"""A full spool has room again once storage has all of it, however many processes write to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from calls import answering, environ, serve
from hosts import GOOD, Host

from wsgi_tracker import Tracker
from wsgi_tracker.spool import Spool


@pytest.fixture
def writers(host: Host) -> Iterator[Callable[[int, int], list[Spool]]]:
    spools: list[Spool] = []

    def make(count: int, max_bytes: int) -> list[Spool]:
        spools.extend(Spool(host.folder, max_bytes=max_bytes) for _ in range(count))
        return spools

    yield make
    for spool in spools:
        spool.close()


@pytest.mark.parametrize("processes", [4, 16, 17, 60])
def test_spool_that_was_full_takes_visits_again_from_every_process(
    processes: int, writers: Callable[..., list[Spool]], host: Host, spool_clock: list[float]
) -> None:
    """Segments that were full and stored stayed open, as none could be opened in their place."""
    spools = writers(processes, 400_000)
    kept, writing = 0, list(spools)
    while writing:
        writing = [spool for spool in writing if spool.append(GOOD)]
        kept += len(writing)
    for spool in spools:
        spool.tend()
    host.ingest()
    host.ingest()
    spool_clock[0] += 1

    again = [spool.append(GOOD) for spool in spools]

    assert again == [True] * processes
    for spool in spools:
        spool.close()
    host.ingest()
    assert host.counts() == {"recorded": kept + processes, "dropped": processes}
    assert host.segments() == []


def test_idle_processes_leave_room_to_the_one_that_works(
    writers: Callable[..., list[Spool]], host: Host, spool_clock: list[float]
) -> None:
    """Each held a segment that was stored, and together they were as much as there may be."""
    worker, *idle = writers(64, 400_000)
    for spool in idle:
        while spool.append(GOOD) and spool._segment.room > len(GOOD):
            pass

    kept = 0
    for _ in range(1000):
        kept += worker.append(GOOD)
        spool_clock[0] += 1
        if kept % 20 == 0:
            host.ingest()

    assert kept == 1000


def test_segment_for_counts_is_left_when_it_grows(
    writers: Callable[..., list[Spool]], host: Host, spool_clock: list[float]
) -> None:
    first, second = writers(2, 1)
    assert first.append(GOOD)

    for _ in range(300):
        spool_clock[0] += 1
        assert not second.append(GOOD)
    host.ingest()
    host.ingest()

    assert len(host.segments()) == 2
    assert host.counts()["dropped"] + second.counts["dropped"] == 300


@pytest.mark.parametrize("drops", [1, 10, 1000])
def test_killed_process_that_only_records_loses_few_counts(
    drops: int, tracked: Callable[..., Tracker]
) -> None:
    """It wrote them when it was closed, and never if it was killed."""
    rules = {"exclude": ("/",)}
    child = os.fork()
    if not child:
        tracker = tracked(answering([b"a"]), ingest=False, **rules)
        for _ in range(drops):
            serve(tracker, environ("/"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    tracker: Any = tracked()

    tracker._backend.ingester.catch_up(30)

    ignored = tracker._backend.storage.facts([]).counts["ignored"]
    assert drops * 8 // 9 <= ignored <= drops
