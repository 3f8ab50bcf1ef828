"""Counters beside the visits: exact answers at any size, kept in step as visits come.

Unique users cannot be added up: who came on Monday and on Tuesday is one user of the week. But a
window that reaches to now holds a user exactly when the user's LAST visit lies in it. So each slot
of 15 minutes counts the users whose last visit it holds; they add up, as everybody has one last
visit. Who came at 9:05 is counted in the slot of 9:00, and who returns at 14:10 in that of 14:00
and no more in the other: every window that begins by then finds one user, and any later one none.

The same holds within an hour, day, week or month: ``users_day`` counts those whose last visit of
the day a slot holds. It holds even for one that a window cuts at its start, as a cut there never
removes a last visit. For unique users of an endpoint, pairs of user and endpoint are counted
likewise.

``totals`` and ``hits`` keep the sums of hours, days and months too, so that a year is a few rows. A
window takes what it has of its first slot from the visits themselves, and whole buckets from here;
rows of ``hits`` begin with hours, as slots would be too many, and tell what is behind each quarter
of theirs. For endpoints the same idea needs no buckets: ``latest`` has the last visit of each.

Many visits are counted at once, as that is cheaper, and those that came since are looked at by
every report.

Whether a slot has a user's last visit, of all or of its day, depends on the user's next slot alone.
So few slots can change when visits come, and ``temp.slots`` holds them: those that are new; the
user's last one so far; and, around a new one before that, its neighbours. From these, flags of last
visits are made twice, of the slots as they were and as they are, and the difference is added. A
slot whose next one is not among them has the same next one as before: its flags may be wrong, but
are the same both times, and cancel out.

User agents have classes, and every row is of one, or of class 0: those are all visitors. A user of
several classes is one user of each, and one of all.

All within the caller's transaction, and in SQL over sets, which lets other threads run.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from ...period import SLOT
from .. import FEW_UNCOUNTED
from .calendar import fill_calendar
from .changes import HOUR_LEVEL, add_changes
from .outcomes import EVER_LEVEL, count_outcomes

NOTHING = -(2**63)  # below every id
# At once: as many as a batch can have, a quarter of a second's work.
VISITS_PER_STEP = 1 << 14

STATE = """
SELECT
    coalesce(max(value) FILTER (WHERE name = 'counted_id'), -9223372036854775808),
    coalesce(max(value) FILTER (WHERE name = 'counted_changes'), -1),
    coalesce(max(value) FILTER (WHERE name = 'changes'), 0),
    coalesce(max(value) FILTER (WHERE name = 'floor'), 0),
    coalesce(max(value) FILTER (WHERE name = 'measured_id'), -9223372036854775808),
    coalesce((SELECT max(id) FROM visits), -9223372036854775808)
FROM settings
WHERE name IN ('counted_id', 'counted_changes', 'changes', 'floor', 'measured_id')"""
COUNTED_UPTO = """
INSERT OR REPLACE INTO settings (name, value) VALUES ('counted_id', :upto),
    ('measured_id', max(:upto, :measured_id)),
    ('counted_agent_id', coalesce((SELECT max(id) FROM user_agents), 0))"""
END_OF_STEP = """
SELECT max(id) FROM (SELECT id FROM visits WHERE id > ? ORDER BY id LIMIT ?)"""
NAME_CLASSES = """
INSERT OR IGNORE INTO classes (class) SELECT DISTINCT class FROM user_agents
WHERE class IS NOT NULL
AND id > coalesce((SELECT value FROM settings WHERE name = 'counted_agent_id'), 0)"""
TABLES = "calendar visitors pairs latest totals hits".split()

TEMPORARY = """
CREATE TEMP TABLE recent (user_id INTEGER, endpoint_id INTEGER, class_id INTEGER, slot INTEGER,
    timestamp INTEGER);
-- Users with visits of several classes.
CREATE TEMP TABLE mixed (user_id INTEGER PRIMARY KEY);
-- was and now tell when a user had the slot. Class 0 is any.
CREATE TEMP TABLE slots (user_id INTEGER, class_id INTEGER, slot INTEGER NOT NULL,
    last_slot INTEGER, was INTEGER, now INTEGER, PRIMARY KEY (user_id, class_id, slot)
) WITHOUT ROWID;
-- The slots of each pair's last visit, before and after.
CREATE TEMP TABLE moved (user_id INTEGER, endpoint_id INTEGER, class_id INTEGER, was INTEGER,
    now INTEGER);
CREATE TEMP TABLE total_changes (level INTEGER, bucket INTEGER, class_id INTEGER,
    is_mixed INTEGER, hits INTEGER, users_hour INTEGER, users_day INTEGER, users_week INTEGER,
    users_month INTEGER, users INTEGER);
CREATE TEMP TABLE hit_changes (level INTEGER, bucket INTEGER, endpoint_id INTEGER,
    class_id INTEGER, is_mixed INTEGER, hits INTEGER, users INTEGER, first INTEGER, last INTEGER,
    hits_1 INTEGER DEFAULT 0, hits_2 INTEGER DEFAULT 0, hits_3 INTEGER DEFAULT 0,
    users_1 INTEGER DEFAULT 0, users_2 INTEGER DEFAULT 0, users_3 INTEGER DEFAULT 0);
CREATE TEMP TABLE appeared (level INTEGER, bucket INTEGER, endpoint TEXT, class_id INTEGER);
CREATE TEMP TABLE resized (level INTEGER, class_id INTEGER, bucket INTEGER,
    PRIMARY KEY (level, class_id, bucket)
) WITHOUT ROWID;
CREATE TEMP TABLE outcome_changes (level INTEGER, bucket INTEGER, endpoint_id INTEGER,
    status_class INTEGER, latency INTEGER, hits INTEGER, bytes INTEGER);
"""
TEMPORARY_TABLES = """
recent mixed slots moved total_changes hit_changes appeared resized outcome_changes""".split()

CLASS_ID = """
CASE WHEN visits.user_agent_id IS NULL THEN 1 ELSE coalesce((
    SELECT classes.id FROM user_agents CROSS JOIN classes USING (class)
    WHERE user_agents.id = visits.user_agent_id), 2) END"""
FILL_RECENT = f"""
INSERT INTO temp.recent
SELECT user_id, endpoint_id, {CLASS_ID}, timestamp / {SLOT}, timestamp
FROM visits WHERE {{which}}"""
NEW = "id > :counted_id AND id <= :upto AND +timestamp >= :floor"
RECENT = FILL_RECENT.format(which=NEW)
FIND_MIXED = """
INSERT INTO temp.mixed
SELECT user_id FROM (SELECT DISTINCT user_id, class_id FROM temp.recent WHERE user_id IS NOT NULL)
    AS came
GROUP BY user_id HAVING count(*) > 1 OR EXISTS (
    SELECT 1 FROM visitors WHERE visitors.user_id = came.user_id
    AND visitors.class_id <> came.class_id)"""
# Who came: as one of a class and, if of several, as one of any.
CAME = """
SELECT came.user_id, came.class_id, slot, last_slot
FROM (SELECT DISTINCT user_id, class_id, slot FROM temp.recent WHERE user_id IS NOT NULL) AS came
LEFT JOIN visitors ON visitors.user_id = came.user_id AND visitors.class_id = came.class_id"""
MIXED_CAME = """
SELECT came.user_id, 0 AS class_id, slot, max(last_slot) AS last_slot
FROM (SELECT DISTINCT user_id, slot FROM temp.recent
    WHERE user_id IN (SELECT user_id FROM temp.mixed)) AS came
LEFT JOIN visitors ON visitors.user_id = came.user_id
GROUP BY came.user_id, slot"""
_COUNTED_OF = f"""
visits.user_id = came.user_id AND +visits.id <= :counted_id
AND (came.class_id = 0 OR came.class_id = {CLASS_ID})"""


def _new_slots(came: str) -> str:
    return f"""
INSERT INTO temp.slots SELECT user_id, class_id, slot, last_slot, 0, 1
FROM ({came}) AS came
WHERE last_slot IS NULL OR slot > last_slot OR (slot < last_slot AND NOT EXISTS (
    SELECT 1 FROM visits
    WHERE timestamp >= slot * {SLOT} AND timestamp < (slot + 1) * {SLOT} AND {_COUNTED_OF}))"""


NEW_SLOTS, NEW_SLOTS_OF_MIXED = _new_slots(CAME), _new_slots(MIXED_CAME)
# Where there is none, NULL is ignored, as is what is there already.
LAST_SLOTS = """
INSERT OR IGNORE INTO temp.slots SELECT user_id, class_id, last_slot, last_slot, 1, 1
FROM temp.slots"""


def _neighbours(side: str, order: str) -> str:
    return f"""
INSERT OR IGNORE INTO temp.slots SELECT user_id, class_id, (
    SELECT timestamp / {SLOT} FROM visits WHERE {side} AND {_COUNTED_OF}
    ORDER BY timestamp {order} LIMIT 1
), last_slot, 1, 1 FROM temp.slots AS came WHERE slot < last_slot AND NOT was"""


NEIGHBOURS = (
    _neighbours(f"timestamp < came.slot * {SLOT}", "DESC"),
    _neighbours(f"timestamp >= (came.slot + 1) * {SLOT}", "ASC"),
)
MOVE = """
INSERT INTO temp.moved SELECT came.user_id, came.endpoint_id, came.class_id, last_slot, now
FROM (SELECT user_id, endpoint_id, class_id, max(slot) AS now
    FROM temp.recent WHERE user_id IS NOT NULL GROUP BY 1, 2, 3) AS came
LEFT JOIN pairs ON pairs.user_id = came.user_id AND pairs.endpoint_id = came.endpoint_id
    AND pairs.class_id = came.class_id
WHERE last_slot IS NULL OR now > last_slot"""
MOVE_MIXED = """
INSERT INTO temp.moved SELECT came.user_id, came.endpoint_id, 0, max(last_slot), now
FROM (SELECT user_id, endpoint_id, max(slot) AS now
    FROM temp.recent WHERE user_id IN (SELECT user_id FROM temp.mixed) GROUP BY 1, 2) AS came
LEFT JOIN pairs ON pairs.user_id = came.user_id AND pairs.endpoint_id = came.endpoint_id
GROUP BY came.user_id, came.endpoint_id HAVING max(last_slot) IS NULL OR now > max(last_slot)"""
KEEP_LAST = (
    """
INSERT INTO visitors SELECT user_id, class_id, max(slot) FROM temp.slots
WHERE class_id <> 0 AND now GROUP BY 1, 2
ON CONFLICT (user_id, class_id) DO UPDATE SET last_slot = excluded.last_slot""",
    """
INSERT INTO pairs SELECT user_id, endpoint_id, class_id, now FROM temp.moved
WHERE class_id <> 0 AND now IS NOT NULL
ON CONFLICT (user_id, endpoint_id, class_id) DO UPDATE SET last_slot = excluded.last_slot""",
    f"""
INSERT INTO latest SELECT endpoint_id, class_id, max(last) FROM temp.hit_changes
WHERE level = {HOUR_LEVEL} AND class_id <> 0 AND last IS NOT NULL GROUP BY 1, 2
ON CONFLICT (endpoint_id, class_id) DO UPDATE SET last = max(last, excluded.last)""",
)


@dataclass(frozen=True, slots=True)
class State:
    """Which visits are counted: those with ids to ``counted_id``, from ``floor`` on.

    That holds as long as ``changes`` to visits are those that were known. Those with ids to
    ``measured_id`` were counted at some time.
    """

    counted_id: int
    counted_changes: int
    changes: int
    floor: int
    measured_id: int
    newest_id: int

    @property
    def is_sound(self) -> bool:
        """Whether the visits that were counted are still as they were."""
        return self.counted_changes == self.changes

    @property
    def is_complete(self) -> bool:
        """Whether every visit is counted."""
        return self.is_sound and self.counted_id == self.newest_id

    @property
    def is_useful(self) -> bool:
        """Whether reports are faster with what is counted, and every other visit looked at."""
        return self.is_sound and self.uncounted <= FEW_UNCOUNTED

    @property
    def uncounted(self) -> int:
        """How many visits are not counted, at most: ids may be missing in between."""
        if self.is_complete:
            return 0
        is_known = self.is_sound and self.counted_id != NOTHING
        return max(1, self.newest_id - (self.counted_id if is_known else 0))


def prepare_counting(connection: sqlite3.Connection) -> None:
    """Make the temporary tables that a connection counts with."""
    connection.executescript(TEMPORARY)


def read_state(connection: sqlite3.Connection) -> State:
    """Return which visits are counted."""
    return State(*connection.execute(STATE).fetchone())


def fold(connection: sqlite3.Connection) -> bool:
    """Count visits that are not counted yet, the oldest ids first; True if more are left."""
    state = read_state(connection)
    if not state.is_sound:
        start_anew(connection)
        state = read_state(connection)
    if state.is_complete:
        return False
    (upto,) = connection.execute(END_OF_STEP, (state.counted_id, VISITS_PER_STEP)).fetchone()
    are_new = state.counted_id >= state.measured_id
    if not are_new:
        upto = min(upto, state.measured_id)
    values = {
        "counted_id": state.counted_id,
        "upto": upto,
        "floor": state.floor,
        "measured_id": state.measured_id,
    }
    connection.execute(NAME_CLASSES)
    connection.execute(RECENT, values)
    fill_calendar(connection)
    is_mixed = connection.execute(FIND_MIXED).rowcount > 0
    connection.execute(NEW_SLOTS, values)
    connection.execute(MOVE)
    if is_mixed:
        connection.execute(NEW_SLOTS_OF_MIXED, values)
        connection.execute(MOVE_MIXED)
    connection.execute(LAST_SLOTS)
    for statement in NEIGHBOURS:
        connection.execute(statement, values)
    add_changes(connection, 1)
    count_outcomes(connection, NEW, values, are_new=are_new)
    for statement in KEEP_LAST:
        connection.execute(statement)
    clear(connection)
    connection.execute(COUNTED_UPTO, values)
    return bool(upto < state.newest_id)


def start_anew(connection: sqlite3.Connection) -> None:
    """Forget all that was counted."""
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")
    connection.execute(f"DELETE FROM outcomes WHERE level <> {EVER_LEVEL}")
    connection.execute(
        "INSERT OR REPLACE INTO settings (name, value) VALUES ('counted_id', ?), "
        "('counted_agent_id', 0), "
        "('counted_changes', (SELECT value FROM settings WHERE name = 'changes'))",
        (NOTHING,),
    )


def clear(connection: sqlite3.Connection) -> None:
    """Empty what changes are put together in."""
    for table in TEMPORARY_TABLES:
        connection.execute(f"DELETE FROM temp.{table}")
