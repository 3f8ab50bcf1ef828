"""By what visitors are told apart, the same in every application that shares a storage.

``permanent``: one secret for ever, so that a year's unique users are people. ``daily``: a secret a
day, after which nobody can tell who it was; unique users of longer periods are those of each day.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .errors import ConfigurationError, StorageError
from .secret import DailySecret, Secret, derived_secret, secret_mark
from .storage import Storage

PERMANENT, DAILY = IDENTITIES = ("permanent", "daily")
SHORTEST_SECRET = 16


class Identity:
    """The options ``identity`` and ``secret``."""

    def __init__(self, identity: str, secret: str | bytes | None) -> None:
        if identity not in IDENTITIES:
            raise ConfigurationError(
                f"identity is one of {', '.join(IDENTITIES)}; given {identity!r}"
            )
        if secret is not None and (
            not isinstance(secret, (str, bytes)) or len(secret) < SHORTEST_SECRET
        ):
            raise ConfigurationError(
                f"secret is a text of at least {SHORTEST_SECRET} characters, known to nobody else: "
                f"python -c 'import secrets; print(secrets.token_hex())' makes one"
            )
        self._identity = identity
        self._secret = secret

    @property
    def is_daily(self) -> bool:
        """Whether unique users of longer periods are those of each day."""
        return self._identity == DAILY

    def declare(self, storage: Storage) -> None:
        """Let storage know, where nobody has yet; refuse what differs from what it knows."""
        mark = secret_mark(self._secret)
        try:
            known = storage.declare({"identity": self._identity, "secret_mark": mark})
        except StorageError as error:
            storage.outage.report(f"identity={self._identity!r} could not be compared: {error}")
            return
        finally:
            storage.close()  # who is refused leaves nothing open
        if known["identity"] != self._identity:
            raise ConfigurationError(
                f"the database has identity={known['identity']!r}, given {self._identity!r}: give "
                f"the same, or let 'python -m wsgi_tracker configure DATABASE --identity "
                f"{self._identity}' change it"
            )
        if known["secret_mark"] != mark:
            raise ConfigurationError(
                "secret is not that of the applications which share the database: give the same, or "
                "let 'python -m wsgi_tracker configure DATABASE --forget-secret' take the next one "
                "given; visitors before and after count as others"
            )

    def key_finder(self, storage: Storage, folder: Path, own: Secret) -> Callable[[int], bytes]:
        """Return the function that returns the key of ``user_hash`` for a day."""
        if self._secret is not None:
            given = self._secret
            return lambda day: derived_secret(given, day)
        if self.is_daily:
            return DailySecret(folder).of
        return lambda day: own.ask(storage.secret)
