"""Whether the counters are those of the visits: all of them found anew, and compared.

In other ways than they are kept: flags of last visits from all slots of all users at once. Only
what can be asked for is compared, whole buckets from the floor on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from ...period import SLOT, Granularity, first_whole
from .calendar import buckets_of, read_zone
from .changes import DAY_LEVEL, HOUR_LEVEL, LEVELS, MONTH_LEVEL, SLOT_LEVEL, SUMMED_UP, WEEK_LEVEL
from .counters import CLASS_ID, read_state
from .outcomes import BYTES, LATENCY, STATUS_CLASS

NAMES = ("slot", *(granularity.value for granularity in Granularity))
FLAGS = "users_hour, users_day, users_week, users_month, users"
SUMS = "sum(users_hour), sum(users_day), sum(users_week), sum(users_month), sum(users)"

VISITS = f"""
WITH visit AS (
    SELECT user_id, endpoint_id, {CLASS_ID} AS class_id, timestamp, timestamp / {SLOT} AS slot
    FROM visits WHERE timestamp >= :floor AND id <= :counted_id
), everywhere AS (
    SELECT * FROM visit UNION ALL SELECT user_id, endpoint_id, 0, timestamp, slot FROM visit
)"""
SLOTS_FOUND = f"""
{VISITS}, followed AS (
    SELECT class_id, slot, lead(slot) OVER (PARTITION BY user_id, class_id ORDER BY slot) AS next
    FROM (SELECT DISTINCT user_id, class_id, slot FROM everywhere WHERE user_id IS NOT NULL)
), flagged AS (
    SELECT followed.slot, class_id, 0 AS hits, following.hour IS NOT own.hour AS users_hour,
        following.day IS NOT own.day AS users_day, following.week IS NOT own.week AS users_week,
        following.month IS NOT own.month AS users_month, next IS NULL AS users
    FROM followed JOIN calendar AS own ON own.slot = followed.slot
    LEFT JOIN calendar AS following ON following.slot = next
    UNION ALL SELECT slot, class_id, 1, 0, 0, 0, 0, 0 FROM everywhere
)
SELECT slot, class_id, sum(hits), {SUMS} FROM flagged
WHERE slot >= :slot GROUP BY slot, class_id"""
TOTALS = f"""
SELECT bucket, class_id, hits, {FLAGS} FROM totals
WHERE level = {{level}} AND bucket >= :{{name}} AND hits <> 0"""
TOTALS_FOUND = f"""
SELECT {{name}}, class_id, sum(hits), {SUMS} FROM totals JOIN calendar ON slot = bucket
WHERE level = {{lower}} AND {{name}} >= :{{name}}
GROUP BY {{name}}, class_id HAVING sum(hits) <> 0"""
ENDPOINTS = """
SELECT bucket, class_id, endpoints FROM totals
WHERE level = {level} AND bucket >= :{name} AND hits <> 0"""
ENDPOINTS_FOUND = f"""
{VISITS} SELECT {{name}}, class_id, count(DISTINCT endpoint)
FROM everywhere JOIN calendar USING (slot) JOIN endpoints ON endpoints.id = endpoint_id
WHERE {{name}} >= :{{name}} GROUP BY {{name}}, class_id"""
HITS = """
SELECT bucket, endpoint_id, class_id, hits, users, first, last,
    hits_1, hits_2, hits_3, users_1, users_2, users_3
FROM hits WHERE level = {level} AND bucket >= :{name} AND hits <> 0"""
HITS_FOUND = f"""
{VISITS}, last_of_pair AS (
    SELECT max(slot) AS slot, endpoint_id, class_id FROM everywhere WHERE user_id IS NOT NULL
    GROUP BY user_id, endpoint_id, class_id
), counted AS (
    SELECT slot, endpoint_id, class_id, 1 AS hits, 0 AS users, timestamp FROM everywhere
    UNION ALL SELECT slot, endpoint_id, class_id, 0, 1, NULL FROM last_of_pair
)
SELECT {{name}} AS bucket, endpoint_id, class_id, sum(hits), {{users}}, {{dates}}, {{later}}
FROM counted JOIN calendar USING (slot)
WHERE {{name}} >= :{{name}} GROUP BY {{name}}, endpoint_id, class_id"""
NOTHING_LATER = "0, 0, 0, 0, 0, 0"
LATER = ", ".join(
    f"sum({of} * (slot - hour >= {quarter}))" for of in ("hits", "users") for quarter in (1, 2, 3)
)
LAST = "SELECT {keys}, class_id, {last} FROM {table} WHERE {last} >= :{unit}"
LAST_FOUND = f"""
{VISITS} SELECT {{keys}}, class_id, max(calendar.{{unit}}) AS last
FROM visit JOIN calendar USING (slot) WHERE user_id IS NOT NULL
GROUP BY {{keys}}, class_id HAVING last >= :{{unit}}"""
LATEST = "SELECT endpoint_id, class_id, last FROM latest WHERE last >= :floor"
LATEST_FOUND = f"""
{VISITS} SELECT endpoint_id, class_id, max(timestamp) FROM visit GROUP BY 1, 2"""
OUTCOMES = """
SELECT bucket, endpoint_id, status_class, latency, hits, bytes FROM outcomes
WHERE level = {level} AND bucket >= :{name}"""
OUTCOMES_FOUND = f"""
WITH went AS (
    SELECT {{name}} AS bucket, endpoint_id, {STATUS_CLASS} AS status_class, {LATENCY} AS latency,
        bytes_sent
    FROM visits JOIN calendar ON slot = timestamp / {SLOT}
    WHERE timestamp >= :floor AND id <= :counted_id AND {{name}} >= :{{name}}
)
SELECT bucket, endpoint_id, status_class, latency, count(*), {BYTES} FROM went GROUP BY 1, 2, 3, 4
UNION ALL SELECT bucket, 0, status_class, latency, count(*), {BYTES} FROM went GROUP BY 1, 3, 4"""
CALENDAR = "SELECT slot, hour, day, week, month FROM calendar WHERE slot >= :slot"


def first_damage(connection: sqlite3.Connection) -> str | None:
    """Return the first thing SQLite finds wrong with the file, or ``None``."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return None if found == "ok" else f"the file is damaged: {found}"


def first_difference(connection: sqlite3.Connection) -> str | None:
    """Return what the counters have and the visits do not, or the other way round.

    Visits that came since they were counted are no difference.
    """
    state, zone = read_state(connection), read_zone(connection)
    if not state.is_sound:
        return "visits were changed, and are not counted anew yet"
    values = {"counted_id": state.counted_id, "floor": state.floor, "slot": -(-state.floor // SLOT)}
    for granularity in Granularity:
        values[granularity.value] = first_whole(granularity, state.floor, zone) // SLOT
    for row in connection.execute(CALENDAR, values):
        if row[1:] != buckets_of(row[0], zone):
            return f"calendar (slot, hour, day, week, month) {row} is counted, and not in {zone}"
    for name, counted, found in _comparisons():
        for one, other, verdict in (
            (counted, found, "is counted, and not in the visits"),
            (found, counted, "is in the visits, and not counted"),
        ):
            rows = f"SELECT * FROM ({one}) EXCEPT SELECT * FROM ({other}) LIMIT 1"
            if row := connection.execute(rows, values).fetchone():
                return f"{name} {row} {verdict}"
    return None


def _comparisons() -> Iterator[tuple[str, str, str]]:
    """Yield what is compared: its name and columns, how it was counted, and how it is found."""
    for table, keys, unit in (
        ("visitors", "user_id", "slot"),
        ("pairs", "user_id, endpoint_id", "slot"),
    ):
        words = {"table": table, "keys": keys, "unit": unit, "last": f"last_{unit}"}
        yield f"{table} ({keys}, class, last)", LAST.format(**words), LAST_FOUND.format(**words)
    slots = TOTALS.format(level=SLOT_LEVEL, name="slot")
    yield f"slot (slot, class, hits, {FLAGS})", slots, SLOTS_FOUND
    for level, name in zip(LEVELS[HOUR_LEVEL:], NAMES[HOUR_LEVEL:], strict=True):
        dated = level in (DAY_LEVEL, MONTH_LEVEL)
        words = {
            "name": name,
            "dates": "min(timestamp), max(timestamp)" if dated else "NULL, NULL",
            "later": LATER if level == HOUR_LEVEL else NOTHING_LATER,
            "users": "0" if level == WEEK_LEVEL else "sum(users)",
        }
        numbers = {"level": level, "lower": SUMMED_UP[level]}
        for columns, counted, found in (
            (f"class, hits, {FLAGS}", TOTALS, TOTALS_FOUND),
            ("class, endpoints", ENDPOINTS, ENDPOINTS_FOUND),
            ("endpoint, class, hits, users, first, last", HITS, HITS_FOUND),
        ):
            yield (
                f"{name} ({name}, {columns})",
                counted.format(**words, **numbers),
                found.format(**words, **numbers),
            )
    yield "latest (endpoint, class, last)", LATEST, LATEST_FOUND
    for level, name in ((DAY_LEVEL, "day"), (MONTH_LEVEL, "month")):
        yield (
            f"outcomes ({name}, endpoint, status class, latency, hits, bytes)",
            OUTCOMES.format(level=level, name=name),
            OUTCOMES_FOUND.format(name=name),
        )
