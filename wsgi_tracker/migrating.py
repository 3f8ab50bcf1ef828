"""Move the visits of one database into another: from where it ended last time, each exactly once.

Visits are taken in the order in which they arrived, so whoever stops, or is stopped, goes on behind
the last one that was taken in; and what arrives meanwhile is the rest of the next run. How far it
came is known to the ledger of the target; that it ever began, to the target itself, so that nobody
begins again elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timezone

from .errors import ConfigurationError
from .period import Granularity
from .secret import secret_mark
from .selection import Selection
from .storage import Batch, Storage

VISITS_PER_STEP = 8192
# Hosts of the new database go on with these.
SETTINGS = ("timezone", "identity", "secret_mark")


@dataclass(frozen=True, slots=True)
class Progress:
    """How many visits were taken in by this run, and which part of all there is now."""

    visits: int
    share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Days in UTC, by what they hold: as much, more in the new database, or less."""

    equal: int
    more: list[str]
    less: list[str]


def migrate(source: Storage, target: Storage) -> Iterator[Progress]:
    """Take the visits of ``source`` into ``target``, a step each time the iterator is advanced.

    What waits in the spool of ``source`` is no part of it. Raises :exc:`StorageError`, and
    :exc:`ConfigurationError` where it cannot go on.
    """
    segment = f"migration-{hashlib.blake2b(source.secret(), digest_size=16).hexdigest()}"
    _agree(source, target)
    target.ingest([segment], lambda _: Batch(), durable=True)  # what was on its way
    last = target.positions([segment]).get(segment)
    if last is None and target.declared([segment]):
        raise ConfigurationError(
            "these visits were taken there before, under another name of the server or from another "
            "copy of the database: give the same, or they would be there twice"
        )
    with source.snapshot(long=True) as snapshot:
        upto = snapshot.newest_id()
    visits = 0
    while True:
        yield Progress(visits, (last or 0) / upto if upto else 1.0)
        with source.snapshot(long=True) as snapshot:
            found = snapshot.arrived_visits(Selection(), VISITS_PER_STEP, last, upto)
        if not found:
            return
        last = found[-1][0]
        batch = Batch(b"".join(visit.line() for _, visit in found), {segment: last})
        target.ingest([segment], lambda _, batch=batch: batch, durable=True)  # type: ignore[misc]
        if not visits:
            target.declare({segment: "begun"})
        visits += len(found)


def _agree(source: Storage, target: Storage) -> None:
    given = dict(source.declared(SETTINGS))
    if given.get("secret_mark") == secret_mark(None):
        del given["secret_mark"]  # applications go on with one that they are given
    known = target.declare(given)
    for name, value in given.items():
        if known[name] != value:
            raise ConfigurationError(
                f"the new database has {name}={known[name]!r}, the old one {value!r}: users or days "
                f"of before would not be those of after"
            )


def compare(source: Storage, target: Storage) -> Comparison:
    """Compare hits and unique users of each day; applications may have recorded more since."""
    days = []
    for storage in (source, target):
        with storage.snapshot(long=True) as snapshot:
            rows = snapshot.trends(Selection(), Granularity.DAY, timezone.utc)
        days.append({row.time_bucket: (row.hits, row.unique_users) for row in rows})
    old, new = days
    more = sorted(day for day, figures in new.items() if figures > old.get(day, (0, 0)))
    less = sorted(day for day, figures in old.items() if figures > new.get(day, (0, 0)))
    return Comparison(len(old.keys() | new.keys()) - len(more) - len(less), more, less)
