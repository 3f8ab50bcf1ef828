"""Append visits to this process's segment, a file that the host's ingester reads and deletes.

A line is in the kernel's hands when ``append`` returns, so it survives the death of its process.
Each rule below prevents a loss that was seen: a segment is held with ``flock`` by its one writing
process, and only who gets that lock may delete it; the writer looks after locking whether its
file was deleted before; rotation puts the new file on the old descriptor's number, so that a
thread that is about to write cannot hit a stranger's file.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from .errors import Outage
from .process import new_lock, watch_forks
from .segments import ID_LENGTH, SUFFIX, counts_line, header, make_folder, segment_sizes

SEGMENT_BYTES = 8 << 20
RETRY_SECONDS = 1.0


class Spool:
    """Append lines to this process's segment; threads share it without a lock.

    ``on_open`` is called when a segment was opened: in a new process, or after a rotation.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 1 << 30,
        segment_bytes: int = SEGMENT_BYTES,
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        # A small spool has small segments: one that is still written to is not deleted.
        self._segment_bytes = min(segment_bytes, max(max_bytes // 16, 4096))
        self._on_open = on_open
        self._outage = Outage(f"visits are dropped, {folder} cannot be written")
        self._fd = -1
        self._reset()
        watch_forks(in_child=self._after_fork_in_child)

    def _reset(self) -> None:
        self._room = 0
        self._retry_at = 0.0
        self._lock = new_lock()  # guards opening, and the count of what was dropped
        self._dropped = 0

    def append(self, line: bytes) -> bool:
        """Write one line; False if it was dropped, which is counted."""
        size = len(line)
        self._room = room = self._room - size
        if room < 0 and not self._open():
            self.drop()
            return False
        try:
            written = os.write(self._fd, line)
            if written == size:
                return True
            problem = "short write"
        except OSError as error:
            written, problem = 0, str(error)
        self._abandon(problem)
        if not written:
            self.drop()
        # else: the ingester finds the torn line, and counts it.
        return False

    def drop(self, count: int = 1) -> None:
        """Count visits that were meant to be recorded and are not in the spool."""
        with self._lock:
            self._dropped += count

    def write_counts(self) -> None:
        """Put what was dropped into the segment, for storage to add up."""
        with self._lock:
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
        """Why it is not writable."""
        return self._outage.known

    @property
    def dropped(self) -> int:
        """How many visits were dropped that no segment tells of yet."""
        return self._dropped

    def _abandon(self, problem: str) -> None:
        with self._lock:
            self._room = -1
            self._retry_at = time.monotonic() + RETRY_SECONDS
        self._outage.report(problem)

    def _open(self) -> bool:
        with self._lock:
            if self._room >= 0:
                return True  # another thread has done it
            now = time.monotonic()
            if now < self._retry_at:
                return False
            try:
                self._adopt(self._new_segment())
            except OSError as error:
                self._retry_at = now + RETRY_SECONDS
                self._outage.report(str(error))
                return False
        self._outage.over()
        self._on_open()
        return True

    def _new_segment(self) -> int:
        """Create and lock a segment; return its descriptor."""
        make_folder(self.folder)
        if sum(segment_sizes(self.folder).values()) >= self._max_bytes:
            raise OSError(f"it holds max_spool_bytes={self._max_bytes} already")
        while True:
            segment = os.urandom(ID_LENGTH // 2).hex()
            fd = os.open(
                self.folder / (segment + SUFFIX),
                os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL,
                0o600,
            )
            try:
                # An ingester may be testing this very file: then it deletes it, and we go on.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink == 1:
                    os.write(fd, header(segment))
                    return fd
            except BlockingIOError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _adopt(self, fd: int) -> None:
        if self._fd < 0:
            self._fd = fd
        else:
            # A write under way keeps the old file, and its lock, to its end.
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
        self._room = self._segment_bytes
        self._retry_at = 0.0

    def close(self) -> None:
        """Leave the segment to the ingester; a later ``append`` opens another."""
        self.write_counts()
        with self._lock:
            fd, self._fd, self._room = self._fd, -1, 0
        if fd >= 0:
            os.close(fd)

    def _after_fork_in_child(self) -> None:
        """Close the parent's segment; unlocking it would unlock it for the parent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._reset()
