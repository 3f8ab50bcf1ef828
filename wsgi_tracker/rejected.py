"""Lines of the spool that are no visits, kept beside it for whoever wants to know what they were.

They are counted in storage whether they can be kept or not, and nothing waits for them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import Outage
from .segments import REJECTED, write_whole

MAX_BYTES = 64 << 20
# A pipe or link in its place must not stop the thread, nor lead elsewhere.
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW


class RejectedLines:
    """The file ``rejected.ndjson`` of a spool; it takes 64 MB."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / REJECTED
        self.outage = Outage("lines that are no visits are counted, but not kept")

    @contextmanager
    def kept(self, lines: Sequence[bytes], *, sync: bool = False) -> Iterator[None]:
        """Append lines before they are counted within, and take them back where that fails.

        A process that is killed within leaves them there, and they come again. Where they cannot
        be kept, the log says so. With ``sync`` they are on the disk.
        """
        data = b"".join(line + b"\n" for line in lines)
        fd = self._append(data, sync)
        try:
            yield
        except BaseException:
            if fd is not None:
                with suppress(OSError):
                    os.ftruncate(fd, os.fstat(fd).st_size - len(data))
            raise
        finally:
            if fd is not None:
                os.close(fd)

    def _append(self, data: bytes, sync: bool) -> int | None:
        """Return the open file that holds ``data`` at its end; ``None`` where there is none."""
        try:
            fd = os.open(self._path, FLAGS, 0o600)
            try:
                _write(fd, data, sync)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            self.outage.report(f"{error}; see {self._path}, and move it away")
            return None
        self.outage.over()
        return fd


def _write(fd: int, data: bytes, sync: bool) -> None:
    size = os.fstat(fd).st_size
    if size >= MAX_BYTES:
        raise OSError(errno.EFBIG, f"it holds {size >> 20} MB already")
    try:
        write_whole(fd, data)
    except OSError:
        os.ftruncate(fd, size)  # the next line would be glued to a part of one
        raise
    if sync:
        os.fsync(fd)
