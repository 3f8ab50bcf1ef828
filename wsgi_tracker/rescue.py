"""Put segments that were deleted under their writer back into the spool's folder.

The descriptor of such a file is all that is left of its visits: it is kept until they are on the
disk again, under the same id, as storage knows how much of it is stored.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager
from pathlib import Path

from .errors import Outage, logger
from .segments import SUFFIX, WRITE_ADVICE, header, is_at, make_folder, sync_folders, write_whole

RESTORING = ".restoring"
DAMAGED = (
    "was deleted, moved or cut while visits were written to it: a new one goes on; of one that was "
    "cut, what was there is lost, and so may be what followed; leave these files to the processes "
    "that write them"
)


class Rescue:
    """The damaged segments of one process; the caller lets in one thread at a time."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._folder = folder
        self._sync = sync
        self._held: dict[int, Path] = {}
        self._damaged = False  # a segment was, and the log does not know yet
        self._outage = Outage("a deleted segment cannot be put back, and ends with this process")

    def hold(self, fd: int, path: Path) -> None:
        """Keep an open file that is not at ``path`` any more; it is this object's to close."""
        self._held[fd] = path
        self.note()

    def note(self) -> None:
        """Note that a segment was damaged."""
        self._damaged = True

    def tend(self, lock: AbstractContextManager[object]) -> None:
        """Put back what is held, and log what happened; what fails waits for the next call.

        ``lock`` is taken for the first.
        """
        try:
            with lock:
                damaged, self._damaged = self._damaged, False
                self._restore()
        except OSError as error:
            self._outage.report(f"{error.strerror or error}; {WRITE_ADVICE}")
        else:
            self._outage.over()
        if damaged:
            logger.error("a segment in %s %s", self._folder, DAMAGED)

    def _restore(self) -> None:
        for fd, path in list(self._held.items()):
            make_folder(self._folder)
            _put_back(fd, path, sync=self._sync)
            del self._held[fd]
            os.close(fd)

    def let_go(self) -> None:
        """Close what is held, and forget what was noted."""
        self._damaged = False
        while self._held:
            os.close(self._held.popitem()[0])


def _put_back(fd: int, path: Path, *, sync: bool) -> None:
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    if not content.startswith(header(path.stem)) or is_at(path, fd):
        return  # it was cut before, or has come back
    temporary = path.with_suffix(RESTORING)
    copy = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        fcntl.flock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_whole(copy, content)
        os.fsync(copy)
        temporary.rename(path)
        if sync:
            sync_folders(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(copy)


def adopt_restored(folder: Path) -> None:
    """Make segments of what processes had nearly put back when they were killed."""
    for path in folder.glob("*" + RESTORING):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size:
                path.rename(path.with_suffix(SUFFIX))
        except BlockingIOError:
            pass  # its process is at it
        finally:
            os.close(fd)
