"""Move the host's spool into storage: one process at a time, every line exactly once.

The ingest lock makes it fast, the transaction makes it exact: positions are read again where the
visits are stored, and what this process remembers only saves it from looking.
"""

from __future__ import annotations

import math
import os
import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Outage, StorageError
from .hostlock import HostLock
from .process import new_lock, unpatched, watch_forks
from .rejected import RejectedLines
from .retention import Retention
from .segments import BatchReader, Segment, open_segments, segment_sizes
from .storage import FINISHED, Positions, Storage

BATCH_BYTES = 4 << 20
MAX_OPEN = 64  # segments of a batch; some systems give a process 256 descriptors for everything
SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# A batch of 50 visits costs twice the CPU per visit that one of 1,000 does, so who works much also
# rests long and finds a large batch. Nobody waits for it: a report ingests what it needs.
REST_PER_WORK = 20
SHORTEST_PURGE_PAUSE_SECONDS = 0.002
LOOK_SECONDS = 2.0  # how often quiet segments are tested for a writer that is gone


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits in the spool: bytes of whole lines, and the first one's timestamp if known."""

    size_bytes: int = 0
    oldest_timestamp: int | None = None


class Ingester:
    """Ingest a spool, from a thread or when asked.

    ``on_wake`` is called before the thread's passes and before catching up. With ``durable``, all
    that is stored survives a power cut; otherwise what cannot be read from the spool again does.
    Between passes, the thread has ``retention`` purge a little at a time.
    """

    # A server that stops kills what takes long; the rest is safe in the spool.
    CLOSING_SECONDS = 2.0

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        *,
        batch_bytes: int = BATCH_BYTES,
        durable: bool = False,
        on_wake: Callable[[], None] = lambda: None,
        retention: Retention | None = None,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._batch_bytes = batch_bytes
        self._durable = durable
        self._on_wake = on_wake
        self._retention = retention
        self._host_lock = HostLock.of(folder)
        self._outage = Outage("visits wait in the spool")
        self._refused = Outage("visits of another user wait in the spool")
        self._rejected = RejectedLines(folder)
        self._purge_outage = Outage("visits that are too old are not purged")
        self._reset()
        watch_forks(in_child=self._reset)  # the parent's thread is not inherited

    def _reset(self) -> None:
        # Segment file -> its size when last read to the end: there is nothing new in it.
        self._hints: dict[str, int] = {}
        self._last_name = ""  # of the last batch
        self._refused_names: set[str] = set()
        self._look_at = 0.0
        self._ingested_bytes = 0
        self._start_lock = new_lock()  # guards the two that follow
        self._stop: Any = None
        self._stopped: Any = None
        self._pid = os.getpid()

    def _check_process(self) -> None:
        # A fork that ran no Python hooks, as uWSGI's: the parent's thread is not here.
        if self._pid != os.getpid():
            self._reset()

    def start(self) -> None:
        """Start the thread of this process, unless it runs."""
        self._check_process()
        with self._start_lock:
            if self._stop is not None:
                return
            # Locks as events: released means set. A real thread also under gevent, where
            # threading's own would be a greenlet and stop every request while SQLite works.
            stop, stopped = self._stop, self._stopped = new_lock(), new_lock()
            stop.acquire()
            stopped.acquire()
        unpatched("_thread", "start_new_thread")(self._run, (stop, stopped))

    def _run(self, stop: Any, stopped: Any) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while not stop.acquire(timeout=pause):
            pause = self._host_lock.rest_seconds(LONGEST_PAUSE_SECONDS) or self._work(pause, stop)
            pause = min(pause, self._purge())
        stopped.release()

    def _work(self, pause: float, stop: Any) -> float:
        """Ingest, and return how long to rest then: long after much work, or if there is none."""
        began = time.monotonic()
        if not self._ingest_while(stop.locked):
            return min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        pause = REST_PER_WORK * (time.monotonic() - began)
        pause = min(max(pause, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._host_lock.rest(pause)
        return pause

    def _purge(self) -> float:
        """Do one step of a purge, if it is time; return how long the next one can wait."""
        if self._retention is None or not self._retention.is_due():
            return LONGEST_PAUSE_SECONDS
        began = time.monotonic()
        try:
            with self._host_lock.held() as ours:
                more = not ours or self._retention.step()
            self._purge_outage.over()
        except StorageError as error:
            self._purge_outage.report(str(error))
            return LONGEST_PAUSE_SECONDS
        except Exception as error:  # whatever it is, there is a next time
            self._purge_outage.report_bug(error)
            return LONGEST_PAUSE_SECONDS
        if not more:
            return LONGEST_PAUSE_SECONDS
        # As long as the step took, that others get their turn.
        return max(time.monotonic() - began, SHORTEST_PURGE_PAUSE_SECONDS)

    def wake(self, seconds: float = math.inf) -> bool:
        """Ingest all there is, but begin no batch after ``seconds``; True if there was anything.

        Never raises: the log says why.
        """
        deadline = time.monotonic() + seconds
        return self._ingest_while(lambda: time.monotonic() < deadline)

    def _ingest_while(self, may_go_on: Callable[[], bool]) -> bool:
        before = self._ingested_bytes
        try:
            self._on_wake()
            while self.run_once() and may_go_on():
                pass
        except StorageError:
            pass  # it is logged
        except Exception as error:  # whatever it is, the next wake tries again
            self._outage.report_bug(error)
        return self._ingested_bytes != before

    @property
    def problems(self) -> list[str]:
        """What keeps this process's thread from its work; nothing where there is none."""
        if self._stop is None:
            return []
        outages = (self._outage, self._refused, self._rejected.outage, self._purge_outage)
        return [known for outage in outages if (known := outage.known)]

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Stop the thread and wait for it; a later ``start`` begins another."""
        self._check_process()
        with self._start_lock:
            stop, stopped, self._stop = self._stop, self._stopped, None
        self._look_at = 0.0
        if stop is not None:
            stop.release()
            stopped.acquire(timeout=timeout_seconds)

    def run_once(self) -> bool:
        """Ingest one batch if nobody else on this host is at it; True if more waits.

        Raises :exc:`StorageError`, also where the spool itself is out of order.
        """
        try:
            with spool_errors(), self._host_lock.held() as ours:
                if not ours:
                    return False
                more = self._ingest_batch()
        except StorageError as error:
            self._outage.report(str(error))
            raise
        # Known only to who could try: where others hold the lock, they may be failing.
        self._outage.over()
        return more

    def _ingest_batch(self) -> bool:
        chosen, more = self._choose()
        with ExitStack() as opened:
            segments = self._open(chosen, opened)
            if not more:
                self._tell_refused()
            reading = BatchReader(segments, self._batch_bytes)
            if segments:
                self._store(reading)
        # Only now, as other threads read it: what is not committed is not stored.
        self._hints = {**self._hints, **chosen, **reading.ends}
        self._ingested_bytes += reading.size_bytes
        return more or reading.more

    def _choose(self) -> tuple[dict[str, int], bool]:
        """Return segments of one batch, with their sizes, and whether others are left for the next.

        They are those that grew and, now and then, all.
        """
        sizes = segment_sizes(self._folder)
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._hints = {}  # the database may have been replaced by one that lacks these lines
            self._refused_names = set()
        hints = self._hints
        names = sorted(name for name, size in sizes.items() if size != hints.get(name))
        # In turn, as some grow all the time.
        turn = bisect(names, self._last_name)
        names = names[turn:] + names[:turn]
        chosen = {name: sizes[name] for name in names[:MAX_OPEN]}
        self._last_name = next(reversed(chosen), "")
        return chosen, len(names) > len(chosen)

    def _open(self, names: Iterable[str], opened: ExitStack) -> list[Segment]:
        segments = []
        for segment in open_segments(self._folder, names, self._refused_names.add):
            opened.callback(segment.close)
            segments.append(segment)
        return segments

    def _tell_refused(self) -> None:
        if self._refused_names:
            self._refused.report(
                f"no permission to read {min(self._refused_names)}; let all processes run as one "
                f"user, or give the files in {self._folder} to the one who ingests"
            )
        else:
            self._refused.over()

    def _store(self, reading: BatchReader) -> None:
        # Locked before their size is read: nothing can be added to what is read to its end.
        orphaned = [segment for segment in reading.segments if segment.lock()]
        rejected = self._storage.ingest(
            [segment.id for segment in reading.segments],
            reading.read,
            durable=self._durable or bool(orphaned),
        )
        if rejected:  # only now: a commit that fails is tried again, and finds them again
            self._rejected.keep(rejected)
        for segment in reading.finished:
            segment.unlink()

    def catch_up(self, seconds: float) -> Queue:
        """Ingest, or wait for who does, all that is in the spool now; return what is left.

        Raises :exc:`StorageError`, also where the spool itself is out of order.
        """
        try:
            with spool_errors():
                return self._catch_up(seconds)
        except StorageError as error:
            self._outage.report(str(error))
            raise

    def _catch_up(self, seconds: float) -> Queue:
        self._on_wake()
        wanted = self._backlog()
        deadline = time.monotonic() + seconds
        pause = 0.001
        while wanted:
            more = self.run_once()
            stored = self._storage.positions(list(wanted))
            wanted = {id: line for id, line in wanted.items() if _behind(stored, id, line.end)}
            if not wanted:
                break
            if time.monotonic() > deadline:
                return self._queue(wanted, stored)
            if not more:
                time.sleep(pause)
                pause = min(pause * 2, 0.02)
        return Queue()

    def _backlog(self) -> dict[str, _LastLine]:
        """Return where each segment's last whole line ends, by its id."""
        sizes = segment_sizes(self._folder)
        grown = [name for name, size in sizes.items() if size != self._hints.get(name)]
        backlog = {}
        for segment in open_segments(self._folder, grown):
            try:
                backlog[segment.id] = _LastLine(segment.name, segment.end_of_lines())
            finally:
                segment.close()
        return backlog

    def _queue(self, wanted: dict[str, _LastLine], stored: Positions) -> Queue:
        size, oldest = 0, None
        for segment in open_segments(self._folder, [line.name for line in wanted.values()]):
            try:
                position = max(stored.get(segment.id, 0), segment.first)
                size += max(0, wanted[segment.id].end - position)
                timestamp = segment.timestamp_at(position)
                if timestamp is not None and (oldest is None or timestamp < oldest):
                    oldest = timestamp
            finally:
                segment.close()
        return Queue(size, oldest)


@dataclass(frozen=True, slots=True)
class _LastLine:
    name: str
    end: int


@contextmanager
def spool_errors() -> Iterator[None]:
    """Say of which thing an operating system's error is."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"the spool cannot be used: {error}") from error


def _behind(stored: Positions, segment: str, end: int) -> bool:
    position = stored.get(segment, 0)
    return position != FINISHED and position < end
