"""Lines of the spool that are no visits, kept beside it for whoever wants to know what they were.

They are counted in storage whether they can be kept or not, and nothing waits for them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import Outage
from .segments import REJECTED, write_whole

MAX_BYTES = 64 << 20
# A pipe or link in its place must not stop the thread, nor lead elsewhere.
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW


class RejectedLines:
    """The file ``rejected.ndjson`` of a spool; it takes 64 MB.

    Lines are kept before the commit that counts them. One that fails is taken back by
    :meth:`undo`; a process that is killed between the two leaves lines that come again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / REJECTED
        self._size_before: int | None = None
        self.outage = Outage("lines that are no visits are counted, but not kept")

    def keep(self, lines: Sequence[bytes], *, sync: bool = False) -> None:
        """Append lines; where that fails, the log says so. With ``sync`` they are on the disk."""
        try:
            self._append(b"".join(line + b"\n" for line in lines), sync)
        except OSError as error:
            self.outage.report(f"{error}; see {self._path}, and move it away")
        else:
            self.outage.over()

    def begin(self) -> None:
        """Begin a batch, which :meth:`undo` could take back."""
        self._size_before = None

    def undo(self) -> None:
        """Take back what was kept of the batch."""
        if self._size_before is not None:
            with suppress(OSError):
                os.truncate(self._path, self._size_before)

    def _append(self, data: bytes, sync: bool) -> None:
        fd = os.open(self._path, FLAGS, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size >= MAX_BYTES:
                raise OSError(errno.EFBIG, f"it holds {size >> 20} MB already")
            self._size_before = size
            try:
                write_whole(fd, data)
            except OSError:
                os.ftruncate(fd, size)  # the next line would be glued to a part of one
                raise
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
