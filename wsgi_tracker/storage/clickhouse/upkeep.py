"""What visits are deleted, and how it is seen to that they are gone.

Whole months are dropped; of one that goes on, and of a user, visits are deleted by mutations. No
report shows what is older than the floor, so only who asks for a purge, or a user, waits for the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...period import DAY, HOUR, Granularity, bucket_start, next_bucket
from .client import Client
from .deletion import alter, begin_to_delete, delete, is_deleting
from .literals import literal
from .schema import MONTH, Schema
from .settings import Settings

INTERVAL = HOUR  # between two purges
LONGEST_LEAP = 2 * DAY  # of a clock that is believed
MONTHS = f"""
SELECT {MONTH} AS month, min(timestamp) FROM visits WHERE timestamp < {{floor}} GROUP BY month"""


class Upkeep:
    """The deletions of one database; ``clock`` returns microseconds."""

    def __init__(
        self, client: Client, schema: Schema, settings: Settings, clock: Callable[[], int]
    ) -> None:
        self._client = client
        self._schema = schema
        self._settings = settings
        self._clock = clock

    def set_retention(self, days: int) -> int:
        """Keep visits for so many days; return for how many they were kept before."""
        known = self._settings.number("retention_days") or 0
        if known != days:
            self._settings.write({"retention_days": days, "purged_at": None})
            if known and (not days or days > known):
                self._settings.write({"floor": 0})  # a purge that is under way ends here
        return known

    def begin_purge(self, now: int, days: int | None) -> bool:
        """Set the floor, unless visits are kept for ever or a purge began within the hour."""
        known = self._settings.number("retention_days")
        if known is None and days is not None:
            self.set_retention(days)
            known = days
        began = self._settings.number("purged_at")
        if not known or (began is not None and 0 <= now - began < INTERVAL):
            return False
        last = self._settings.number("purge_clock")
        believed = now if last is None else min(now, last + LONGEST_LEAP)
        floor = max(0, believed - known * DAY)
        self._settings.write({"purged_at": now, "purge_clock": now, "floor": floor})
        return True

    def purge(self, before: int | None) -> Iterator[None]:
        """Delete what is older than the floor: at once by month, and once a day within one."""
        if before is not None:
            self._settings.write({"floor": before})
            yield
        floor = self._settings.number("floor") or 0
        for month, oldest in self._client.rows(MONTHS.replace("{floor}", literal(floor))):
            start = bucket_start(Granularity.MONTH, oldest)
            if next_bucket(Granularity.MONTH, start) <= floor:
                drop, of_month = f"DROP PARTITION {int(month)}", f"{MONTH} = {int(month)}"
                alter(self._client, self._schema, "visits", drop, of_month)
            elif before is not None:
                delete(self._client, self._schema, "visits", self._too_old(floor))
            elif floor // DAY * DAY > oldest and not self._is_deleting():
                begin_to_delete(self._client, self._schema, "visits", self._too_old(floor))
            yield

    def _is_deleting(self) -> bool:
        return is_deleting(self._client, self._schema, "visits")

    def _too_old(self, floor: int) -> str:
        return self._of_now(f"timestamp < {literal(floor)}")

    def forget(self, user_hash: str) -> int:
        """Delete all visits of a user, and the user agents that only they had."""
        of_user = f"user_hash = {literal(user_hash)}"
        ((visits,),) = self._client.rows(f"SELECT count() FROM visits WHERE {of_user}")
        agents = self._agents(of_user)
        delete(self._client, self._schema, "visits", self._of_now(of_user))
        if agents:
            others = self._agents(f"user_agent IN ({literal(sorted(agents))})")
            if gone := sorted(agents - others):
                of_agents = f"user_agent IN ({literal(gone)}) AND at <= {literal(self._clock())}"
                delete(self._client, self._schema, "user_agents", of_agents)
        return int(visits)

    def _of_now(self, where: str) -> str:
        """Return what only those fulfil that there are now; others may come meanwhile."""
        ((newest,),) = self._client.rows(f"SELECT max(batch) FROM visits WHERE {where}")
        return f"{where} AND batch <= {literal(newest)}"

    def _agents(self, where: str) -> set[str]:
        rows = self._client.rows(f"SELECT DISTINCT user_agent FROM visits WHERE {where}")
        return {agent for (agent,) in rows if agent is not None}
