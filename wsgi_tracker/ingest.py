"""Move the host's spool into storage: one process at a time, every line exactly once.

The ingest lock makes it fast, the transaction makes it exact: positions are read again where the
visits are stored, and what this process remembers only saves it from looking.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .batches import SMALL_BATCH_BYTES, BatchReader, unread_bytes
from .errors import Outage, StorageError
from .hostlock import HostLock
from .rejected import RejectedLines
from .segments import (
    SUFFIX,
    Segment,
    explain_refusal,
    look_at_segments,
    open_segments,
    segment_sizes,
)
from .storage import FINISHED, HardBatchError, Positions, Storage

BATCH_BYTES = 2 << 20
MAX_OPEN = 64  # segments of a batch; some systems give a process 256 descriptors for everything
LOOK_SECONDS = 2.0  # how often quiet segments are tested for a writer that is gone


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits in the spool: bytes of whole lines, and the first one's timestamp if known."""

    size_bytes: int = 0
    oldest_timestamp: int | None = None


class Ingester:
    """Ingest a spool, when asked.

    ``on_wake`` is called before. With ``durable``, all that is stored survives a power cut;
    otherwise what cannot be read from the spool again does.
    """

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        *,
        batch_bytes: int = BATCH_BYTES,
        durable: bool = False,
        on_wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._batch_bytes = batch_bytes
        self._careful_bytes = BATCH_BYTES  # less behind a batch that was hard to read
        self._durable = durable
        self._on_wake = on_wake
        self._host_lock = HostLock.of(folder)
        self._outage = storage.outage
        self._refusal = Outage("visits wait in the spool")
        self._wake_outage = Outage("the spool is not looked after", forget_seconds=60.0)
        self._rejected = RejectedLines(folder)
        # Segment file -> its size when last read to the end: there is nothing new in it.
        self._hints: dict[str, int] = {}
        self._last_name = ""  # of the last batch
        self._refused: dict[str, OSError] = {}  # segment files that could not be read
        self._generation: object = None  # of the storage that the hints are about
        self._look_at = 0.0
        self._ingested_bytes = 0

    def wake(self, may_go_on: Callable[[], bool] = lambda: True) -> int:
        """Ingest all there is, batch by batch as long as it may; return how many bytes it was.

        Never raises: the log says why.
        """
        before = self._ingested_bytes
        try:
            self._call_on_wake()
            while self.run_once() and may_go_on():
                pass
        except StorageError:
            pass  # it is logged
        except Exception as error:  # whatever it is, the next time tries again
            self._outage.report_bug(error)
        return self._ingested_bytes - before

    def _call_on_wake(self) -> None:
        try:
            self._on_wake()
        except Exception as error:  # what is in the spool can be stored all the same
            self._wake_outage.report_bug(error)

    @property
    def problems(self) -> list[str]:
        """What kept this process from ingesting when it last tried."""
        outages = (self._outage, self._refusal, self._rejected.outage)
        return [known for outage in outages if (known := outage.known)]

    def look_again(self) -> None:
        """Take no segment for quiet that the next batch could find finished."""
        self._look_at = 0.0

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
        self._classify_new()
        return more

    def _classify_new(self) -> None:
        """Have user agents classified for which this process was not ready; the batch is stored.

        Where it fails, whoever stores the next batch does it.
        """
        if self._storage.load_classifier():  # others may ingest meanwhile
            with suppress(StorageError, OSError), self._host_lock.held() as ours:
                if ours:
                    self._storage.count()

    def _ingest_batch(self) -> bool:
        chosen, more = self._choose()
        hints = self._hints
        with ExitStack() as opened:
            reading = self._store_some(self._open(chosen, opened))
        self._refused.update(reading.refused)
        if not more:
            self._tell_refused()
        # Only now, as other threads read it: what is not committed is not stored. Nor what was
        # in a storage that another thread has found to be replaced.
        if hints is self._hints:
            self._hints = {**hints, **chosen, **reading.ends}
        self._ingested_bytes += reading.size_bytes
        return more or reading.more

    def _choose(self) -> tuple[dict[str, int], bool]:
        """Return segments of one batch, with their sizes, and whether others are left for the next.

        They are those that grew and, now and then, all.
        """
        sizes = segment_sizes(self._folder)
        self._forget_now_and_then()
        hints = self._hints
        names = sorted(name for name, size in sizes.items() if size != hints.get(name))
        # In turn, as some grow all the time.
        turn = bisect(names, self._last_name)
        names = names[turn:] + names[:turn]
        chosen = {name: sizes[name] for name in names[:MAX_OPEN]}
        self._last_name = next(reversed(chosen), "")
        return chosen, len(names) > len(chosen)

    def _forget_now_and_then(self) -> None:
        """Take no segment for quiet whose writer may be gone, or that a new storage lacks."""
        now, generation = time.monotonic(), self._storage.generation()
        if now >= self._look_at or generation != self._generation:
            self._look_at = now + LOOK_SECONDS
            self._generation = generation
            self._hints, self._refused = {}, {}

    def _open(self, names: Iterable[str], opened: ExitStack) -> list[Segment]:
        segments = []
        for segment in open_segments(self._folder, names, self._refuse):
            opened.callback(segment.close)
            segments.append(segment)
        return segments

    def _refuse(self, name: str, error: OSError) -> None:
        self._refused[name] = error

    def _tell_refused(self) -> None:
        refused = dict(self._refused)  # other threads add to it
        if refused:
            name = min(refused)
            self._refusal.report(explain_refusal(self._folder, name, refused[name]))
        else:
            self._refusal.over()

    def _store_some(self, segments: list[Segment]) -> BatchReader:
        reading = BatchReader(segments, min(self._careful_bytes, self._batch_bytes))
        if segments:
            try:
                self._store(reading)
                self._careful_bytes = min(self._careful_bytes * 2, BATCH_BYTES)
            except HardBatchError:
                self._careful_bytes = SMALL_BATCH_BYTES
                reading = BatchReader(segments, SMALL_BATCH_BYTES)
                self._store(reading)
        return reading

    def _store(self, reading: BatchReader) -> None:
        # Locked before their size is read: nothing can be added to what is read to its end.
        orphaned = [segment for segment in reading.segments if segment.lock()]
        durable = self._durable or bool(orphaned)
        self._storage.ingest(
            [segment.id for segment in reading.segments],
            reading.read,
            durable=durable,
            kept=partial(self._rejected.kept, sync=durable),
        )
        for segment in reading.finished:
            segment.unlink()

    def open_grown(self) -> list[Segment] | None:
        """Open the segments that may hold what storage lacks, for the caller to close.

        ``None`` where they are too many, or one of them cannot be read: whoever ingests says so.
        """
        with ExitStack() as opened:
            try:
                grown = self._grown()
                if len(grown) > MAX_OPEN:
                    return None
                segments = self._open(grown, opened)
            except OSError:
                return None
            if self._refused:
                return None
            opened.pop_all()
            return segments

    def count(self) -> bool:
        """Count some visits that were not counted when they came; True if more are left.

        The caller holds the host's ingest lock. Raises :exc:`StorageError`.
        """
        return self._storage.count()

    def tidy(self) -> None:
        """Do upkeep that would else delay who stores visits next. Raises :exc:`StorageError`."""
        self._storage.tidy()

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
        self._call_on_wake()
        wanted = self._backlog()
        deadline = time.monotonic() + seconds
        pause = 0.001
        while wanted:
            more = self.run_once()
            stored = self._storage.positions(list(wanted))
            wanted = {
                id: line
                for id, line in wanted.items()
                if _behind(stored, id, line.end) and line.name not in self._refused
            }
            if not wanted:
                break
            if time.monotonic() > deadline:
                return self._queue(wanted, stored)
            if not more:
                time.sleep(pause)
                pause = min(pause * 2, 0.02)
        return self._queue({}, {})

    def _backlog(self) -> dict[str, _LastLine]:
        """Return where each segment's last whole line ends, by its id."""
        return {
            segment.id: _LastLine(segment.name, end)
            for segment, end in look_at_segments(self._folder, self._grown(), self._refuse)
        }

    def _grown(self) -> list[str]:
        """Return the segments that may have grown since they were read to their end."""
        self._forget_now_and_then()
        hints = self._hints
        sizes = segment_sizes(self._folder)
        return [name for name, size in sizes.items() if size != hints.get(name)]

    def _queue(self, wanted: dict[str, _LastLine], stored: Positions) -> Queue:
        size, timestamps = self._refused_bytes(), []
        names = [line.name for line in wanted.values()]
        for segment, _ in look_at_segments(self._folder, names, self._refuse):
            if segment.id in wanted:
                position = max(stored.get(segment.id, 0), segment.first)
                size += max(0, wanted[segment.id].end - position)
                timestamps.append(segment.timestamp_at(position))
        return Queue(size, min((t for t in timestamps if t is not None), default=None))

    def _refused_bytes(self) -> int:
        """Return what storage lacks of the segments that this process cannot read."""
        if not self._refused:
            return 0
        sizes = segment_sizes(self._folder)
        refused = {name: sizes[name] for name in list(self._refused) if name in sizes}
        stored = self._storage.positions([name.removesuffix(SUFFIX) for name in refused])
        return sum(unread_bytes(name, size, stored) for name, size in refused.items())


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
        raise StorageError(
            f"the spool cannot be used: {error}; let this process read and write its folder, on a "
            f"local disk that works, and open enough files"
        ) from error


def _behind(stored: Positions, segment: str, end: int) -> bool:
    position = stored.get(segment, 0)
    return position != FINISHED and position < end
