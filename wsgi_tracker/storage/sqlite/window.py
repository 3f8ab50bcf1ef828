"""A window that is asked about: which of its visits are counted, and in which buckets.

Of those that are counted, all lie in whole buckets but those of its start: of the slot that it cuts.
Slots, or quarters of one hour and then hours, reach to the day's end, days to the month's end, and
months to the end of all. Those that came since are not counted, wherever they lie.
"""

from __future__ import annotations

import sqlite3

from ...period import SLOT, Granularity, bucket_start, first_whole
from .. import Unread
from .arrivals import gather
from .calendar import read_zone
from .classes import class_condition
from .counters import read_state

CLASS_ID = "SELECT id FROM classes WHERE class = ?"
ALL, NO_CLASS = 0, -1
# Where an hour can be divided.
QUARTERS = (1, 2, 3)
EDGE = f"""
timestamp >= :start AND timestamp < :{{end}} * {SLOT} AND +visits.id <= :counted_id AND {{only}}"""


class Window:
    """A window from ``start`` on, over one class of user agents or all."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        start: int,
        agent_class: str | None,
        unread: Unread | None,
    ) -> None:
        self.start = start
        self.zone = read_zone(connection)
        self._connection = connection
        self._agent_class = agent_class
        counted_id = read_state(connection).counted_id
        self._values = {"counted_id": counted_id, **self._read_values()}
        gather(connection, start, counted_id, agent_class, unread)

    def ask(
        self, statement: str, edge_end: str = "", unit: str = "", **values: int | str
    ) -> sqlite3.Cursor:
        """Execute a statement about it.

        {edge} are visits of its start, up to what ``edge_end`` names, {of} rows of its class,
        {hits_later} and {users_later} columns of the hour that it cuts, for what is behind ``part``.
        """
        only = class_condition(self._agent_class)
        text = statement.format(
            edge=EDGE.format(end=edge_end, only=only),
            only=only,
            hits_later=f"hits_{self._quarter}" if self._quarter else "0",
            users_later=f"users_{self._quarter}" if self._quarter else "0",
            of="true" if self._agent_class is None else "class_id = :class_id",
            unit=unit,
        )
        return self._connection.execute(text, {**self._values, **values})

    def _read_values(self) -> dict[str, int | str | None]:
        # Cuts are where a whole bucket begins that is followed by whole ones only.
        hour = first_whole(Granularity.HOUR, self.start, self.zone)
        cut_hour = bucket_start(Granularity.HOUR, self.start, self.zone)
        slot = -(-self.start // SLOT)
        quarter = slot - cut_hour // SLOT
        self._quarter = quarter if quarter in QUARTERS else 0
        day = first_whole(Granularity.DAY, hour, self.zone)
        month = first_whole(Granularity.MONTH, day, self.zone)
        return {
            "start": self.start,
            "cut_slot": self.start // SLOT,
            "cut_hour": cut_hour // SLOT,
            "slot": slot,
            "part": slot if self._quarter else hour // SLOT,
            "hour": hour // SLOT,
            "day": day // SLOT,
            "month": month // SLOT,
            "only": self._agent_class,
            "class_id": self._class_id(),
        }

    def _class_id(self) -> int:
        if self._agent_class is None:
            return ALL
        row = self._connection.execute(CLASS_ID, (self._agent_class,)).fetchone()
        return NO_CLASS if row is None else int(row[0])
