"""Append visits to this process's segment, a file that the host's ingester reads and deletes.

A line is in the kernel's hands when ``append`` returns, so it survives the death of its process.
Each rule below prevents a loss that was seen: a segment is held with ``flock`` by its one writing
process, and only who gets that lock may delete it; the writer looks after locking whether its
file was deleted before. Nothing is logged while the lock of the threads is held: a handler may
yield to a greenlet that waits for it.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import Outage
from .own_segment import SMALLEST_SEGMENT_BYTES, OwnSegment
from .process import new_lock, watch_forks
from .rescue import Rescue, adopt_restored
from .segments import WRITE_ADVICE, counts_line, make_folder, segment_sizes, write_whole

SEGMENT_BYTES = 8 << 20
RETRY_SECONDS = 1.0
# A write that the kernel cuts short is nearly always the first that a full disk refuses.
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL = (
    "it holds max_spool_bytes={} already; bring back the database that visits wait for, or, if no "
    "process ingests, start one without ingest=False"
)


class Spool:
    """Append lines to this process's segment; threads share it without a lock.

    ``on_open`` is called when a segment was opened, in a new process or after a rotation; when it
    is looked at; and when there is only something to count, which wants to be written down, too.
    With ``fsync``, a line is on the disk when ``append`` returns, and survives a power cut.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 1 << 30,
        segment_bytes: int = SEGMENT_BYTES,
        fsync: bool = False,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._rescue = Rescue(folder, sync=fsync)
        self._segment = OwnSegment(folder, self._rescue, sync=fsync)
        self.folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._on_open = on_open
        self._outage = Outage(f"visits are dropped, {folder} cannot be written")
        self._reset()
        watch_forks(in_child=self._after_fork_in_child)

    def _reset(self) -> None:
        self._segment.forget()
        self._is_failing = False  # visits are dropped, until a segment is opened for them
        self._retry_at = 0.0
        self._retry_counts_at = 0.0
        self._counts: Counter[str] = Counter()
        self._written_counts = 0
        self._rescue.let_go()
        self._lock = new_lock()  # guards opening, and the counts of what is in no line
        self._pid = os.getpid()  # last: who finds it right may use the lock

    def _locked(self) -> Any:
        """Return the lock; in a child that was forked without Python's hooks, one of its own.

        The parent's segment stays open there until another takes its number: another thread may
        be about to write.
        """
        if self._pid != os.getpid():
            self._reset()
        return self._lock

    def append(self, line: bytes) -> bool:
        """Write one line; False if it was dropped, which is counted."""
        size, segment = len(line), self._segment
        segment.room = room = segment.room - size
        if room < 0 and not self._make_room():
            self.drop()
            return False
        try:
            written = os.write(segment.fd, line)
            if written == size:
                return True
            problem = NO_SPACE
        except OSError as error:
            if error.errno == errno.EBADF:
                return self._append_again(line)
            written, problem = 0, error
        return self._give_up(written, problem)

    def _append_again(self, line: bytes) -> bool:
        """Write a line whose segment was closed meanwhile; this time nobody can close it."""
        while self._make_room():
            with self._locked():
                if not self._segment.is_open:
                    continue
                self._segment.room -= len(line)
                try:
                    written, problem = os.write(self._segment.fd, line), NO_SPACE
                except OSError as error:
                    written, problem = 0, error
            return written == len(line) or self._give_up(written, problem)
        self.drop()
        return False

    def _give_up(self, written: int, problem: OSError) -> bool:
        """Leave a segment that takes no more."""
        with self._locked():
            self._fail()
            self._retry_counts_at = self._retry_at
            self._segment.leave()
        self._report(problem)
        if not written:
            self.drop()
        # else: the ingester finds the torn line, and counts it.
        return False

    def drop(self, count: int = 1) -> None:
        """Count visits that were meant to be recorded and are not in the spool."""
        self._count("dropped", count)

    def ignore(self) -> None:
        """Count a request that was said to be no visit."""
        if self._count("ignored", 1):
            self._on_open()

    def _count(self, name: str, count: int) -> bool:
        """Return whether there was nothing to count by this name."""
        with self._locked():
            first = not self._counts[name]
            self._counts[name] += count
            # Few lines for many, and few that are lost where nobody calls ``tend``.
            due = self._counts.total() * 8 > self._written_counts
        if due:
            self.write_counts()
        return first

    def write_counts(self) -> None:
        """Put what was dropped or ignored into a segment, for storage to add up."""
        if self._counts:
            self._write_counts(time.monotonic())

    def _write_counts(self, now: float) -> None:
        try:
            with self._locked():
                if self._counts and (self._segment.is_open or now >= self._retry_counts_at):
                    self._append_counts()
        except OSError as error:
            self._report(error)

    def _append_counts(self) -> None:
        try:
            if not self._segment.is_open:
                # Only for counts, which a full spool takes, too; visits try to open their own.
                self._retry_counts_at = time.monotonic() + RETRY_SECONDS
                self._segment.open(room=0)
            write_whole(self._segment.fd, counts_line(self._counts))
        except OSError:
            self._fail()
            self._segment.leave()
            raise
        self._written_counts += self._counts.total()
        self._counts.clear()

    @property
    def writable(self) -> bool:
        """Whether visits are kept; tries again, once the last attempt is long enough ago."""
        return not self._is_failing or self._make_room()

    @property
    def problem(self) -> str:
        """What was logged last while it was not writable."""
        return self._outage.known

    @property
    def counts(self) -> Mapping[str, int]:
        """How many requests were dropped or ignored that no segment tells of yet."""
        return dict(self._counts)

    def refuse(self, problem: OSError) -> None:
        """Log what will keep visits out of it, before the first one finds out."""
        self._report(problem)

    def _fail(self) -> None:
        self._is_failing = True
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _report(self, problem: OSError) -> None:
        # Without the name of the file, which is another one at each attempt.
        reason = problem.strerror
        self._outage.report(f"{reason}; {WRITE_ADVICE}" if reason else str(problem))

    def _make_room(self) -> bool:
        """Look at the segment, as now and then; write on in it, or open another."""
        began = False
        try:
            with self._locked():
                known = self._knows_room()
            if known is not None:
                return known
            self._mend()
            with self._locked():
                known = self._knows_room()
                began = known is None and not self._is_failing
                opened = known is None and self._extend_or_open()
        except OSError as error:
            self._report(error)
            self.write_counts()
            if began:
                self._on_open()
            return False
        if opened:
            self._outage.over()
        self.write_counts()
        self._on_open()
        return known is not False

    def _knows_room(self) -> bool | None:
        """Return whether there is room, where another thread, or a failure, has just told."""
        if self._segment.is_open and self._segment.room >= 0:
            return True
        return False if time.monotonic() < self._retry_at else None

    def _extend_or_open(self) -> bool:
        """Return whether another segment was opened."""
        if self._segment.is_open and self._segment.extend():
            return False
        was_failing = self._is_failing
        try:
            self._open_segment()
        except OSError:
            # All of it may be stored: it takes room from everybody until it is left. One for
            # counts stays while it is small.
            if self._segment.is_open and not (was_failing and self._segment.is_small()):
                self._segment.leave()
            raise
        return True

    def _open_segment(self) -> None:
        """Open a segment for visits, unless the spool holds as much as it may."""
        try:
            make_folder(self.folder)
            adopt_restored(self.folder)
            sizes = segment_sizes(self.folder)
            if sum(sizes.values()) >= self._max_bytes:
                raise OSError(FULL.format(self._max_bytes))
            # One that is written to is not deleted: the more there are, the less each may hold.
            share = max(self._max_bytes // (16 + 4 * len(sizes)), SMALLEST_SEGMENT_BYTES)
            self._segment.open(room=min(self._segment_bytes, share))
        except OSError:
            self._fail()
            raise
        self._is_failing = False
        self._retry_at = 0.0

    def tend(self) -> None:
        """Write down what was dropped, and leave a segment that somebody deleted or cut.

        Its writer would notice nothing. What was deleted goes back into the folder; until that
        succeeds it is kept, and tried again.
        """
        self._mend()
        self.write_counts()

    def _mend(self) -> None:
        opened = False
        try:
            with self._locked():
                if self._segment.is_open and self._segment.is_damaged():
                    self._rescue.note()
                    self._segment.leave()
                    self._open_segment()
                    opened = True
        except OSError as error:
            self._report(error)
        self._rescue.tend(self._locked())
        if opened:
            self._on_open()

    def close(self) -> None:
        """Leave the segment to the ingester; a later ``append`` opens another.

        Its descriptor stays, as another thread may be about to write, and goes with the spool.
        """
        self._write_counts(math.inf)
        with self._locked():
            self._segment.leave()
        self._mend()

    def __del__(self) -> None:
        self._segment.close()
        self._rescue.let_go()

    def _after_fork_in_child(self) -> None:
        self._segment.close()
        self._reset()
