"""The key of every ``user_hash``: permanent or of a day, made at random or derived from one given.

A visit is hashed before it reaches the spool, so no key may depend on a database that answers.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

from .errors import StorageError
from .storage import SECRET_BYTES, random_secret

EPOCH = date(1970, 1, 1)


class Secret:
    """The permanent secret: made once, in storage, with a copy in the spool's ``folder``.

    Without the copy, a process that starts while the database is locked could record nobody; and a
    database that is made anew while processes run takes it, as they go on with it. Otherwise
    storage decides: a copy that differs from it is replaced. Only its owner can read it.
    """

    def __init__(self, folder: Path) -> None:
        self._copy = folder / "secret"
        self._known: bytes | None = None  # that this process goes on with

    def make(self) -> bytes:
        """Return the secret of a new database: the copy, else the known one, else a random one."""
        return _read(self._copy) or self._known or random_secret()

    def keep(self) -> None:
        """Write the copy again where it is missing: the spool may have been deleted."""
        if self._known is not None and not os.path.exists(self._copy):
            self._write(self._known)

    def ask(self, fetch: Callable[[], bytes]) -> bytes:
        """Return what ``fetch`` does, and keep a copy; the copy while it raises StorageError."""
        try:
            secret = fetch()
        except StorageError:
            copy = _read(self._copy)
            if copy is None:
                raise
            self._known = copy
            return copy
        if secret != _read(self._copy):
            self._write(secret)
        self._known = secret
        return secret

    def _write(self, secret: bytes) -> None:
        with suppress(OSError), _written(self._copy, secret) as written:  # a full disk
            written.replace(self._copy)


class DailySecret:
    """A random secret for each UTC day, in the spool's ``folder`` alone: a day later, it is gone.

    So nobody can tell then whose visits a ``user_hash`` counts, nor that two days had a visitor in
    common. It is in no database, log or backup of one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, day: int) -> bytes:
        """Return the secret of this day, in days since the epoch; all processes of a host agree.

        Raises :exc:`StorageError` where the folder cannot be written.
        """
        try:
            return self._of(EPOCH + timedelta(days=day))
        except OSError as error:
            raise StorageError(f"the secret of the day cannot be kept: {error}") from error

    def _of(self, day: date) -> bytes:
        # At midnight another process may be ahead by a moment.
        today, tomorrow = self._path(day), self._path(day + timedelta(days=1))
        secret = _read(today) or _read(tomorrow) or self._make(today) or _read(tomorrow)
        if secret is None:
            raise OSError(f"{today} is damaged, delete it")
        # Each process does, as the one that made it may have been killed before.
        for old in self._folder.glob(self._path(None).name):
            if old not in (today, tomorrow):
                _shred(old)
        return secret

    def _make(self, path: Path) -> bytes | None:
        with suppress(FileExistsError), _written(path, random_secret()) as written:
            os.link(written, path)  # unless another process was first
        return _read(path)

    def _path(self, day: date | None) -> Path:
        return self._folder / f"secret-{day or '*'}"


def derived_secret(given: str | bytes, day: int) -> bytes:
    """Return the secret of a day, 0 for the permanent one, that all hosts derive from one given."""
    data = given.encode() if isinstance(given, str) else given
    key = hashlib.blake2b(data, digest_size=SECRET_BYTES).digest()
    return hashlib.blake2b(str(day).encode(), digest_size=SECRET_BYTES, key=key).digest()


def secret_mark(given: str | bytes | None) -> str:
    """Return what tells secrets apart and says nothing of them; ``own`` where none is given."""
    return "own" if given is None else derived_secret(given, -1).hex()[:16]


def _read(path: Path) -> bytes | None:
    try:
        secret = path.read_bytes()
    except OSError:
        return None
    # Zeros are what _shred leaves for a moment: whoever took them could be found out by anybody.
    return secret if len(secret) == SECRET_BYTES and any(secret) else None


@contextmanager
def _written(path: Path, secret: bytes) -> Iterator[Path]:
    """Write a secret to a file beside ``path``, to be put there whole: others may be reading."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            os.write(fd, secret)
        finally:
            os.close(fd)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _shred(path: Path) -> None:
    """Overwrite a secret, as far as its disk does that in place, and delete it."""
    with suppress(OSError):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, bytes(SECRET_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        path.unlink(missing_ok=True)
