"""Move the host's spool into storage: one process at a time, every line exactly once.

The ingest lock makes it fast, the transaction makes it exact: positions are read again where the
visits are stored, and what this process remembers only saves it from looking.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Outage, StorageError
from .process import new_lock, unpatched, watch_forks
from .spool import COUNTS, REJECTED, SUFFIX, Segment, make_folder, segment_sizes
from .storage import FINISHED, Batch, Positions, Storage

BATCH_BYTES = 4 << 20
SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
LOOK_SECONDS = 2.0  # how often quiet segments are tested for a writer that is gone
MAX_REJECTED_BYTES = 64 << 20
FORK_PATIENCE_SECONDS = 5.0


class HostLock:
    """The right to ingest one spool: one thread, of one process, of the host.

    A record lock on a file that is never deleted, and opened only here: closing any descriptor
    of it would release the lock. Unlike ``flock`` it is not inherited by a forked child, which
    would keep it from everybody after its parent's death. It does not keep threads apart, so a
    mutex stands before it; :meth:`of` gives all trackers of a process the same one.
    """

    _all: dict[Path, HostLock] = {}
    _all_lock = new_lock()

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ingest.lock"
        self._reset()
        watch_forks(self)

    @classmethod
    def of(cls, folder: Path) -> HostLock:
        """Return this process's lock of a spool."""
        with cls._all_lock:
            if folder not in cls._all:
                cls._all[folder] = cls(folder)
            return cls._all[folder]

    def _reset(self) -> None:
        self._fd = -1
        self._pid = os.getpid()
        self._mutex = new_lock()
        self._held_for_fork = False

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Try, without waiting; yields whether it is ours."""
        if self._pid != os.getpid():  # a fork that ran no Python hooks
            self.after_fork_in_child()
        mutex = self._mutex
        if not mutex.acquire(blocking=False):
            yield False
            return
        try:
            if not self._lock():
                yield False
                return
            try:
                yield True
            finally:
                if mutex is self._mutex:  # not in a child forked meanwhile
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)
        finally:
            mutex.release()

    def _lock(self) -> bool:
        if self._fd < 0:
            make_folder(self._path.parent)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def before_fork(self) -> None:
        """Let no ingest be under way."""
        self._held_for_fork = self._mutex.acquire(timeout=FORK_PATIENCE_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held_for_fork:
            self._mutex.release()

    def after_fork_in_child(self) -> None:
        """Close the parent's file; a child holds none of its record locks."""
        if self._fd >= 0:
            os.close(self._fd)
        self._reset()


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits in the spool: bytes of whole lines, and the first one's timestamp if known."""

    size_bytes: int = 0
    oldest_timestamp: int | None = None


class Ingester:
    """Ingest a spool, from a thread or when asked.

    ``on_wake`` is called by the thread before each pass.
    """

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        *,
        batch_bytes: int = BATCH_BYTES,
        on_wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._batch_bytes = batch_bytes
        self._on_wake = on_wake
        self._host_lock = HostLock.of(folder)
        self._outage = Outage("visits wait in the spool")
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._hints: dict[str, int] = {}  # segment file -> end of the lines known to be stored
        self._look_at = 0.0
        self._batches = 0
        self._start_lock = new_lock()  # guards the two that follow
        self._stop: Any = None
        self._stopped: Any = None

    def start(self) -> None:
        """Start the thread of this process, unless it runs."""
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
            if self.wake():
                pause = SHORTEST_PAUSE_SECONDS
            else:
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
        stopped.release()

    def wake(self) -> bool:
        """Ingest all there is; True if there was anything. Never raises: the log says why."""
        before = self._batches
        try:
            self._on_wake()
            while self.run_once():
                pass
            self._outage.over()
        except Exception as error:  # whatever it is, the next wake tries again
            self._outage.report(str(error), None if isinstance(error, StorageError) else error)
        return self._batches != before

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Stop the thread and wait for it; a later ``start`` begins another."""
        with self._start_lock:
            stop, stopped, self._stop = self._stop, self._stopped, None
        self._look_at = 0.0
        if stop is not None:
            stop.release()
            stopped.acquire(timeout=timeout_seconds)

    def run_once(self) -> bool:
        """Ingest one batch if nobody else on this host is at it; True if more waits."""
        with self._host_lock.held() as ours:
            return ours and self._ingest_batch()

    def _ingest_batch(self) -> bool:
        segments = self._open_segments()
        try:
            # Locked before their size is read: nothing can be added to what is read to its end.
            orphaned = [segment for segment in segments if segment.lock()]
            work = [segment for segment in segments if self._has_work(segment)]
            if not work:
                return False
            reading = _Reading(work, self._batch_bytes)
            self._storage.ingest(reading.read, self._keep_rejected, durable=bool(orphaned))
            for segment in reading.finished:
                segment.unlink()
            # Only now, as other threads read it: what is not committed is not stored.
            self._hints = {**self._hints, **reading.ends}
            self._batches += 1
            return reading.more
        finally:
            for segment in segments:
                segment.close()

    def _open_segments(self) -> list[Segment]:
        """Open the segments that grew and, now and then, all others."""
        sizes = segment_sizes(self._folder)
        now = time.monotonic()
        look = now >= self._look_at
        if look:
            self._look_at = now + LOOK_SECONDS
            self._hints = {name: end for name, end in self._hints.items() if name in sizes}
        hints = self._hints
        names = [name for name, size in sizes.items() if look or size != hints.get(name)]
        return list(_open(self._folder, names))

    def _has_work(self, segment: Segment) -> bool:
        return segment.orphaned or segment.size() != self._hints.get(segment.name)

    def _keep_rejected(self, lines: Sequence[bytes]) -> None:
        path = self._folder / REJECTED
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.fstat(fd).st_size < MAX_REJECTED_BYTES:
                os.write(fd, b"".join(line + b"\n" for line in lines))
        finally:
            os.close(fd)

    def catch_up(self, seconds: float) -> Queue:
        """Ingest, or wait for who does, all that is in the spool now; return what is left."""
        wanted = self._backlog()
        deadline = time.monotonic() + seconds
        pause = 0.001
        while wanted:
            self.run_once()
            stored = self._storage.positions()
            wanted = {id: line for id, line in wanted.items() if _behind(stored, id, line.end)}
            if not wanted:
                break
            if time.monotonic() > deadline:
                return self._queue(wanted, stored)
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return Queue()

    def _backlog(self) -> dict[str, _LastLine]:
        """Return where each segment's last whole line ends, by its id."""
        sizes = segment_sizes(self._folder)
        grown = [name for name, size in sizes.items() if size != self._hints.get(name)]
        backlog = {}
        for segment in _open(self._folder, grown):
            try:
                backlog[segment.id] = _LastLine(segment.name, _end_of_lines(segment))
            finally:
                segment.close()
        return backlog

    def _queue(self, wanted: dict[str, _LastLine], stored: Positions) -> Queue:
        size, oldest = 0, None
        for segment in _open(self._folder, [line.name for line in wanted.values()]):
            try:
                position = max(stored.get(segment.id, 0), segment.first)
                size += max(0, wanted[segment.id].end - position)
                timestamp = _timestamp(segment.read(position, 65536))
                if timestamp is not None and (oldest is None or timestamp < oldest):
                    oldest = timestamp
            finally:
                segment.close()
        return Queue(size, oldest)

    def before_fork(self) -> None:
        """Nothing to do: :class:`HostLock` waits for a batch under way."""

    def after_fork_in_parent(self) -> None:
        """Nothing to do."""

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread; threads are not inherited."""
        self._reset()


@dataclass(frozen=True, slots=True)
class _LastLine:
    name: str
    end: int


class _Reading:
    """Read one batch; ``read`` runs within the transaction that stores it."""

    def __init__(self, segments: list[Segment], batch_bytes: int) -> None:
        self.segments = segments
        self._batch_bytes = batch_bytes
        self.finished: list[Segment] = []
        self.ends: dict[str, int] = {}
        self.more = False

    def read(self, positions: Positions) -> Batch:
        """Return whole lines from all segments, at most about one batch."""
        batch, chunks, room = Batch(), [], self._batch_bytes
        for segment in self.segments:
            position = positions.get(segment.id, 0)
            if position == FINISHED:
                # Its file outlived a crash, or is a copy: never read again.
                if segment.orphaned:
                    self.finished.append(segment)
                continue
            if segment.id in batch.positions or segment.is_copy_of_another:
                continue  # a copy waits until the original is finished
            position = max(position, segment.first)
            size = segment.size()
            lines, end = self._lines(segment, position, size, room)
            if lines:
                chunks.append(lines)
                room -= len(lines)
                position = batch.positions[segment.id] = end
            self.ends[segment.name] = position
            if segment.orphaned and position >= size:
                self.finished.append(segment)
                if position > segment.first:
                    batch.finished.append(segment.id)
        batch.data, batch.counts = _without_counts(b"".join(chunks))
        return batch

    def _lines(self, segment: Segment, position: int, size: int, room: int) -> tuple[bytes, int]:
        """Return whole lines from ``position``, and where they end."""
        if size <= position:
            return b"", position
        chunk = segment.read(position, room) if room > 0 else b""
        whole = chunk.rfind(b"\n") + 1
        if position + len(chunk) < size:
            self.more = True
            endless = not whole and len(chunk) >= self._batch_bytes  # a line, but none of ours
        else:
            endless = segment.orphaned and whole < len(chunk)  # torn: nobody will complete it
        if endless:
            return chunk + b"\n", position + len(chunk)
        return chunk[:whole], position + whole


def _open(folder: Path, names: Sequence[str]) -> Iterator[Segment]:
    for name in names:
        try:
            yield Segment(folder, name)
        except FileNotFoundError:
            pass  # another process has finished it


def _behind(stored: Positions, segment: str, end: int) -> bool:
    position = stored.get(segment, 0)
    return position != FINISHED and position < end


def _end_of_lines(segment: Segment) -> int:
    size = segment.size()
    tail = segment.read(max(0, size - 65536), 65536)
    return size - len(tail) + tail.rfind(b"\n") + 1


def _timestamp(line: bytes) -> int | None:
    try:
        timestamp = json.loads(line.partition(b"\n")[0])["timestamp"]
    except (ValueError, KeyError, TypeError):
        return None
    return timestamp if isinstance(timestamp, int) else None


def _without_counts(data: bytes) -> tuple[bytes, Counter[str]]:
    """Take the lines of counts out of the lines of visits."""
    counts: Counter[str] = Counter()
    if COUNTS not in data:
        return data, counts
    visits = []
    for line in data.split(b"\n")[:-1]:
        added = _counts(line) if line.startswith(COUNTS) else None
        if added is None:
            visits.append(line + b"\n")
        else:
            counts.update(added)
    return b"".join(visits), counts


def _counts(line: bytes) -> dict[str, int] | None:
    try:
        counts = json.loads(line)["counts"]
        return {str(name): int(count) for name, count in counts.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
