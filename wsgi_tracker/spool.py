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
from .segments import (
    counts_line,
    create_segment,
    make_folder,
    restore_segment,
    segment_sizes,
    write_whole,
)

SEGMENT_BYTES = 8 << 20
# How much is written before the process is looked at: a fork may have run no Python hooks, as
# uWSGI's, and to ask before each visit would cost 0.2 µs. Until then a child appends to its parent's
# segment, whose descriptor and lock it shares: nothing is lost, but it starts no ingest thread.
LOOK_BYTES = 16 << 10
RETRY_SECONDS = 1.0
# A write that the kernel cuts short is nearly always the first that a full disk refuses.
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
DAMAGED = (
    "was deleted or cut while visits were written to it: a new one goes on, with what could be "
    "saved; leave these files to the processes that write them"
)
ADVICE = (
    "make room on its disk, give this process's user the right to write there, or bring back the "
    "database that visits wait for"
)


class Spool:
    """Append lines to this process's segment; threads share it without a lock.

    ``on_open`` is called when a segment was opened: in a new process, or after a rotation; and
    when there is only something to count, which wants to be written down, too. With ``fsync``, a
    line is on the disk when ``append`` returns, and survives a power cut.
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
        # A small spool has small segments: one that is still written to is not deleted.
        self._segment_bytes = min(segment_bytes, max(max_bytes // 16, 4096))
        self._fsync = fsync
        self._on_open = on_open
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
            self._leave()
        self._report(problem)
        if not written:
            self.drop()
        # else: the ingester finds the torn line, and counts it.
        return False

    def drop(self, count: int = 1) -> None:
        """Count visits that were meant to be recorded and are not in the spool."""
        with self._locked():
            self._counts["dropped"] += count

    def ignore(self) -> None:
        """Count a request that was said to be no visit."""
        with self._locked():
            first = not self._counts["ignored"]
            self._counts["ignored"] += 1
        if first:
            self._on_open()

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
                self._adopt(self._new_segment(math.inf), room=0)
            write_whole(self._fd, counts_line(self._counts))
        except OSError:
            self._fail()
            self._leave()
            raise
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
        self._outage.report(f"{problem.strerror or problem}; {ADVICE}")

    def _make_room(self) -> bool:
        try:
            with self._locked():
                if self._has_room():
                    return True
                if time.monotonic() < self._retry_at:
                    return False
                began = not self._is_failing
                self._open_segment()
        except OSError as error:
            self._report(error)
            if began:
                self._on_open()
            return False
        self._outage.over()
        self._on_open()
        return True

    def _has_room(self) -> bool:
        """Look whether this segment takes more; another thread may have opened it meanwhile."""
        if not self._is_open:
            return False
        if self._room < 0 < self._rest:
            self._extend()
            return True
        return self._room >= 0

    def _open_segment(self) -> None:
        try:
            self._adopt(self._new_segment(self._max_bytes), room=self._segment_bytes)
        except OSError:
            self._fail()
            raise
        self._is_failing = False
        self._retry_at = 0.0

    def tend(self) -> None:
        """Write down what was dropped, and leave a segment that somebody deleted or truncated.

        Its writer would notice nothing. What it holds goes back into the folder, under the same
        id: storage knows how much of it is stored.
        """
        try:
            with self._locked():
                damaged = self._is_open and self._is_damaged()
                if damaged:
                    self._replace_damaged()
        except OSError as error:
            self._report(error)
        else:
            if damaged:
                logger.error("a segment in %s %s", self.folder, DAMAGED)
        self.write_counts()

    def _is_damaged(self) -> bool:
        status = os.fstat(self._fd)
        shrunk = status.st_size < self._seen_bytes
        self._seen_bytes = status.st_size
        return shrunk or not status.st_nlink

    def _replace_damaged(self) -> None:
        damaged = os.dup(self._fd)
        try:
            self._open_segment()
            restore_segment(self.folder, damaged)
        finally:
            os.close(damaged)

    def _new_segment(self, max_bytes: float) -> int:
        """Create a segment, unless the spool holds so much."""
        make_folder(self.folder)
        if sum(segment_sizes(self.folder).values()) >= max_bytes:
            raise OSError(f"it holds max_spool_bytes={max_bytes} already")
        return create_segment(self.folder, sync=self._fsync)

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
        self._is_open, self._room, self._rest = False, -1, 0
        if self._fd >= 0:
            with suppress(OSError):
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

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _after_fork_in_child(self) -> None:
        """Close the parent's segment; unlocking it would unlock it for the parent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._reset()
