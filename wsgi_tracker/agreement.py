"""What applications that share a storage must agree on, and what to do where they do not.

Storage keeps what the first of them was given; a command changes it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import ConfigurationError, StorageError
from .storage import Storage

_CONFIGURE = "'wsgi-tracker configure -d DATABASE"
_ADVICE = {
    "identity": f"the database has identity={{known!r}}, given {{given!r}}: give the same, or let "
    f"{_CONFIGURE} --identity {{given}}' change it",
    "timezone": f"the database has timezone={{known!r}}, given {{given!r}}: give the same, or let "
    f"{_CONFIGURE} --timezone {{given}}' change it, which counts all visits anew",
    "secret_mark": f"secret is not that of the applications which share the database: give the "
    f"same, or let {_CONFIGURE} --forget-secret' take the next one given; visitors before and after "
    f"count as others",
}


def agree(storage: Storage, given: Mapping[str, str]) -> bool:
    """Let storage know, where nobody has yet; refuse what differs from what it knows.

    False where storage does not answer now, so that they could not be compared.
    """
    if not given:
        return True
    try:
        known = storage.declare(given)
    except StorageError as error:
        storage.outage.report(f"{', '.join(given)} could not be compared: {error}")
        return False
    finally:
        storage.close()  # who is refused leaves nothing open
    for name, value in given.items():
        if known[name] != value:
            raise ConfigurationError(_ADVICE[name].format(known=known[name], given=value))
    return True
