"""When visits are purged: at most once an hour, in steps, by whoever holds the ingest lock.

Not here: what a step deletes, which is storage's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .errors import StorageError
from .process import watch_forks
from .storage import Storage

LOOK_NS = 3600 * 10**9
RETRY_NS = 60 * 10**9


class Retention:
    """Have visits purged that are older than so many days; 0 keeps them for ever.

    The value given last, by whichever process, holds for all of them; ``None`` gives none.
    ``clock()`` is nanoseconds since the epoch. ``is_due`` and ``step`` are for one thread at a time.
    """

    def __init__(self, storage: Storage, days: int | None, clock: Callable[[], int]) -> None:
        self._storage = storage
        self._days = days
        self._clock = clock
        self._is_declared = False
        self._reset()
        watch_forks(in_child=self._reset)  # a purge under way is the parent's

    def _reset(self) -> None:
        self._steps: Iterator[None] | None = None
        self._look_at: int | None = None

    def declare(self) -> None:
        """Let storage know; where it cannot now, the first step does. Never raises."""
        try:
            self._declare()
        except StorageError as error:
            self._storage.outage.report(f"retention_days={self._days} does not hold yet: {error}")

    def _declare(self) -> None:
        if self._days is not None and not self._is_declared:
            self._storage.set_retention(self._days)
            self._is_declared = True

    def is_due(self) -> bool:
        """Return whether there is anything to do, at next to no cost."""
        if self._steps is not None or self._look_at is None:
            return True
        # A clock that was set back far has left the moment to look behind.
        return not 0 < self._look_at - self._clock() <= LOOK_NS

    def step(self) -> bool:
        """Purge a little; True if more waits. The caller holds the host's ingest lock.

        Raises :exc:`StorageError`; a later purge takes what is left then.
        """
        now = self._clock()
        self._look_at = now + RETRY_NS
        steps, self._steps = self._steps or self._purge(now), None
        try:
            done = next(steps, True)
        except StorageError:
            if self._days is None:
                return False  # nobody here has asked for a purge; ingest says what is wrong
            raise
        if done:
            self._look_at = now + LOOK_NS
            return False
        self._steps = steps
        return True

    def _purge(self, now: int) -> Iterator[None]:
        self._declare()
        if self._storage.begin_purge(now // 1000, self._days):
            yield from self._storage.purge()
