"""The thread that ingests, and purges and counts between: much at a time, seldom, once per host."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import Outage, StorageError
from .hostlock import HostLock
from .ingest import Ingester, spool_errors
from .process import new_lock, unpatched, watch_forks
from .retention import Retention

SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# A batch of 50 visits costs twice the CPU per visit that one of 1,000 does, so who works much also
# rests long and finds a large batch. Nobody waits for it: reports read what is not ingested yet.
REST_PER_WORK = 20
# A report reads all that waits, at some 10 µs a visit.
LONGEST_PAUSE_WHILE_ASKED = 0.15
ASKED_SECONDS = 10.0
# What one rest may gather of what the spool may hold; the rest is for a load that grows.
SPOOL_SHARE = 1 / 8
SHORTEST_STEP_PAUSE_SECONDS = 0.002


class IngestThread:
    """Have a spool of at most ``max_spool_bytes`` ingested, and what ``retention`` tells purged.

    ``on_ingest`` is called after something was ingested. One thread per process that has called
    ``start``; those of a host take turns.
    """

    # A server that stops kills what takes long; the rest is safe in the spool.
    CLOSING_SECONDS = 2.0

    def __init__(
        self,
        ingester: Ingester,
        retention: Retention,
        folder: Path,
        max_spool_bytes: int,
        *,
        on_ingest: Callable[[], None] = lambda: None,
    ) -> None:
        self._ingester = ingester
        self._on_ingest = on_ingest
        self._retention = retention
        self._host_lock = HostLock.of(folder)
        self._longest_rest_bytes = max_spool_bytes * SPOOL_SHARE
        self._purge_outage = Outage("visits that are too old are not purged")
        self._count_outage = Outage("reports are slow, as visits are not counted")
        self._tidy_outage = Outage("checkpoints are left to who stores visits", forget_seconds=60.0)
        self._look_outage = Outage("nobody looks at what was ingested", forget_seconds=60.0)
        self._start_outage = Outage("visits wait in the spool for a report, or for another process")
        self._reset()
        watch_forks(in_child=self._reset)  # the parent's thread is not inherited

    def _reset(self) -> None:
        self._start_lock = new_lock()  # guards the two that follow
        self._stop: Any = None
        self._stopped: Any = None
        self._pid = os.getpid()
        self._asked_at = -ASKED_SECONDS
        self._is_count_due = False  # only who ingests opens a database for it

    def _check_process(self) -> None:
        # A fork that ran no Python hooks, as uWSGI's: the parent's thread is not here.
        if self._pid != os.getpid():
            self._reset()

    def start(self) -> None:
        """Start the thread of this process, unless it runs; where there can be none, say so."""
        self._check_process()
        try:
            with self._start_lock:
                if self._stop is not None:
                    return
                # Locks as events: released means set. A real thread also under gevent, where
                # threading's own would be a greenlet and stop every request while SQLite works.
                stop, stopped = new_lock(), new_lock()
                stop.acquire()
                stopped.acquire()
                unpatched("_thread", "start_new_thread")(self._run, (stop, stopped))
                self._stop, self._stopped = stop, stopped
        except RuntimeError as error:  # the next call tries again
            self._start_outage.report(f"{error}; let this process's user have more threads")
        else:
            self._start_outage.over()

    def _run(self, stop: Any, stopped: Any) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not stop.acquire(timeout=pause):
            longest = self._longest_pause()
            pause = self._host_lock.rest_seconds(longest) or self._ingest(min(pause, longest), stop)
            pause = min(pause, self._purge(), self._count())
            self._tidy()
        stopped.release()

    def _ingest(self, pause: float, stop: Any) -> float:
        """Ingest, and return how long to rest then: long after much work, or if there is none."""
        began = time.monotonic()
        size = self._ingester.wake(stop.locked)
        if not size:
            return min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        pause = min(REST_PER_WORK * (time.monotonic() - began), self._longest_pause())
        pause = min(pause, LONGEST_PAUSE_SECONDS * self._longest_rest_bytes / size)
        pause = max(pause, SHORTEST_PAUSE_SECONDS)
        self._host_lock.rest(pause)
        self._is_count_due = True
        self._call_on_ingest()
        return pause

    def _longest_pause(self) -> float:
        is_asked = time.monotonic() - self._asked_at < ASKED_SECONDS
        return LONGEST_PAUSE_WHILE_ASKED if is_asked else LONGEST_PAUSE_SECONDS

    def _call_on_ingest(self) -> None:
        try:
            self._on_ingest()
        except Exception as error:  # the thread has other work
            self._look_outage.report_bug(error)

    def _purge(self) -> float:
        """Do one step of a purge, if it is time; return how long the next one can wait."""
        if not self._retention.is_due():
            return LONGEST_PAUSE_SECONDS
        return self._take_step(self._retention.step, self._purge_outage)

    def _count(self) -> float:
        """Count some that was not counted as it came; return how long the next step can wait."""
        if not self._is_count_due:
            return LONGEST_PAUSE_SECONDS
        return self._take_step(self._count_some, self._count_outage)

    def _count_some(self) -> bool:
        self._is_count_due = self._ingester.count()  # it stays due where this raises
        return self._is_count_due

    def _tidy(self) -> None:
        try:
            self._ingester.tidy()
        except StorageError:
            pass  # whoever stores next says so
        except Exception as error:  # the thread has other work
            self._tidy_outage.report_bug(error)

    def _take_step(self, step: Callable[[], bool], outage: Outage) -> float:
        """Take one, if nobody else on this host works; return how long the next one can wait."""
        began = time.monotonic()
        try:
            with spool_errors(), self._host_lock.held() as ours:
                if not ours:
                    return LONGEST_PAUSE_SECONDS
                more = step()
            outage.over()
        except StorageError as error:
            if not self._ingester.problems:  # else it is known
                outage.report(str(error))
            return LONGEST_PAUSE_SECONDS
        except Exception as error:  # whatever it is, there is a next time
            outage.report_bug(error)
            return LONGEST_PAUSE_SECONDS
        if not more:
            return LONGEST_PAUSE_SECONDS
        # As long as the step took, that others get their turn.
        return max(time.monotonic() - began, SHORTEST_STEP_PAUSE_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether this process has the thread."""
        return self._stop is not None and self._pid == os.getpid()

    def note_report(self) -> None:
        """Rest less for a while, as reports are asked for: so they find little that waits."""
        self._asked_at = time.monotonic()

    @property
    def problems(self) -> list[str]:
        """What keeps the thread from its work; nothing where this process is to have none."""
        if self._stop is None:
            return [known for known in [self._start_outage.known] if known]
        outages = (self._purge_outage, self._count_outage)
        known = [problem for outage in outages if (problem := outage.known)]
        return [*self._ingester.problems, *known]

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Stop it and wait for its end; a later ``start`` begins another."""
        self._check_process()
        with self._start_lock:
            stop, stopped, self._stop = self._stop, self._stopped, None
        if stop is not None:
            stop.release()
            stopped.acquire(timeout=timeout_seconds)

    def finish(self) -> None:
        """Stop it, and ingest what is left."""
        self.stop()
        self._ingester.look_again()
        deadline = time.monotonic() + self.CLOSING_SECONDS
        self._ingester.wake(lambda: time.monotonic() < deadline)
