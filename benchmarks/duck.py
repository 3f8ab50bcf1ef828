"""The same reports from DuckDB, over the same rows: what a column store takes that keeps no counters.

It has the columns that the reports need, numbers for strings like ours, in a file of its own.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from wsgi_tracker.period import Granularity

CHUNK = 1 << 20
STATS = """
SELECT endpoint, method, hits, users, first, last FROM (
    SELECT endpoint_id, count(*) AS hits, count(DISTINCT user_id) AS users,
        min(timestamp) AS first, max(timestamp) AS last
    FROM visits WHERE timestamp >= ? GROUP BY endpoint_id
) JOIN endpoints ON id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
SUMMARY = """
SELECT count(*), count(DISTINCT endpoint), count(DISTINCT user_id), min(timestamp), max(timestamp)
FROM visits JOIN endpoints ON id = endpoint_id WHERE timestamp >= ?"""
TRENDS = """
SELECT epoch_us(date_trunc('{granularity}', make_timestamp(timestamp))) AS bucket,
    count(*), count(DISTINCT user_id), count(DISTINCT endpoint)
FROM visits JOIN endpoints ON id = endpoint_id
WHERE timestamp >= ? GROUP BY bucket ORDER BY bucket DESC"""


def copy(database: Path, file: Path) -> Any:
    """Return a DuckDB connection, on one thread, to a copy of a database; ``None`` without DuckDB."""
    try:
        import duckdb
        import numpy
    except ImportError:
        return None
    peer = duckdb.connect(str(file))
    peer.execute("SET threads = 1")
    peer.execute("CREATE TABLE endpoints (id INTEGER, endpoint VARCHAR, method VARCHAR)")
    peer.execute("CREATE TABLE visits (timestamp BIGINT, endpoint_id INTEGER, user_id INTEGER)")
    with closing(sqlite3.connect(database)) as connection:
        endpoints = connection.execute("SELECT id, endpoint, method FROM endpoints").fetchall()
        ids, names, methods = zip(*endpoints, strict=True)
        columns = [numpy.array(ids), numpy.array(names, object), numpy.array(methods, object)]
        _insert(peer, "endpoints", columns)
        rows = connection.execute("SELECT timestamp, endpoint_id, user_id FROM visits ORDER BY id")
        while chunk := rows.fetchmany(CHUNK):
            _insert(peer, "visits", numpy.array(chunk, "int64").T)
    peer.execute("CHECKPOINT")
    return peer


def _insert(peer: Any, table: str, columns: Any) -> None:
    names = [f"c{number}" for number in range(len(columns))]
    peer.register("chunk", dict(zip(names, columns, strict=True)))
    peer.execute(f"INSERT INTO {table} SELECT {', '.join(names)} FROM chunk")
    peer.unregister("chunk")


def stats(peer: Any, start: int) -> list[Any]:
    """Return rows like :class:`wsgi_tracker.reports.EndpointStats`."""
    return list(peer.execute(STATS, [start]).fetchall())


def summary(peer: Any, start: int) -> tuple[Any, ...]:
    """Return a row like :class:`wsgi_tracker.reports.Summary`."""
    return tuple(peer.execute(SUMMARY, [start]).fetchone())


def trends(peer: Any, start: int, granularity: Granularity) -> list[Any]:
    """Return start, hits, users and endpoints of each bucket, newest first."""
    statement = TRENDS.format(granularity=granularity.value)
    return list(peer.execute(statement, [start]).fetchall())
