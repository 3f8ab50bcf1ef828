"""Answers about the visits in ClickHouse, as the protocol of storages has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import tzinfo

from ...period import Granularity, load_zone
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
from .. import ALL, NotIngestedError, Unread
from . import lists, questions
from .client import Client
from .settings import Settings
from .shards import SETTING, Shards


class ClickHouseSnapshot:
    """A :class:`~wsgi_tracker.storage.Snapshot`; each statement is of a moment of its own."""

    def __init__(self, client: Client, settings: Settings, shards: Shards, now: int) -> None:
        known = settings.read(["timezone", "floor", SETTING])
        self._client = client
        self._rows = shards.rows(known.get(SETTING))
        self._zone = load_zone(known.get("timezone", "UTC"))
        self._floor = int(known.get("floor", 0))
        self._now = now

    def timezone(self) -> tzinfo:
        """See :meth:`wsgi_tracker.storage.Snapshot.timezone`."""
        return self._zone

    def floor(self) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.floor`."""
        return self._floor

    def stats(self, selection: Selection = ALL) -> list[EndpointStats]:
        """See :meth:`wsgi_tracker.storage.Snapshot.stats`."""
        return questions.stats(self._rows, self._shown(selection))

    def summary(self, selection: Selection = ALL) -> Summary:
        """See :meth:`wsgi_tracker.storage.Snapshot.summary`."""
        return questions.summary(self._rows, self._shown(selection))

    def outcomes(self, selection: Selection = ALL) -> Outcomes:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes`."""
        return questions.outcomes(self._rows, self._shown(selection))

    def outcomes_ever(self) -> Outcomes:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes_ever`; here, of all that there are."""
        return questions.outcomes(self._rows, Selection())

    def outcomes_of_endpoints(self, selection: Selection = ALL) -> dict[tuple[str, str], Outcomes]:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes_of_endpoints`."""
        return questions.outcomes_of_endpoints(self._rows, self._shown(selection))

    def outcomes_of_buckets(
        self,
        selection: Selection,
        granularity: Granularity,
        buckets: Sequence[TrendBucket],
        zone: tzinfo | None = None,
    ) -> dict[int, Outcomes]:
        """See :meth:`wsgi_tracker.storage.Snapshot.outcomes_of_buckets`."""
        shown = self._shown(selection)
        return questions.outcomes_of_buckets(
            self._rows, shown, granularity, zone or self._zone, self._now
        )

    def trends(
        self, selection: Selection, granularity: Granularity, zone: tzinfo | None = None
    ) -> list[TrendBucket]:
        """See :meth:`wsgi_tracker.storage.Snapshot.trends`."""
        shown = self._shown(selection)
        return questions.trends(self._rows, shown, granularity, zone or self._zone, self._now)

    def visits(
        self, selection: Selection = ALL, limit: int = 50, position: Position | None = None
    ) -> VisitsPage:
        """See :meth:`wsgi_tracker.storage.Snapshot.visits`."""
        shown = self._shown(selection)
        found = lists.newest_visits(self._client, shown, limit + 1, position, self._now)
        page, rest = found[:limit], found[limit:]
        visits = [visit for _, visit in page]
        if not rest:
            return VisitsPage(visits)
        id, last = page[-1]
        return VisitsPage(visits, Position(last.timestamp, id), rest[0][1].timestamp)

    def oldest_visits(
        self, selection: Selection, limit: int, behind: tuple[int, int] | None, upto: int
    ) -> list[tuple[int, Visit]]:
        """See :meth:`wsgi_tracker.storage.Snapshot.oldest_visits`."""
        return lists.oldest_visits(self._client, self._shown(selection), limit, behind, upto)

    def arrived_visits(
        self, selection: Selection, limit: int, behind: int | None, upto: int
    ) -> list[tuple[int, Visit]]:
        """See :meth:`wsgi_tracker.storage.Snapshot.arrived_visits`."""
        return lists.arrived_visits(self._client, self._shown(selection), limit, behind, upto)

    def newest_id(self) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.newest_id`."""
        return lists.newest_id(self._client)

    def hits(self, selection: Selection) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.hits`."""
        return questions.hits(self._rows, self._shown(selection))

    def users(self, selection: Selection) -> int:
        """See :meth:`wsgi_tracker.storage.Snapshot.users`."""
        return questions.users(self._rows, self._shown(selection))

    def breakdown(self, selection: Selection, by: str, limit: int) -> Breakdown:
        """See :meth:`wsgi_tracker.storage.Snapshot.breakdown`."""
        return questions.breakdown(self._rows, self._shown(selection), by, limit)

    def sessions(self, selection: Selection) -> Sessions:
        """See :meth:`wsgi_tracker.storage.Snapshot.sessions`."""
        return questions.sessions(self._rows, self._shown(selection))

    def _shown(self, selection: Selection) -> Selection:
        return replace(selection, start=max(selection.start, self._floor))


def refuse_unread(unread: Unread | None) -> None:
    """Have what waits ingested first: it cannot be taken along."""
    if unread is not None and unread.segments:
        raise NotIngestedError("what waits has to be where the visits are")
