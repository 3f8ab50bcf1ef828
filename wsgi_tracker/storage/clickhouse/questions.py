"""Reports from visits: of one statement each, which all shards answer together."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any, TypeAlias

from ...latency import BOUNDS, PER_DOUBLING, UNKNOWN
from ...period import DAY, IDLE, Granularity, bucket_label, bucket_start, next_bucket
from ...reports import (
    Breakdown,
    BreakdownRow,
    EndpointStats,
    Outcomes,
    Sessions,
    Summary,
    TrendBucket,
)
from ...selection import Selection
from .conditions import AGENTS, OF_AGENTS, column, where
from .literals import PLACEHOLDER
from .zones import bucket_key

# What each shard finds, put together: as a user's visits are on one, users need not be compared, but
# endpoints have to be. Where that is not so, the inner part is of all shards already.
USERS = "ifNull(uniqExact(user_hash), 0)"
STATS = f"""
SELECT endpoint, method, sum(hits) AS total, sum(users), min(first), max(last) FROM (
    SELECT endpoint, method, count() AS hits, {USERS} AS users, min(timestamp) AS first,
        max(timestamp) AS last
    FROM visits WHERE {{where}} GROUP BY endpoint, method
) GROUP BY endpoint, method ORDER BY total DESC, endpoint, method"""
SUMMARY = f"""
SELECT sum(hits), uniqExactMerge(endpoints), sum(users), minIf(first, hits > 0), max(last) FROM (
    SELECT count() AS hits, uniqExactState(endpoint) AS endpoints, {USERS} AS users,
        min(timestamp) AS first, max(timestamp) AS last
    FROM visits WHERE {{where}}
)"""
BUCKETS = f"""
SELECT bucket, min(first), max(last), sum(hits), sum(users), uniqExactMerge(endpoints) FROM (
    SELECT {{bucket}} AS bucket, min(timestamp) AS first, max(timestamp) AS last, count() AS hits,
        {USERS} AS users, uniqExactState(endpoint) AS endpoints
    FROM visits WHERE {{where}} GROUP BY bucket
) GROUP BY bucket"""
TOTALS = f"""
SELECT sum(hits), sum(users), uniqExactMerge(endpoints) FROM (
    SELECT count() AS hits, {USERS} AS users, uniqExactState(endpoint) AS endpoints
    FROM visits WHERE {{where}}
)"""
# The number of a power of 2 ** (1/4), the greatest that is no more than a latency when both are
# rounded: a half more tells the same, as no power is just between two numbers.
POWER = f"toInt16(floor({PER_DOUBLING} * log2(greatest(duration_us, 1) + 0.5)))"
LATENCY = f"if(isNull(duration_us), {UNKNOWN}, {POWER})"
OUTCOMES = f"""
SELECT {{key}}, intDiv(ifNull(status, 0), 100) AS status_class, {LATENCY} AS latency,
    count(), sum(ifNull(bytes_sent, 0)) FROM visits WHERE {{where}} GROUP BY key, status_class, latency"""
COUNT = "SELECT sum(hits) FROM (SELECT count() AS hits FROM visits WHERE {where})"
COUNT_USERS = f"SELECT sum(users) FROM (SELECT {USERS} AS users FROM visits WHERE {{where}})"
GROUPS = f"""
SELECT value, sum(hits) AS total, sum(users) FROM (
    SELECT {{value}} AS value, count() AS hits, {USERS} AS users FROM {{source}} WHERE {{where}} GROUP BY value
) GROUP BY value ORDER BY total DESC, isNull(value) DESC, value LIMIT {{limit}}"""
VALUES = """
SELECT uniqExactMerge(others) + max(is_missing) FROM (
    SELECT uniqExactState({value}) AS others, max(isNull({value})) AS is_missing FROM {source}
    WHERE {where}
)"""
SESSIONS = f"""
SELECT sum(arraySum(begins)), sum(arraySum(arrayMap((a, b) -> a AND b, begins, ends))), sum(visits),
    sum(arraySum(arrayFilter(gap -> gap <= {IDLE}, gaps)))
FROM (
    SELECT length(times) AS visits,
        arrayMap((a, b) -> a - b, arrayPopFront(times), arrayPopBack(times)) AS gaps,
        arrayMap(gap -> gap > {IDLE}, gaps) AS pauses,
        arrayPushFront(pauses, 1) AS begins, arrayPushBack(pauses, 1) AS ends
    FROM (
        SELECT arraySort(groupArray(timestamp)) AS times FROM visits
        WHERE {{where}} AND isNotNull(user_hash) GROUP BY user_hash
    )
)"""

Rows: TypeAlias = Callable[[str], list[Any]]  # of a statement
_AGENT_VALUES = {"class": "if(isNull(user_agent), 'empty', if(class = '', 'unknown', class))"}


def stats(rows: Rows, selection: Selection) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    return [EndpointStats(*row) for row in _ask(rows, STATS, selection)]


def summary(rows: Rows, selection: Selection) -> Summary:
    """Return the totals."""
    ((hits, endpoints, users, *ends),) = _ask(rows, SUMMARY, selection)
    oldest, newest = ends if hits else (None, None)
    return Summary(hits, endpoints, users, oldest, newest)


def trends(
    rows: Rows, selection: Selection, granularity: Granularity, zone: tzinfo, now: int
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    groups = _groups(rows, selection, granularity, zone, now)
    found = {group.bucket: group.figures for group in groups.whole.values()}
    for bucket, within in groups.others.items():
        (found[bucket],) = _ask(rows, TOTALS, within)
    return [
        TrendBucket(bucket, bucket_label(granularity, bucket, zone), *figures)
        for bucket, figures in sorted(found.items(), reverse=True)
        if figures[0]
    ]


def hits(rows: Rows, selection: Selection) -> int:
    """Return the number of visits."""
    return int(_ask(rows, COUNT, selection)[0][0])


def users(rows: Rows, selection: Selection) -> int:
    """Return the number of users."""
    return int(_ask(rows, COUNT_USERS, selection)[0][0])


def outcomes(rows: Rows, selection: Selection) -> Outcomes:
    """Return the outcomes of all."""
    return _outcomes(rows, selection, "0").get(0, Outcomes())


def outcomes_of_endpoints(rows: Rows, selection: Selection) -> dict[tuple[str, str], Outcomes]:
    """Return outcomes by endpoint and method."""
    found = _outcomes(rows, selection, "[endpoint, method]")
    # One that is not there any more, as it was deleted meanwhile, has none.
    return defaultdict(Outcomes, {(at, method): of for (at, method), of in found.items()})


def outcomes_of_buckets(
    rows: Rows, selection: Selection, granularity: Granularity, zone: tzinfo, now: int
) -> dict[int, Outcomes]:
    """Return outcomes by where a bucket starts."""
    groups = _groups(rows, selection, granularity, zone, now)
    by_key = _outcomes(rows, selection, groups.key)
    found = {group.bucket: by_key.get(key, Outcomes()) for key, group in groups.whole.items()}
    others = {bucket: outcomes(rows, within) for bucket, within in groups.others.items()}
    return found | {bucket: of for bucket, of in others.items() if of.hits}


def breakdown(rows: Rows, selection: Selection, by: str, limit: int) -> Breakdown:
    """Return the values that most visits have, and how many there are."""
    source, value = "visits", column(by)
    if by in OF_AGENTS:
        source = f"visits GLOBAL ANY LEFT JOIN ({AGENTS}) AS agents USING user_agent"
        value = _AGENT_VALUES.get(by, by)
    elif by == "status":
        value = "toString(status)"
    parts = {"value": value, "source": source}
    found = _ask(rows, GROUPS, selection, limit=str(limit), **parts)
    ((total,),) = _ask(rows, VALUES, selection, **parts) if found else ((0,),)
    return Breakdown([BreakdownRow(*row) for row in found], total)


def sessions(rows: Rows, selection: Selection) -> Sessions:
    """Return the totals of all sessions."""
    return Sessions(*_ask(rows, SESSIONS, selection)[0])


def _ask(rows: Rows, statement: str, selection: Selection, **parts: str) -> list[Any]:
    parts = {"where": where(selection), **parts}
    # All at once: what clients have written may look like one of them.
    return rows(PLACEHOLDER.sub(lambda found: parts[found[1]], statement))


@dataclass(frozen=True, slots=True)
class _Group:
    """A bucket, and how many visits, users and endpoints it has."""

    bucket: int
    figures: list[int]


@dataclass(frozen=True, slots=True)
class _Groups:
    """What a server grouped by ``key``: what is a ``whole`` bucket, and buckets to ask for."""

    key: str
    whole: dict[int, _Group]
    others: dict[int, Selection]


def _groups(
    rows: Rows, selection: Selection, granularity: Granularity, zone: tzinfo, now: int
) -> _Groups:
    last = now + DAY if selection.end is None else min(selection.end, now + DAY)
    key = bucket_key(granularity, zone, selection.start, last)
    groups: dict[int, _Group] = {}
    parts: Counter[int] = Counter()  # of how many groups a bucket is
    torn: set[int] = set()
    for number, first, last, *figures in _ask(rows, BUCKETS, selection, bucket=key):
        bucket, end = (bucket_start(granularity, moment, zone) for moment in (first, last))
        groups[number] = _Group(bucket, figures)
        parts[bucket] += 1
        while bucket < end:
            torn.add(bucket)
            bucket = next_bucket(granularity, bucket, zone)
            torn.add(bucket)
    torn.update(bucket for bucket, count in parts.items() if count > 1)
    whole = {number: group for number, group in groups.items() if group.bucket not in torn}
    return _Groups(key, whole, {each: _within(selection, granularity, each, zone) for each in torn})


def _within(selection: Selection, granularity: Granularity, bucket: int, zone: tzinfo) -> Selection:
    following = next_bucket(granularity, bucket, zone)
    end = following if selection.end is None else min(selection.end, following)
    return replace(selection, start=max(selection.start, bucket), end=end)


def _outcomes(rows: Rows, selection: Selection, key: str) -> dict[Any, Outcomes]:
    found: dict[Any, Outcomes] = defaultdict(Outcomes)
    # Those of several shards are added up here.
    for group, status_class, latency, *figures in _ask(
        rows, OUTCOMES, selection, key=f"{key} AS key"
    ):
        outcomes = found[tuple(group) if isinstance(group, list) else group]
        outcomes.add(status_class, bucket_of(latency), *figures)
    return dict(found)


def bucket_of(power: int) -> int:
    """Return the number of the bucket of latencies from that power on."""
    if power == UNKNOWN:
        return UNKNOWN
    return bisect(BOUNDS, round(2 ** (power / PER_DOUBLING))) - 1
