"""What visits change in the counters: made of ``temp.slots``, ``moved`` and ``recent``, and added.

First for slots and hours and each class, then for all visitors, of class 0, then summed up to days,
weeks and months. Who is of one class is one of all visitors with it; who is mixed, as somebody of
class 0.
"""

from __future__ import annotations

import sqlite3

LEVELS = SLOT_LEVEL, HOUR_LEVEL, DAY_LEVEL, WEEK_LEVEL, MONTH_LEVEL = range(5)
# Of what each level is the sum.
SUMMED_UP = {
    HOUR_LEVEL: SLOT_LEVEL,
    DAY_LEVEL: HOUR_LEVEL,
    WEEK_LEVEL: DAY_LEVEL,
    MONTH_LEVEL: DAY_LEVEL,
}
_NAMES = "slot hour day week month".split()

_UNITS = "hour day week month".split()
_FLAGS = ", ".join(f"sum(sign * (following.{unit} IS NOT own.{unit}))" for unit in _UNITS)
_FOLLOWED = """
SELECT {sign} AS sign, user_id, class_id, slot,
    lead(slot) OVER (PARTITION BY user_id, class_id ORDER BY slot) AS next
FROM temp.slots WHERE {when}"""
FLAG = f"""
INSERT INTO temp.total_changes
SELECT {SLOT_LEVEL}, own.slot, class_id, user_id IN (SELECT user_id FROM temp.mixed), 0, {_FLAGS},
    sum(sign * (next IS NULL))
FROM (
    {_FOLLOWED.format(sign=-1, when="was")} UNION ALL {_FOLLOWED.format(sign=1, when="now")}
) AS followed
CROSS JOIN calendar AS own ON own.slot = followed.slot
LEFT JOIN calendar AS following ON following.slot = next
GROUP BY own.slot, class_id, 4"""
COUNT_HITS = f"""
INSERT INTO temp.total_changes
SELECT {SLOT_LEVEL}, slot, class_id, 0, :sign * count(*), 0, 0, 0, 0, 0 FROM temp.recent
GROUP BY slot, class_id"""
_TOTALS = ["hits", *(f"users_{unit}" for unit in _UNITS), "users"]
_SUMS = ", ".join(f"sum({name})" for name in _TOTALS)
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in _TOTALS)
TOTALS_OF_ALL = f"""
INSERT INTO temp.total_changes SELECT level, bucket, 0, 0, {", ".join(_TOTALS)}
FROM temp.total_changes WHERE class_id <> 0 AND NOT is_mixed"""
SUM_UP_TOTALS = [
    f"INSERT INTO temp.total_changes SELECT {level}, calendar.{_NAMES[level]}, class_id, 0, "
    f"{_SUMS} FROM temp.total_changes CROSS JOIN calendar ON slot = bucket "
    f"WHERE level = {lower} GROUP BY 2, 3"
    for level, lower in SUMMED_UP.items()
]
ADD_TOTALS = f"""
INSERT INTO totals (level, class_id, bucket, {", ".join(_TOTALS)})
SELECT level, class_id, bucket, {_SUMS} FROM temp.total_changes GROUP BY 1, 2, 3
ON CONFLICT (level, class_id, bucket) DO UPDATE SET {_ADDED}"""

_IS_MIXED = "class_id <> 0 AND user_id IN (SELECT user_id FROM temp.mixed)"
# Of hours also what lies behind each quarter, so that a window that begins within one needs to look
# at the rest of a quarter only.
_LATER = [f"{of}_{quarter}" for of in ("hits", "users") for quarter in (1, 2, 3)]
_SUMS_LATER = ", ".join(
    f"sum({of} * (slot - hour >= {quarter}))" for of in ("hits", "users") for quarter in (1, 2, 3)
)
CHANGE_HITS = f"""
INSERT INTO temp.hit_changes
SELECT {HOUR_LEVEL}, hour, endpoint_id, class_id, is_mixed, sum(hits), sum(users),
    min(timestamp), max(timestamp), {_SUMS_LATER}
FROM (
    SELECT slot, endpoint_id, class_id, 0 AS is_mixed, :sign AS hits, 0 AS users, timestamp
        FROM temp.recent
    UNION ALL SELECT now, endpoint_id, class_id, {_IS_MIXED}, 0, 1, NULL FROM temp.moved
    UNION ALL SELECT was, endpoint_id, class_id, {_IS_MIXED}, 0, -1, NULL FROM temp.moved
) CROSS JOIN calendar USING (slot) GROUP BY 2, 3, 4, 5"""
HITS_OF_ALL = f"""
INSERT INTO temp.hit_changes
SELECT level, bucket, endpoint_id, 0, 0, hits, users, first, last, {", ".join(_LATER)}
FROM temp.hit_changes WHERE class_id <> 0 AND NOT is_mixed"""
SUM_UP_HITS = [
    "INSERT INTO temp.hit_changes (level, bucket, endpoint_id, class_id, is_mixed, hits, users, "
    f"first, last) SELECT {level}, calendar.{_NAMES[level]}, endpoint_id, class_id, "
    "0, sum(hits), sum(users), min(first), max(last) "
    f"FROM temp.hit_changes CROSS JOIN calendar ON slot = bucket "
    f"WHERE level = {lower} GROUP BY 2, 3, 4"
    for level, lower in SUMMED_UP.items()
    if lower != SLOT_LEVEL
]
# Only whole days and months are asked for their first and last visit, and weeks for no users.
_DATED = f"CASE WHEN level IN ({DAY_LEVEL}, {MONTH_LEVEL}) THEN {{}} END"
ADD_HITS = f"""
INSERT INTO hits (level, class_id, bucket, endpoint_id, hits, users, first, last, {", ".join(_LATER)})
SELECT level, class_id, bucket, endpoint_id, hits,
    CASE WHEN level <> {WEEK_LEVEL} THEN users ELSE 0 END,
    {_DATED.format("first")}, {_DATED.format("last")}, {", ".join(_LATER)} FROM temp.hit_changes
WHERE hits <> 0 OR level <> {WEEK_LEVEL}
ON CONFLICT (level, class_id, bucket, endpoint_id) DO UPDATE SET
    hits = hits + excluded.hits, users = users + excluded.users,
    first = min(coalesce(first, excluded.first), coalesce(excluded.first, first)),
    last = max(coalesce(last, excluded.last), coalesce(excluded.last, last)),
    {", ".join(f"{name} = {name} + excluded.{name}" for name in _LATER)}"""
# Buckets that an endpoint is gone from, as visits go: how many they have is counted anew.
FIND_RESIZED = """
INSERT OR IGNORE INTO temp.resized SELECT level, class_id, bucket FROM temp.hit_changes AS change
WHERE hits <> 0 AND coalesce((
    SELECT hits FROM hits WHERE hits.level = change.level AND hits.bucket = change.bucket
    AND hits.endpoint_id = change.endpoint_id AND hits.class_id = change.class_id
), 0) IN (0, -hits)"""
COUNT_ENDPOINTS = """
UPDATE totals SET endpoints = (
    SELECT count(DISTINCT endpoint) FROM hits CROSS JOIN endpoints ON endpoints.id = endpoint_id
    WHERE hits.level = totals.level AND hits.class_id = totals.class_id
    AND hits.bucket = totals.bucket AND hits.hits > 0)
WHERE (level, class_id, bucket) IN (SELECT level, class_id, bucket FROM temp.resized)"""

# As visits come, endpoints that a bucket did not have of a class are added: counting it anew would
# read all that it has, with each batch that brings one.
APPEAR = """
INSERT INTO temp.appeared SELECT DISTINCT level, bucket, endpoint, class_id FROM (
    SELECT level, bucket, endpoint, class_id
    FROM temp.hit_changes AS change CROSS JOIN endpoints ON endpoints.id = endpoint_id
    WHERE hits <> 0 AND NOT EXISTS (
        SELECT 1 FROM hits WHERE hits.level = change.level AND hits.bucket = change.bucket
        AND hits.endpoint_id = change.endpoint_id AND hits.class_id = change.class_id
        AND hits.hits > 0)
) AS new WHERE NOT EXISTS (
    SELECT 1 FROM endpoints AS same CROSS JOIN hits ON hits.level = new.level
        AND hits.class_id = new.class_id AND hits.bucket = new.bucket
        AND hits.endpoint_id = same.id AND hits.hits > 0
    WHERE same.endpoint = new.endpoint)"""
ADD_ENDPOINTS = """
UPDATE totals SET endpoints = totals.endpoints + new.endpoints
FROM (SELECT level, class_id, bucket, count(*) AS endpoints FROM temp.appeared GROUP BY 1, 2, 3)
    AS new
WHERE totals.level = new.level AND totals.class_id = new.class_id AND totals.bucket = new.bucket"""


def add_changes(connection: sqlite3.Connection, sign: int) -> None:
    """Add what the temporary tables say; with ``sign`` -1, hits are taken away."""
    values = {"sign": sign}
    connection.execute(FLAG)
    connection.execute(COUNT_HITS, values)
    connection.execute(TOTALS_OF_ALL)
    connection.execute(CHANGE_HITS, values)
    connection.execute(HITS_OF_ALL)
    for statement in (*SUM_UP_TOTALS, *SUM_UP_HITS, ADD_TOTALS):
        connection.execute(statement)
    if sign > 0:
        connection.execute(APPEAR)
        connection.execute(ADD_ENDPOINTS)
        connection.execute(ADD_HITS)
    else:
        connection.execute(FIND_RESIZED)
        connection.execute(ADD_HITS)
        connection.execute(COUNT_ENDPOINTS)
