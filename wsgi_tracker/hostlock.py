"""The host's right to ingest, held by one thread of one process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from .process import ForkLock, new_lock, watch_forks
from .segments import is_at, make_folder


class HostLock:
    """The right to ingest one spool: one thread, of one process, of the host.

    A record lock on a file that is never deleted, and opened only here: closing any descriptor
    of it would release the lock. Unlike ``flock`` it is not inherited by a forked child, which
    would keep it from everybody after its parent's death. It does not keep threads apart, so a
    mutex stands before it; :meth:`of` gives all trackers of a process the same one.
    """

    _all: ClassVar[dict[Path, HostLock]] = {}
    _all_lock: ClassVar = new_lock()

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ingest.lock"
        self._fd = -1
        self._pid = os.getpid()
        self._mutex = ForkLock()
        watch_forks(in_child=self._after_fork_in_child)

    @classmethod
    def of(cls, folder: Path) -> HostLock:
        """Return this process's lock of a spool."""
        with cls._all_lock:
            if folder not in cls._all:
                cls._all[folder] = cls(folder)
            return cls._all[folder]

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Try, without waiting; yields whether it is ours.

        Raises :exc:`OSError` where the spool is on a filesystem that has no such locks.
        """
        if self._pid != os.getpid():  # a fork that ran no Python hooks
            self._after_fork_in_child()
        pid = self._pid
        with self._mutex.held() as ours:
            if not ours or not self._lock():
                yield False
                return
            try:
                yield True
            finally:
                if pid == self._pid:  # not in a child forked meanwhile
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        if self._fd >= 0 and not is_at(self._path, self._fd):
            # Somebody deleted or moved the spool: processes that start now lock another file.
            os.close(self._fd)
            self._fd = -1
        if self._fd < 0:
            make_folder(self._path.parent)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX lets a system choose: EAGAIN or EACCES
            return False
        return True

    def rest(self, seconds: float) -> None:
        """Ask the ingest threads of all processes to leave the spool alone for so long.

        Otherwise each of them would come at a time of its own, and find only what arrived since
        the last one. Kept as the time of the file's last change.
        """
        until = time.time() + seconds
        with suppress(OSError):
            os.utime(self._path, (until, until))

    def rest_seconds(self, longest: float) -> float:
        """Return how long to leave the spool alone; a clock that was set back is not obeyed."""
        try:
            seconds = self._path.stat().st_mtime - time.time()
        except OSError:
            return 0.0
        return seconds if 0 < seconds <= longest else 0.0

    def _after_fork_in_child(self) -> None:
        """Close the parent's file; a child holds none of its record locks."""
        fd, self._fd = self._fd, -1  # two threads may notice the fork at once
        if fd >= 0:
            os.close(fd)
        self._pid = os.getpid()
