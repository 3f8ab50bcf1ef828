"""The segment that this process appends to, and the descriptor that keeps its number.

A thread that is about to write must not hit a stranger's file: rotation puts the new segment on the
old descriptor's number, and leaving puts a file there that nobody can write to.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .rescue import Rescue
from .segments import create_segment, is_at, make_folder

SMALLEST_SEGMENT_BYTES = 4096
# How much is written before the process is looked at: a fork may have run no Python hooks, as
# uWSGI's, and to ask before each visit would cost 0.2 µs. Until then a child appends to its parent's
# segment, whose descriptor and lock it shares: nothing is lost, but it starts no ingest thread.
LOOK_BYTES = 64 << 10


class OwnSegment:
    """Where lines go. Any thread writes to ``fd``; the caller lets in one at a time for the rest.

    ``room`` is how many bytes may be written until this process looks again. Who writes counts it
    down without a lock, and may store an old one: ``is_open`` decides.
    """

    def __init__(self, folder: Path, rescue: Rescue, *, sync: bool) -> None:
        self.fd = -1  # once there is one, it keeps its number
        self._folder = folder
        self._path = folder
        self._rescue = rescue
        self._sync = sync
        self.forget()

    def forget(self) -> None:
        """Have no segment; the descriptor stays, as another thread may be about to write."""
        self.is_open = False
        self.room = -1
        self._rest = 0  # what the segment takes beyond the room
        self._seen_bytes = 0  # of it, at the last look

    def open(self, *, room: int) -> None:
        """Open a segment that takes so many bytes; with 0, lines of counts alone."""
        make_folder(self._folder)
        fd, self._path = create_segment(self._folder, sync=self._sync)
        self._adopt(fd, room)

    def _adopt(self, fd: int, room: int) -> None:
        if self.fd < 0:
            self.fd = fd
        else:
            # A write under way keeps the old file, and its lock, to its end.
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)
        self.room, self._rest = (0, room) if room else (-1, 0)
        self._seen_bytes = 0
        self.extend()
        self.is_open = True

    def extend(self) -> bool:
        """Write on in the same segment, if it takes more."""
        more = min(self._rest, LOOK_BYTES)
        self._rest -= more
        self.room += more
        return more > 0

    def leave(self) -> None:
        """Leave the segment to the ingester; a write that comes late fails with EBADF.

        Without a descriptor to spare it stays open, which loses nothing either.
        """
        was_open = self.is_open
        self.forget()
        if self.fd >= 0:
            with suppress(OSError):
                if was_open and not self._is_in_place():
                    self._rescue.hold(os.dup(self.fd), self._path)
                unwritable = os.open(os.devnull, os.O_RDONLY)
                os.dup2(unwritable, self.fd, inheritable=False)
                os.close(unwritable)

    def is_damaged(self) -> bool:
        """Return whether somebody deleted, moved or cut it since the last look."""
        size = os.fstat(self.fd).st_size
        is_cut, self._seen_bytes = size < self._seen_bytes, size
        return is_cut or not self._is_in_place()

    def _is_in_place(self) -> bool:
        try:
            return is_at(self._path, self.fd)
        except OSError:  # a folder that cannot be looked into
            return True

    def is_small(self) -> bool:
        """Return whether it holds next to nothing."""
        return os.fstat(self.fd).st_size < SMALLEST_SEGMENT_BYTES

    def close(self) -> None:
        """Close the descriptor; unlocking a parent's segment would unlock it for the parent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
