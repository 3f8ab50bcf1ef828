"""Reports from visits: of one statement each, which all shards answer together."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

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
from .client import Client
from .conditions import AGENTS, OF_AGENTS, column, where
from .zones import bucket_key

STATS = """
SELECT endpoint, method, count() AS hits, ifNull(uniqExact(user_hash), 0), min(timestamp), max(timestamp)
FROM visits WHERE {where} GROUP BY endpoint, method ORDER BY hits DESC, endpoint, method"""
SUMMARY = """
SELECT count(), uniqExact(endpoint), ifNull(uniqExact(user_hash), 0), min(timestamp), max(timestamp)
FROM visits WHERE {where}"""
BUCKETS = """
SELECT {bucket} AS bucket, min(timestamp), max(timestamp), count(), ifNull(uniqExact(user_hash), 0),
    uniqExact(endpoint) FROM visits WHERE {where} GROUP BY bucket"""
BUCKET = """
SELECT count(), ifNull(uniqExact(user_hash), 0), uniqExact(endpoint) FROM visits WHERE {where}"""
# The number of a power of 2 ** (1/4), the greatest that is no more than a latency when both are
# rounded: a half more tells the same, as no power is just between two numbers.
POWER = f"toInt16(floor({PER_DOUBLING} * log2(greatest(duration_us, 1) + 0.5)))"
LATENCY = f"if(isNull(duration_us), {UNKNOWN}, {POWER})"
OUTCOMES = f"""
SELECT {{key}}, intDiv(ifNull(status, 0), 100) AS status_class, {LATENCY} AS latency,
    count(), sum(ifNull(bytes_sent, 0)) FROM visits WHERE {{where}} GROUP BY key, status_class, latency"""
COUNT = "SELECT count() FROM visits WHERE {where}"
USERS = "SELECT ifNull(uniqExact(user_hash), 0) FROM visits WHERE {where}"
GROUPS = """
SELECT {value} AS value, count() AS hits, ifNull(uniqExact(user_hash), 0) FROM {source} GROUP BY value
ORDER BY hits DESC, isNull(value) DESC, value LIMIT {limit}"""
VALUES = """
SELECT ifNull(uniqExact(value), 0) + max(isNull(value)) FROM (SELECT {value} AS value FROM {source})"""
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

_AGENT_VALUES = {"class": "if(isNull(user_agent), 'empty', if(class = '', 'unknown', class))"}


def stats(client: Client, selection: Selection) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    return [EndpointStats(*row) for row in _ask(client, STATS, selection)]


def summary(client: Client, selection: Selection) -> Summary:
    """Return the totals."""
    ((hits, endpoints, users, *ends),) = _ask(client, SUMMARY, selection)
    oldest, newest = ends if hits else (None, None)
    return Summary(hits, endpoints, users, oldest, newest)


def trends(
    client: Client, selection: Selection, granularity: Granularity, zone: tzinfo, now: int
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    groups = _groups(client, selection, granularity, zone, now)
    found = {group.bucket: group.figures for group in groups.whole.values()}
    for bucket, within in groups.others.items():
        (found[bucket],) = _ask(client, BUCKET, within)
    return [
        TrendBucket(bucket, bucket_label(granularity, bucket, zone), *figures)
        for bucket, figures in sorted(found.items(), reverse=True)
        if figures[0]
    ]


def hits(client: Client, selection: Selection) -> int:
    """Return the number of visits."""
    return int(_ask(client, COUNT, selection)[0][0])


def users(client: Client, selection: Selection) -> int:
    """Return the number of users."""
    return int(_ask(client, USERS, selection)[0][0])


def outcomes(client: Client, selection: Selection) -> Outcomes:
    """Return the outcomes of all."""
    return _outcomes(client, selection, "0").get(0, Outcomes())


def outcomes_of_endpoints(client: Client, selection: Selection) -> dict[tuple[str, str], Outcomes]:
    """Return outcomes by endpoint and method."""
    found = _outcomes(client, selection, "[endpoint, method]")
    return {(endpoint, method): of for (endpoint, method), of in found.items()}


def outcomes_of_buckets(
    client: Client, selection: Selection, granularity: Granularity, zone: tzinfo, now: int
) -> dict[int, Outcomes]:
    """Return outcomes by where a bucket starts."""
    groups = _groups(client, selection, granularity, zone, now)
    by_key = _outcomes(client, selection, groups.key)
    found = {group.bucket: by_key[key] for key, group in groups.whole.items()}
    others = {bucket: outcomes(client, within) for bucket, within in groups.others.items()}
    return found | {bucket: of for bucket, of in others.items() if of.hits}


def breakdown(client: Client, selection: Selection, by: str, limit: int) -> Breakdown:
    """Return the values that most visits have, and how many there are."""
    source = f"(SELECT * FROM visits WHERE {where(selection)})"
    value = column(by)
    if by in OF_AGENTS:
        source = f"{source} AS shown GLOBAL ANY LEFT JOIN ({AGENTS}) AS agents USING user_agent"
        value = _AGENT_VALUES.get(by, by)
    elif by == "status":
        value = "toString(status)"
    statement = GROUPS.replace("{value}", value).replace("{source}", source)
    rows = client.rows(statement.replace("{limit}", str(limit)))
    total = 0
    if rows:
        ((total,),) = client.rows(VALUES.replace("{value}", value).replace("{source}", source))
    return Breakdown([BreakdownRow(*row) for row in rows], total)


def sessions(client: Client, selection: Selection) -> Sessions:
    """Return the totals of all sessions."""
    return Sessions(*_ask(client, SESSIONS, selection)[0])


def _ask(client: Client, statement: str, selection: Selection, **parts: str) -> list[Any]:
    for name, part in {"where": where(selection), **parts}.items():
        statement = statement.replace(f"{{{name}}}", part)
    return client.rows(statement)


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
    client: Client, selection: Selection, granularity: Granularity, zone: tzinfo, now: int
) -> _Groups:
    last = now + DAY if selection.end is None else min(selection.end, now + DAY)
    key = bucket_key(granularity, zone, selection.start, last)
    groups: dict[int, _Group] = {}
    parts: Counter[int] = Counter()  # of how many groups a bucket is
    torn: set[int] = set()
    for number, first, last, *figures in _ask(client, BUCKETS, selection, bucket=key):
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


def _outcomes(client: Client, selection: Selection, key: str) -> dict[Any, Outcomes]:
    found: dict[Any, Outcomes] = defaultdict(Outcomes)
    rows = _ask(client, OUTCOMES, selection, key=f"{key} AS key")
    for group, status_class, latency, *figures in rows:
        outcomes = found[tuple(group) if isinstance(group, list) else group]
        outcomes.add(status_class, bucket_of(latency), *figures)
    return dict(found)


def bucket_of(power: int) -> int:
    """Return the number of the bucket of latencies from that power on."""
    if power == UNKNOWN:
        return UNKNOWN
    return bisect(BOUNDS, round(2 ** (power / PER_DOUBLING))) - 1
