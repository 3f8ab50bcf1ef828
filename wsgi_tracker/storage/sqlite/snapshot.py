"""Reports of one moment of a SQLite database: from counters where they can, else from visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import tzinfo

from ...period import Granularity
from ...reports import (
    Breakdown,
    EndpointStats,
    Outcomes,
    Position,
    Sessions,
    Summary,
    TrendBucket,
    VisitsPage,
)
from ...selection import Selection
from ...visit import Visit
from .. import ALL, FEW_UNCOUNTED, NotIngestedError, Unread
from . import counted, raw
from .arrivals import newest
from .breakdown import breakdown
from .calendar import read_zone
from .counters import read_state
from .journeys import sessions
from .outcome_reports import of_all, of_buckets, of_endpoints, of_ever
from .pool import PooledConnection
from .purge import first_shown


class SQLiteSnapshot:
    """A :class:`~wsgi_tracker.storage.Snapshot`, as long as the transaction of ``connection``."""

    def __init__(
        self,
        connection: PooledConnection,
        unread: Unread | None,
        begin_long: Callable[[], None] | None,
    ) -> None:
        self._connection = connection
        self._unread = unread
        self._begin_long = begin_long  # until it was called, if it has to be
        self._state = read_state(connection)

    def timezone(self) -> tzinfo:
        """See :meth:`wsgi_tracker.storage.Snapshot.timezone`."""
        return read_zone(self._connection)

    def floor(self) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.floor`."""
        return first_shown(self._connection, 0)

    def stats(self, selection: Selection = ALL) -> list[EndpointStats]:
        """See :meth:`wsgi_tracker.storage.Snapshot.stats`."""
        shown = self._shown(selection)
        if self._is_counted(shown):
            return counted.stats(self._connection, shown.start, shown.agent_class, self._unread)
        return raw.stats(self._connection, shown)

    def summary(self, selection: Selection = ALL) -> Summary:
        """See :meth:`wsgi_tracker.storage.Snapshot.summary`."""
        shown = self._shown(selection)
        if self._is_counted(shown):
            return counted.summary(self._connection, shown.start, shown.agent_class, self._unread)
        return raw.summary(self._connection, shown)

    def trends(
        self, selection: Selection, granularity: Granularity, zone: tzinfo | None = None
    ) -> list[TrendBucket]:
        """See :meth:`wsgi_tracker.storage.Snapshot.trends`."""
        shown, own = self._shown(selection), self.timezone()
        if self._is_counted(shown, of_own_zone=zone in (None, own)):
            return counted.trends(
                self._connection, shown.start, granularity, shown.agent_class, self._unread
            )
        return raw.trends(self._connection, shown, granularity, zone or own)

    def visits(
        self, selection: Selection = ALL, limit: int = 50, position: Position | None = None
    ) -> VisitsPage:
        """See :meth:`wsgi_tracker.storage.Snapshot.visits`."""
        shown = self._shown(selection)
        if shown.filters:
            self._take_long()
        waiting: list[tuple[int | None, Visit]] = []
        if self._unread is not None:
            if not shown.is_simple or position is not None:
                raise NotIngestedError("what waits is not looked at for this")
            unread = newest(
                self._connection, shown.start, limit + 1, shown.agent_class, self._unread
            )
            waiting = [(None, visit) for visit in unread]
        found = waiting + raw.visits(self._connection, shown, limit + 1, position)
        # Of two with one timestamp, the one that came later stays the first.
        found.sort(key=lambda row: -row[1].timestamp)
        page, rest = found[:limit], found[limit:]
        shown_visits = [visit for _, visit in page]
        if not rest:
            return VisitsPage(shown_visits)
        return VisitsPage(shown_visits, _behind(page), rest[0][1].timestamp)

    def oldest_visits(
        self, selection: Selection, limit: int, behind: tuple[int, int] | None, upto: int
    ) -> list[tuple[int, Visit]]:
        """See :meth:`wsgi_tracker.storage.Snapshot.oldest_visits`."""
        self._read_visits()
        return raw.oldest_visits(self._connection, self._shown(selection), limit, behind, upto)

    def arrived_visits(
        self, selection: Selection, limit: int, behind: int | None, upto: int
    ) -> list[tuple[int, Visit]]:
        """See :meth:`wsgi_tracker.storage.Snapshot.arrived_visits`."""
        self._read_visits()
        return raw.arrived_visits(self._connection, self._shown(selection), limit, behind, upto)

    def newest_id(self) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.newest_id`."""
        return self._state.newest_id

    def hits(self, selection: Selection) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.hits`."""
        self._read_visits()
        return raw.hits(self._connection, self._shown(selection))

    def users(self, selection: Selection) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.users`."""
        self._read_visits()
        return raw.users(self._connection, self._shown(selection))

    def breakdown(self, selection: Selection, by: str, limit: int) -> Breakdown:
        """See :meth:`wsgi_tracker.storage.Snapshot.breakdown`."""
        self._read_visits()
        return breakdown(self._connection, self._shown(selection), by, limit)

    def sessions(self, selection: Selection) -> Sessions:
        """See :meth:`wsgi_tracker.storage.Snapshot.sessions`."""
        self._read_visits()
        return sessions(self._connection, self._shown(selection))

    def outcomes(self, selection: Selection = ALL) -> Outcomes:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes`."""
        return of_all(self._connection, self._shown(selection), self._counted_id)

    def outcomes_of_endpoints(self, selection: Selection = ALL) -> dict[tuple[str, str], Outcomes]:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes_of_endpoints`."""
        return of_endpoints(self._connection, self._shown(selection), self._counted_id)

    def outcomes_of_buckets(
        self,
        selection: Selection,
        granularity: Granularity,
        buckets: Sequence[TrendBucket],
        zone: tzinfo | None = None,
    ) -> dict[int, Outcomes]:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes_of_buckets`."""
        zone = zone or self.timezone()
        shown = self._shown(selection)
        return of_buckets(self._connection, shown, granularity, zone, buckets, self._counted_id)

    def outcomes_ever(self) -> Outcomes:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes_ever`."""
        return of_ever(self._connection, self._state.measured_id)

    @property
    def _counted_id(self) -> int | None:
        """The last visit that is counted, where that helps, as what waits is not taken along."""
        self._read_visits()
        return self._state.counted_id if self._state.is_useful else None

    def _shown(self, selection: Selection) -> Selection:
        return replace(selection, start=first_shown(self._connection, selection.start))

    def _is_counted(self, selection: Selection, *, of_own_zone: bool = True) -> bool:
        """Return whether counters can answer; if not, visits do, and take nothing along."""
        if selection.is_simple and of_own_zone and self._state.is_useful:
            return True
        self._read_visits()
        return False

    def _read_visits(self) -> None:
        """Prepare to read them, which may take long, and takes nothing along."""
        if self._unread is not None:
            raise NotIngestedError("visits have to be counted anew, or are not for this question")
        self._take_long()

    def _take_long(self) -> None:
        """Be one of few from now on, if there are many visits to look through."""
        if self._begin_long is not None and self._state.newest_id > FEW_UNCOUNTED:
            self._begin_long()
            self._begin_long = None


def _behind(page: Sequence[tuple[int | None, Visit]]) -> Position:
    id, last = page[-1]
    if id is not None:
        return Position(last.timestamp, id)
    shown = sum(visit.timestamp == last.timestamp for _, visit in page)
    return Position(last.timestamp, shown=shown)
