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


def check_identity(identity: str, secret: str | bytes | None) -> None:
    """Refuse what cannot tell visitors apart."""
    if identity not in IDENTITIES:
        raise ConfigurationError(f"identity is one of {', '.join(IDENTITIES)}; given {identity!r}")
    if secret is not None and (
        not isinstance(secret, (str, bytes)) or len(secret) < SHORTEST_SECRET
    ):
        raise ConfigurationError(
            f"secret is a text of at least {SHORTEST_SECRET} characters, known to nobody else: "
            f"python -c 'import secrets; print(secrets.token_hex())' makes one"
        )


def declare_identity(storage: Storage, identity: str, secret: str | bytes | None) -> None:
    """Let storage know, where nobody has yet; refuse what differs from what it knows."""
    given = {"identity": identity, "secret_mark": secret_mark(secret)}
    try:
        known = storage.declare(given)
    except StorageError as error:
        storage.outage.report(f"identity={identity!r} could not be compared: {error}")
        return
    finally:
        storage.close()  # who is refused leaves nothing open
    if known["identity"] != identity:
        raise ConfigurationError(
            f"the database has identity={known['identity']!r}, given {identity!r}: give the same, "
            f"or let 'python -m wsgi_tracker configure DATABASE --identity {identity}' change it"
        )
    if known["secret_mark"] != given["secret_mark"]:
        raise ConfigurationError(
            "secret is not that of the applications which share the database: give the same, or "
            "let 'python -m wsgi_tracker configure DATABASE --forget-secret' take the next one "
            "given; visitors before and after count as others"
        )


def key_finder(
    storage: Storage, folder: Path, own: Secret, identity: str, secret: str | bytes | None
) -> Callable[[int], bytes]:
    """Return the function that returns the key of ``user_hash`` for a day."""
    if secret is not None:
        given = secret
        return lambda day: derived_secret(given, day)
    if identity == DAILY:
        return DailySecret(folder).of
    return lambda day: own.ask(storage.secret)
