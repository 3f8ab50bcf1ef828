"""Counters of visits that are deleted: taken back where that is little, dropped where nobody asks.

Visits of one user go the oldest first, which keeps it simple. What follows a slot decides its flags
(see :mod:`~wsgi_tracker.storage.sqlite.counters`), so those of the slots that stay do not change, and a
pair has its last visit as long as it has any.
"""

from __future__ import annotations

import sqlite3

from ...period import SLOT
from .changes import DAY_LEVEL, LEVELS, MONTH_LEVEL, add_changes
from .counters import CLASS_ID, FILL_RECENT, clear, read_state
from .outcomes import count_outcomes
from .schema import transaction

# Slots, and more than the longest bucket of each level has.
_LONGEST = dict(zip(LEVELS, (1, 8, 128, 700, 4000), strict=True))
COUNTED = "+visits.id <= :counted_id AND +timestamp >= :floor"
GOING = f"visits.id IN (SELECT id FROM temp.going) AND {COUNTED}"
FILL_GOING = FILL_RECENT.format(which=GOING)
FIND_MIXED = """
INSERT INTO temp.mixed SELECT user_id FROM visitors
WHERE user_id IN (SELECT user_id FROM temp.recent) GROUP BY user_id HAVING count(*) > 1"""
_LEFT = f"""
visits.user_id = came.user_id AND visits.id NOT IN (SELECT id FROM temp.going)
AND {COUNTED} AND (came.class_id = 0 OR came.class_id = {CLASS_ID})"""
# As one of each class and, where there are several, as one of any.
_CAME = """
SELECT DISTINCT user_id, class_id, slot FROM temp.recent WHERE user_id IS NOT NULL
UNION SELECT user_id, 0, slot FROM temp.recent WHERE user_id IN (SELECT user_id FROM temp.mixed)"""
LEAVE_SLOTS = f"""
INSERT INTO temp.slots SELECT user_id, class_id, slot, NULL, 1, 0 FROM ({_CAME}) AS came
WHERE NOT EXISTS (SELECT 1 FROM visits
    WHERE timestamp >= slot * {SLOT} AND timestamp < (slot + 1) * {SLOT} AND {_LEFT})"""
FOLLOWING = f"""
INSERT OR IGNORE INTO temp.slots SELECT user_id, class_id, (
    SELECT timestamp / {SLOT} FROM visits WHERE {_LEFT} ORDER BY timestamp LIMIT 1
), NULL, 1, 1 FROM (SELECT DISTINCT user_id, class_id FROM temp.slots) AS came"""
_PAIRS = """
SELECT DISTINCT user_id, endpoint_id, class_id FROM temp.recent WHERE user_id IS NOT NULL
UNION SELECT user_id, endpoint_id, 0 FROM temp.recent
WHERE user_id IN (SELECT user_id FROM temp.mixed)"""


LEAVE_PAIRS = f"""
INSERT INTO temp.moved SELECT user_id, endpoint_id, class_id, last_slot, NULL FROM (
    SELECT user_id, endpoint_id, class_id, (
        SELECT max(last_slot) FROM pairs WHERE pairs.user_id = came.user_id
        AND pairs.endpoint_id = came.endpoint_id
        AND (came.class_id = 0 OR pairs.class_id = came.class_id)) AS last_slot
    FROM ({_PAIRS}) AS came
) AS came WHERE NOT EXISTS (
    SELECT 1 FROM visits WHERE timestamp >= last_slot * {SLOT}
    AND timestamp < (last_slot + 1) * {SLOT} AND visits.endpoint_id = came.endpoint_id
    AND {_LEFT})"""
FORGET_LAST = (
    """
DELETE FROM visitors WHERE (user_id, class_id) IN (
    SELECT user_id, class_id FROM temp.slots GROUP BY 1, 2 HAVING NOT max(now))""",
    """
DELETE FROM pairs WHERE (user_id, endpoint_id, class_id) IN (
    SELECT user_id, endpoint_id, class_id FROM temp.moved)""",
)
# Once visits are deleted, too old ones as well, who had the last one when, and of what, goes too.
FORGET_GONE = (
    f"""
DELETE FROM visitors WHERE user_id IN (SELECT user_id FROM temp.going) AND NOT EXISTS (
    SELECT 1 FROM visits WHERE visits.user_id = visitors.user_id
    AND timestamp >= last_slot * {SLOT} AND timestamp < (last_slot + 1) * {SLOT})""",
    f"""
DELETE FROM pairs WHERE (user_id, endpoint_id) IN (SELECT user_id, endpoint_id FROM temp.going)
AND NOT EXISTS (
    SELECT 1 FROM visits WHERE visits.user_id = pairs.user_id
    AND timestamp >= last_slot * {SLOT} AND timestamp < (last_slot + 1) * {SLOT}
    AND visits.endpoint_id = pairs.endpoint_id)""",
)
_TOUCHED = """
(level, bucket, endpoint_id, class_id) IN (
    SELECT level, bucket, endpoint_id, class_id FROM temp.hit_changes)"""
FORGET_EMPTY = (
    f"DELETE FROM hits WHERE hits = 0 AND users = 0 AND {_TOUCHED}",
    """
DELETE FROM outcomes WHERE hits = 0 AND (level, bucket, endpoint_id, status_class, latency) IN (
    SELECT level, bucket, endpoint_id, status_class, latency FROM temp.outcome_changes)""",
)


def _end(bucket: str, unit: str) -> str:
    """Return where no visit of a bucket can lie any more: the next that has any begins there."""
    return f"""coalesce((
        SELECT slot FROM calendar WHERE slot > {bucket} AND {unit} > {bucket} ORDER BY slot LIMIT 1
    ) * {SLOT}, 9223372036854775807)"""


_OF_DAY = f"""
SELECT timestamp FROM visits WHERE visits.endpoint_id = hits.endpoint_id
AND timestamp >= bucket * {SLOT} AND timestamp < {_end("bucket", "day")} AND {COUNTED}
AND visits.id NOT IN (SELECT id FROM temp.going) AND hits.class_id IN (0, {CLASS_ID})
ORDER BY timestamp"""
_OF_MONTH = f"""
FROM calendar CROSS JOIN hits AS days ON days.level = {DAY_LEVEL} AND days.bucket = slot
    AND days.endpoint_id = hits.endpoint_id AND days.class_id = hits.class_id
WHERE slot >= hits.bucket AND slot < hits.bucket + {_LONGEST[MONTH_LEVEL]}
AND slot = day AND month = hits.bucket"""
# Whose first or last visit may be among those that went; all others keep theirs.
_LOST_AN_END = """
(level, bucket, endpoint_id, class_id) IN (
    SELECT level, bucket, endpoint_id, class_id FROM temp.hit_changes AS change
    JOIN hits AS dated USING (level, bucket, endpoint_id, class_id)
    WHERE change.first <= dated.first OR change.last >= dated.last)"""
DATE_AGAIN = (
    f"UPDATE hits SET first = ({_OF_DAY} LIMIT 1), last = ({_OF_DAY} DESC LIMIT 1) "
    f"WHERE level = {DAY_LEVEL} AND {_LOST_AN_END}",
    f"UPDATE hits SET first = (SELECT min(days.first) {_OF_MONTH}), "
    f"last = (SELECT max(days.last) {_OF_MONTH}) "
    f"WHERE level = {MONTH_LEVEL} AND {_LOST_AN_END}",
)
# Behind those: of the last visit of a month, and of all months.
LAST_AGAIN = (
    f"""
UPDATE latest SET last = (
    SELECT max(hits.last) FROM totals CROSS JOIN hits ON hits.level = {MONTH_LEVEL}
        AND hits.bucket = totals.bucket AND hits.endpoint_id = latest.endpoint_id
        AND hits.class_id = latest.class_id
    WHERE totals.level = {MONTH_LEVEL} AND totals.class_id = latest.class_id)
WHERE (endpoint_id, class_id) IN (
    SELECT endpoint_id, class_id FROM temp.recent CROSS JOIN latest AS known
    USING (endpoint_id, class_id) WHERE timestamp >= known.last)""",
    """
DELETE FROM latest WHERE last IS NULL
AND (endpoint_id, class_id) IN (SELECT endpoint_id, class_id FROM temp.recent)""",
)
STILL_SOUND = """
INSERT OR REPLACE INTO settings (name, value) VALUES
('counted_id', min((SELECT value FROM settings WHERE name = 'counted_id'),
    coalesce((SELECT max(id) FROM visits), -9223372036854775808))),
('counted_changes', (SELECT value FROM settings WHERE name = 'changes'))"""
_OF_ANY_CLASS = "class_id IN (SELECT 0 UNION ALL SELECT id FROM classes)"
DROP = [
    "DELETE FROM calendar WHERE slot IN (SELECT slot FROM calendar "
    f"WHERE slot < :slot - {_LONGEST[MONTH_LEVEL]} LIMIT :limit)",
    "DELETE FROM latest WHERE (endpoint_id, class_id) IN (SELECT endpoint_id, class_id FROM latest "
    f"WHERE last < :slot * {SLOT} LIMIT :limit)",
    *(
        "DELETE FROM outcomes WHERE (level, bucket, endpoint_id, status_class, latency) IN (SELECT "
        "level, bucket, endpoint_id, status_class, latency FROM outcomes "
        f"WHERE level = {level} AND bucket < :slot - {_LONGEST[level]} LIMIT :limit)"
        for level in (DAY_LEVEL, MONTH_LEVEL)
    ),
    *(
        f"DELETE FROM {table} WHERE ({columns}) IN (SELECT {columns} FROM {table} "
        f"WHERE level = {level} AND {_OF_ANY_CLASS} AND bucket < :slot - {longest} LIMIT :limit)"
        for table, columns in {
            "totals": "level, class_id, bucket",
            "hits": "level, class_id, bucket, endpoint_id",
        }.items()
        for level, longest in _LONGEST.items()
    ),
]
BUCKETS_PER_STEP = 500


def uncount(connection: sqlite3.Connection) -> bool:
    """Take back what the visits in ``temp.going``, the oldest of their users, were counted for.

    Before they are deleted, within the same transaction, which ends with :func:`stay_sound` if this
    returns True. Where counters are not sound, all visits are to be counted anew as it is.
    """
    state = read_state(connection)
    if not state.is_sound:
        return False
    values = {"floor": state.floor, "counted_id": state.counted_id}
    connection.execute(FILL_GOING, values)
    connection.execute(FIND_MIXED)
    for statement in (LEAVE_SLOTS, FOLLOWING, LEAVE_PAIRS):
        connection.execute(statement, values)
    add_changes(connection, -1)
    count_outcomes(connection, GOING, values, -1)
    for statement in (*FORGET_LAST, *FORGET_EMPTY):
        connection.execute(statement)
    for statement in (*DATE_AGAIN, *LAST_AGAIN):
        connection.execute(statement, values)
    clear(connection)
    return True


def stay_sound(connection: sqlite3.Connection) -> None:
    """Note that the visits which are left are those that are counted."""
    connection.execute(STILL_SOUND)


def drop_buckets(connection: sqlite3.Connection) -> bool:
    """Drop some counters of what is older than the floor; False once there are none."""
    with transaction(connection):
        slot = read_state(connection).floor // SLOT
        values = {"slot": slot, "limit": BUCKETS_PER_STEP}
        dropped = [connection.execute(statement, values).rowcount for statement in DROP]
    return max(dropped) == BUCKETS_PER_STEP
