"""Append visits to this process's segment, a file that the host's ingester reads and deletes.

A line is in the kernel's hands when ``append`` returns, so it survives the death of its process.
Each rule below prevents a loss that was seen: a segment is held with ``flock`` by its one writing
process, and only who gets that lock may delete it; the writer looks after locking whether its
file was deleted before; rotation puts the new file on the old descriptor's number, so that a
thread that is about to write cannot hit a stranger's file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import Outage, logger
from .process import new_lock, watch_forks
from .segments import (
    ID_LENGTH,
    SUFFIX,
    counts_line,
    header,
    make_folder,
    restore_segment,
    segment_sizes,
    sync_folders,
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
ADVICE = (
    "make room on its disk, give this process's user the right to write there, or bring back the "
    "database that visits wait for"
)


class Spool:
    """Append lines to this process's segment; threads share it without a lock.

    ``on_open`` is called when a segment was opened: in a new process, or after a rotation. With
    ``fsync``, a line is on the disk when ``append`` returns, and survives a power cut.
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
        self.folder = folder
        self._max_bytes = max_bytes
        # A small spool has small segments: one that is still written to is not deleted.
        self._segment_bytes = min(segment_bytes, max(max_bytes // 16, 4096))
        # The kernel syncs within the write: another thread's rotation, which puts a new file on the
        # descriptor, cannot come between a line and its fdatasync().
        self._flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | (fsync and os.O_DSYNC)
        self._fsync = fsync
        self._on_open = on_open
        self._outage = Outage(f"visits are dropped, {folder} cannot be written")
        self._fd = -1
        self._reset()
        watch_forks(in_child=self._after_fork_in_child)

    def _reset(self) -> None:
        self._room = -1  # bytes until this process looks again
        self._rest = 0  # what the segment takes beyond these
        self._seen_bytes = 0  # of the open segment, at the last look
        self._retry_at = 0.0
        self._dropped = 0
        self._lock = new_lock()  # guards opening, and the count of what was dropped
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
            written, problem = 0, error
        self._abandon(problem)
        if not written:
            self.drop()
        # else: the ingester finds the torn line, and counts it.
        return False

    def drop(self, count: int = 1) -> None:
        """Count visits that were meant to be recorded and are not in the spool."""
        with self._locked():
            self._dropped += count

    def write_counts(self) -> None:
        """Put what was dropped into the segment, for storage to add up."""
        with self._locked():
            dropped, self._dropped = self._dropped, 0
        if dropped and (self._fd < 0 or not self._append_counts(dropped)):
            self.drop(dropped)

    def _append_counts(self, dropped: int) -> bool:
        line = counts_line(dropped=dropped)
        try:
            return os.write(self._fd, line) == len(line)
        except OSError:
            return False

    @property
    def writable(self) -> bool:
        """Whether the last attempt to open a segment succeeded, or none was needed yet."""
        return not self._retry_at or (self._fd >= 0 and self._room >= 0)

    @property
    def problem(self) -> str:
        """What was logged last while it was not writable."""
        return self._outage.known

    @property
    def dropped(self) -> int:
        """How many visits were dropped that no segment tells of yet."""
        return self._dropped

    def _abandon(self, problem: OSError) -> None:
        with self._locked():
            self._room, self._rest = -1, 0
            self._retry_at = time.monotonic() + RETRY_SECONDS
        self._report(problem)

    def _report(self, problem: OSError) -> None:
        # Without the name of the file, which is another one at each attempt.
        self._outage.report(f"{problem.strerror or problem}; {ADVICE}")

    def _make_room(self) -> bool:
        with self._locked():
            if self._room >= 0:
                return True  # another thread has done it
            if self._rest > 0:
                self._extend()
                return True
            now = time.monotonic()
            if now < self._retry_at:
                return False
            try:
                self._adopt(self._new_segment())
            except OSError as error:
                self._retry_at = now + RETRY_SECONDS
                self._report(error)
                return False
        self._outage.over()
        self._on_open()
        return True

    def tend(self) -> None:
        """Write down what was dropped, and leave a segment that somebody deleted or truncated.

        Its writer would notice nothing. What it holds goes back into the folder, under the same
        id: storage knows how much of it is stored.
        """
        with self._locked():
            if self._fd >= 0 and self._is_damaged():
                self._replace_damaged()
        self.write_counts()

    def _is_damaged(self) -> bool:
        status = os.fstat(self._fd)
        shrunk = status.st_size < self._seen_bytes
        self._seen_bytes = status.st_size
        return shrunk or not status.st_nlink

    def _replace_damaged(self) -> None:
        damaged = os.dup(self._fd)
        try:
            self._adopt(self._new_segment())
            restore_segment(self.folder, damaged)
        except OSError as error:
            self._report(error)
            return
        finally:
            os.close(damaged)
        logger.error(
            "a segment in %s was deleted or cut while visits were written to it: a new one goes "
            "on, with what could be saved; leave these files to the processes that write them",
            self.folder,
        )

    def _new_segment(self) -> int:
        """Create and lock a segment; return its descriptor."""
        make_folder(self.folder)
        if sum(segment_sizes(self.folder).values()) >= self._max_bytes:
            raise OSError(f"it holds max_spool_bytes={self._max_bytes} already")
        while True:
            segment = os.urandom(ID_LENGTH // 2).hex()
            path = self.folder / (segment + SUFFIX)
            fd = os.open(path, self._flags, 0o600)
            try:
                if self._claim(fd, segment):
                    return fd
            except BaseException:
                os.close(fd)
                path.unlink(missing_ok=True)  # a full disk would gather one every second
                raise
            os.close(fd)

    def _claim(self, fd: int, segment: str) -> bool:
        """Lock a new segment and name it; False if an ingester took it for an orphan."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if os.fstat(fd).st_nlink != 1:
            return False
        write_whole(fd, header(segment))
        if self._fsync:
            sync_folders(self.folder)
        return True

    def _adopt(self, fd: int) -> None:
        if self._fd < 0:
            self._fd = fd
        else:
            # A write under way keeps the old file, and its lock, to its end.
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
        self._room, self._rest = 0, self._segment_bytes
        self._seen_bytes = 0
        self._extend()
        self._retry_at = 0.0

    def _extend(self) -> None:
        """Write on in the same segment."""
        more = min(self._rest, LOOK_BYTES)
        self._rest -= more
        self._room += more

    def close(self) -> None:
        """Leave the segment to the ingester; a later ``append`` opens another."""
        with self._lock, suppress(OSError):
            if self._dropped and self._fd < 0:  # nothing but drops: they count, too
                self._adopt(self._new_segment())
        self.write_counts()
        with self._locked():
            fd, self._fd, self._room, self._rest = self._fd, -1, -1, 0
        if fd >= 0:
            os.close(fd)

    def _after_fork_in_child(self) -> None:
        """Close the parent's segment; unlocking it would unlock it for the parent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._reset()
