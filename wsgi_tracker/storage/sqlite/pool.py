"""Connections to one SQLite file: a bounded number of readers and one writer, per process.

A connection must not cross a fork: closing it in the child damages the parent's shared memory
file. So idle ones are closed before a fork, and one that was in use is kept for ever, unused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ...errors import PoolTimeoutError, TooManyQuestionsError
from ...process import new_lock, watch_forks

# A request for a report waits so long for a connection, and is answered 503 then.
LOAN_PATIENCE_SECONDS = 1.0
CLOSE_PATIENCE_SECONDS = 5.0
FORK_PATIENCE_SECONDS = 5.0
CHECKPOINTS = 3

_inherited: list[sqlite3.Connection] = []


class PooledConnection(sqlite3.Connection):
    """A connection that knows which file it has open, and when that was last written to."""

    inode: tuple[int, int] | None = None
    version: tuple[int, int] | None = None


class ConnectionPool:
    """Lend connections to threads, and take them back.

    ``connect(writing)`` opens one. A connection to a file that was deleted, replaced or written to
    behind our back is not lent again. ``close`` may be called twice; a later loan opens anew.
    """

    def __init__(
        self,
        database: Path,
        connect: Callable[[bool], PooledConnection],
        *,
        readers: int = 8,
        timeout_seconds: float = LOAN_PATIENCE_SECONDS,
    ) -> None:
        self._database = database
        self._connect = connect
        self._readers = readers
        self._long_readers = max(1, readers // 2)
        self._timeout_seconds = timeout_seconds
        self._reset()
        watch_forks(
            before=self._before_fork,
            in_parent=self._after_fork_in_parent,
            in_child=self._after_fork_in_child,
        )

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[PooledConnection] = deque()
        self._lent: set[PooledConnection] = set()
        self._slots = threading.BoundedSemaphore(self._readers)
        self._long_slots = threading.BoundedSemaphore(self._long_readers)
        self._writer: PooledConnection | None = None
        self._writer_lock = new_lock()
        self._held: list[int] = []  # loans that each fork under way keeps back

    @contextmanager
    def reader(self, *, long: bool = False) -> Iterator[PooledConnection]:
        """Lend a read-only connection; :exc:`PoolTimeoutError` when none comes free in time.

        Only half of them are lent for ``long``: the others are left to what takes milliseconds.
        """
        self._check_process()
        with self.long_slot(self._timeout_seconds) if long else nullcontext():
            slots = self._slots
            if not slots.acquire(timeout=self._timeout_seconds):
                raise PoolTimeoutError(
                    f"all {self._readers} connections stayed busy for {self._timeout_seconds:g} s"
                )
            try:
                with self._lending() as connection:
                    yield connection
            finally:
                slots.release()

    @contextmanager
    def long_slot(self, timeout_seconds: float) -> Iterator[None]:
        """Be one of those that may take long; :exc:`TooManyQuestionsError` if there are enough."""
        self._check_process()
        slots = self._long_slots
        if not slots.acquire(timeout=timeout_seconds):
            raise TooManyQuestionsError(
                f"{self._long_readers} questions that take long are being answered: come again"
            )
        try:
            yield
        finally:
            slots.release()

    @contextmanager
    def _lending(self) -> Iterator[PooledConnection]:
        connection = self._take_idle() or self._open(writing=False)
        try:
            yield connection
        except BaseException:
            self._discard(connection)
            raise
        # A child that was forked while this was lent has forgotten it.
        if connection in self._lent:
            self._lent.discard(connection)
            self._idle.append(connection)

    @contextmanager
    def writer(self) -> Iterator[PooledConnection]:
        """Lend the one connection that may write, to one thread at a time.

        Of several processes, SQLite lets one write; who writes much holds the host's ingest lock.
        """
        self._check_process()
        lock = self._writer_lock
        if not lock.acquire(timeout=self._timeout_seconds):
            raise PoolTimeoutError(f"the writer stayed busy for {self._timeout_seconds:g} s")
        try:
            connection = self._writer
            if connection is not None and not self._is_unchanged(connection):
                connection.close()
                connection = None
            if connection is None:
                connection = self._open(writing=True)
            self._lent.add(connection)
            self._writer = connection
            try:
                yield connection
            except BaseException:
                self._writer = None
                self._discard(connection)
                raise
            self._lent.discard(connection)
            # Its own checkpoints write to the file.
            connection.version = version(self._database)
        finally:
            lock.release()

    def checkpoint(self) -> None:
        """Move what is in the log to the file, while others read and write."""
        with self.reader() as connection:
            before = version(self._database)
            # The next one to write begins the log anew only if nothing came meanwhile.
            for _ in range(CHECKPOINTS):
                busy, frames, moved = connection.execute("PRAGMA wal_checkpoint").fetchone()
                if busy or moved == frames:
                    break
            after = version(self._database)
            # What they remember of the file still holds.
            # Copied at once, as others lend and return meanwhile.
            for other in (*self._idle.copy(), *self._lent.copy(), self._writer):
                if other is not None and other.version == before:
                    other.version = after

    def _take_idle(self) -> PooledConnection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if self._is_unchanged(connection):
                self._lent.add(connection)
                return connection
            connection.close()

    def _open(self, *, writing: bool) -> PooledConnection:
        self._close_lost()
        before = inode(self._database)
        version_before = version(self._database)
        connection = self._connect(writing)
        after = inode(self._database)
        # Replaced meanwhile: which of the two is open is not known, so it is not lent again.
        connection.inode = after if before in (after, None) else None
        connection.version = version_before
        self._lent.add(connection)
        return connection

    def _close_lost(self) -> None:
        """Close what is idle with a file that was deleted or replaced.

        While a process has the shared memory of such a file open, SQLite takes it for that of the
        new one, and fails to read the pages of which it tells.
        """
        for _ in range(len(self._idle)):
            with suppress(IndexError):  # lent meanwhile
                connection = self._idle.popleft()
                if self.is_current(connection):
                    self._idle.append(connection)
                else:
                    connection.close()

    def is_current(self, connection: PooledConnection) -> bool:
        """Return whether the connection has the file open that is there now."""
        return connection.inode is not None and connection.inode == inode(self._database)

    def _is_unchanged(self, connection: PooledConnection) -> bool:
        """Return whether what the connection remembers of its file is still so.

        A damaged file is noticed only where it is read, and SQLite would go on for days with the
        pages that it remembers. Another's checkpoint looks the same, and costs a memory only that
        was out of date.
        """
        same_file = self.is_current(connection)
        return same_file and connection.version == version(self._database)

    def _discard(self, connection: PooledConnection) -> None:
        if connection in self._lent:
            self._lent.discard(connection)
            connection.close()

    def _check_process(self) -> None:
        # A fork that ran no Python hooks, as uWSGI's: noticed when the child first asks.
        if self._pid != os.getpid():
            self._after_fork_in_child()

    def close(self) -> None:
        """Close every idle connection."""
        self._check_process()
        with suppress(IndexError):  # a report may take the last one
            while True:
                self._idle.pop().close()
        if self._writer_lock.acquire(timeout=CLOSE_PATIENCE_SECONDS):
            try:
                writer, self._writer = self._writer, None
                if writer is not None:
                    writer.close()
            finally:
                self._writer_lock.release()

    def _before_fork(self) -> None:
        """Wait for running statements, lend nothing more, and close what is idle."""
        self._check_process()
        deadline = time.monotonic() + FORK_PATIENCE_SECONDS
        held = 0  # kept per fork: two at once must not forget each other's
        try:
            for _ in range(self._readers):
                if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    break
                held += 1
        finally:
            self._held.append(held)
        self.close()

    def _after_fork_in_parent(self) -> None:
        """Lend again."""
        for _ in range(self._held.pop() if self._held else 0):
            self._slots.release()

    def _after_fork_in_child(self) -> None:
        """Forget the parent's connections without closing them."""
        _inherited.extend(self._idle)
        _inherited.extend(self._lent)
        if self._writer is not None:
            _inherited.append(self._writer)
        self._reset()


def version(database: Path) -> tuple[int, int] | None:
    """Tell whether somebody wrote to a file."""
    try:
        status = os.stat(database)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def inode(database: Path) -> tuple[int, int] | None:
    """Tell a file from another that replaces it."""
    try:
        status = os.stat(database)
    except OSError:
        return None
    return status.st_dev, status.st_ino
