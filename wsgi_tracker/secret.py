"""The key of every ``user_hash``: made once, in storage, with a copy beside the spool.

A visit is hashed before it reaches the spool, so a process that starts while the database is locked
could record nobody without the copy; and a database that is made anew while processes run takes the
copy, as they go on with it. Otherwise storage decides: a copy that differs from it is replaced.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import StorageError
from .storage import SECRET_BYTES, random_secret


class Secret:
    """The secret's copy in the spool's ``folder``, readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        self._copy = folder / "secret"

    def make(self) -> bytes:
        """Return the secret of a new database: the copy, else a random one."""
        return self._read() or random_secret()

    def ask(self, fetch: Callable[[], bytes]) -> bytes:
        """Return what ``fetch`` does, and keep a copy; the copy while it raises StorageError."""
        try:
            secret = fetch()
        except StorageError:
            copy = self._read()
            if copy is None:
                raise
            return copy
        if secret != self._read():
            self._write(secret)
        return secret

    def _read(self) -> bytes | None:
        try:
            copy = self._copy.read_bytes()
        except OSError:
            return None
        return copy if len(copy) == SECRET_BYTES else None

    def _write(self, secret: bytes) -> None:
        """Replace the copy as a whole: another process may be reading it."""
        temporary = self._copy.with_name(f".secret-{secrets.token_hex(8)}")
        with suppress(OSError):  # a full disk; the next process tries again
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(fd, secret)
            finally:
                os.close(fd)
            temporary.replace(self._copy)
