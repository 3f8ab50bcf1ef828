"""Append visits to this process's segment, a file that the host's ingester reads and deletes.

A line is in the kernel's hands when ``append`` returns, so it survives the death of its process.
Each rule below prevents a loss that was seen: a segment is held with ``flock`` by its one writing
process, and only who gets that lock may delete it; the writer looks after locking whether its
file was deleted before; rotation puts the new file on the old descriptor's number, and closing
puts one there that nobody can write to, so that a thread that is about to write cannot hit a
stranger's file. Nothing is logged while the lock is held: a handler may yield to a greenlet that
waits for it.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import Outage, logger
from .process import new_lock, watch_forks
from .rescue import Rescue, adopt_restored
from .segments import (
    counts_line,
    create_segment,
    is_at,
    make_folder,
    segment_sizes,
    write_whole,
)

SEGMENT_BYTES = 8 << 20
SMALLEST_SEGMENT_BYTES = 4096
# How much is written before the process is looked at: a fork may have run no Python hooks, as
# uWSGI's, and to ask before each visit would cost 0.2 µs. Until then a child appends to its parent's
# segment, whose descriptor and lock it shares: nothing is lost, but it starts no ingest thread.
LOOK_BYTES = 16 << 10
RETRY_SECONDS = 1.0
# A write that the kernel cuts short is nearly always the first that a full disk refuses.
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
DAMAGED = (
    "was deleted, moved or cut while visits were written to it: a new one goes on; of one that was "
    "cut, what was there is lost, and so may be what followed; leave these files to the processes "
    "that write them"
)
ADVICE = "make room on its disk, or give this process's user the right to write there"
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
        self._fd = -1  # once there is one, it keeps its number
        self.folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._on_open = on_open
        self._path = folder  # of the open segment
        self._rescue = Rescue(folder, sync=fsync)
        self._outage = Outage(f"visits are dropped, {folder} cannot be written")
        self._reset()
        watch_forks(in_child=self._after_fork_in_child)

    def _reset(self) -> None:
        self._is_open = False  # decides; a thread that is interrupted may store an old room
        self._room = -1  # bytes until this process looks again
        self._rest = 0  # what the segment takes beyond these
        self._seen_bytes = 0  # of the open segment, at the last look
        self._is_failing = False  # visits are dropped, until a segment is opened for them
        self._retry_at = 0.0
        self._retry_counts_at = 0.0
        self._counts: Counter[str] = Counter()
        self._written_counts = 0
        self._damaged = False  # a segment was, and the log does not know yet
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
        size = len(line)
        self._room = room = self._room - size
        if room < 0 and not self._make_room():
            self.drop()
            return False
        try:
            written = os.write(self._fd, line)
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
                if not self._is_open:
                    continue
                self._room -= len(line)
                try:
                    written, problem = os.write(self._fd, line), NO_SPACE
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
            self._leave()
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
                if self._counts and (self._is_open or now >= self._retry_counts_at):
                    self._append_counts()
        except OSError as error:
            self._report(error)

    def _append_counts(self) -> None:
        try:
            if not self._is_open:
                # Only for counts, which a full spool takes, too; visits try to open their own.
                self._retry_counts_at = time.monotonic() + RETRY_SECONDS
                self._open(room=0)
            write_whole(self._fd, counts_line(self._counts))
        except OSError:
            self._fail()
            self._leave()
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
        self._outage.report(f"{reason}; {ADVICE}" if reason else str(problem))

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
        if self._is_open and self._room >= 0:
            return True
        return False if time.monotonic() < self._retry_at else None

    def _extend_or_open(self) -> bool:
        """Return whether another segment was opened."""
        if self._is_open and self._rest > 0:
            self._extend()
            return False
        was_failing = self._is_failing
        try:
            self._open_segment()
        except OSError:
            # All of it may be stored: it takes room from everybody until it is left. One for
            # counts stays while it is small.
            if self._is_open and not (was_failing and self._is_small()):
                self._leave()
            raise
        return True

    def _is_small(self) -> bool:
        return os.fstat(self._fd).st_size < SMALLEST_SEGMENT_BYTES

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
            self._open(room=min(self._segment_bytes, share))
        except OSError:
            self._fail()
            raise
        self._is_failing = False
        self._retry_at = 0.0

    def _open(self, *, room: int) -> None:
        make_folder(self.folder)
        fd, self._path = create_segment(self.folder, sync=self._fsync)
        self._adopt(fd, room=room)

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
                if self._is_open and self._is_damaged():
                    self._leave()
                    self._open_segment()
                    opened = True
        except OSError as error:
            self._report(error)
        try:
            with self._locked():
                damaged, self._damaged = self._damaged, False
                self._rescue.restore()
        except OSError as error:
            self._rescue.outage.report(f"{error.strerror or error}; {ADVICE}")
        else:
            self._rescue.outage.over()
        if damaged:
            logger.error("a segment in %s %s", self.folder, DAMAGED)
        if opened:
            self._on_open()

    def _is_damaged(self) -> bool:
        size = os.fstat(self._fd).st_size
        self._damaged = size < self._seen_bytes or not self._is_in_place()
        self._seen_bytes = size
        return self._damaged

    def _is_in_place(self) -> bool:
        try:
            return is_at(self._path, self._fd)
        except OSError:  # a folder that cannot be looked into
            return True

    def _adopt(self, fd: int, *, room: int) -> None:
        if self._fd < 0:
            self._fd = fd
        else:
            # A write under way keeps the old file, and its lock, to its end.
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
        self._room, self._rest = (0, room) if room else (-1, 0)
        self._seen_bytes = 0
        self._extend()
        self._is_open = True

    def _leave(self) -> None:
        """Leave the segment to the ingester; a write that comes late fails with EBADF.

        Without a descriptor to spare it stays open, which loses nothing either.
        """
        was_open, self._is_open, self._room, self._rest = self._is_open, False, -1, 0
        if self._fd >= 0:
            with suppress(OSError):
                if was_open and not self._is_in_place():
                    self._rescue.hold(os.dup(self._fd), self._path)
                    self._damaged = True
                unwritable = os.open(os.devnull, os.O_RDONLY)
                os.dup2(unwritable, self._fd, inheritable=False)
                os.close(unwritable)

    def _extend(self) -> None:
        """Write on in the same segment."""
        more = min(self._rest, LOOK_BYTES)
        self._rest -= more
        self._room += more

    def close(self) -> None:
        """Leave the segment to the ingester; a later ``append`` opens another.

        Its descriptor stays, as another thread may be about to write, and goes with the spool.
        """
        self._write_counts(math.inf)
        with self._locked():
            self._leave()
        self._mend()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._rescue.let_go()

    def _after_fork_in_child(self) -> None:
        """Close the parent's segment; unlocking it would unlock it for the parent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._reset()
