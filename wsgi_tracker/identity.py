"""By what visitors are told apart, the same in every application that shares a storage.

``permanent``: one secret for ever, so that a year's unique users are people. ``daily``: a secret a
day, after which nobody can tell who it was; unique users of longer periods are those of each day.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .errors import ConfigurationError
from .secret import DailySecret, Secret, derived_secret, secret_mark
from .storage import Storage
from .storage.address import Address

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

    def check_for(self, place: Path | Address) -> None:
        """Refuse to go on without a secret where hosts share a database: each would make its own."""
        if self._secret is None and isinstance(place, Address):
            raise ConfigurationError(
                "hosts that share a database tell visitors apart by the same secret: give secret= "
                "to each of them, and --secret, or $WSGI_TRACKER_SECRET, to a command"
            )

    @property
    def is_daily(self) -> bool:
        """Whether unique users of longer periods are those of each day."""
        return self._identity == DAILY

    @property
    def settings(self) -> dict[str, str]:
        """What applications that share a storage must agree on."""
        return {"identity": self._identity, "secret_mark": secret_mark(self._secret)}

    def key_finder(self, storage: Storage, folder: Path, own: Secret) -> Callable[[int], bytes]:
        """Return the function that returns the key of ``user_hash`` for a day."""
        if self._secret is not None:
            given = self._secret
            return lambda day: derived_secret(given, day)
        if self.is_daily:
            return DailySecret(folder).of
        return lambda day: own.ask(storage.secret)
