"""How fast the spool moves into the database: visits per second, CPU and bytes per visit.

    python benchmarks/ingest.py [--visits 200000] [--rows 1000000] [--paths 100000] [--rounds 3]
        [--rate 25000]

Visits are written to segments by the package's own Spool, a chunk at a time; only moving them is
timed, by the package's own Ingester, in one thread, and counting them. With ``--rows`` the
database holds that many visits of the same kind before; they are made once and copied for every
round.

The visits (see :func:`visits`) are one growing site: a year with its daily cycle, users who come
in sessions of about 4 visits and of whom few come often (44,000 distinct ones in a million
visits), 245 pairs of endpoint and method of which few are popular, 2,000 user agents, 500 referers;
with ``--paths``, paths beside the endpoints, of which the rarest never come, either. They are the
same in every run. Those that are timed go on with the year, days of it in a second; with ``--rate``
so many come a second, as they do where a host has that many to store: counters then have fewer
hours, users and endpoints to add to.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.spool import Spool

BEGIN = 1_735_689_600_000_000  # 2025-01-01 UTC in µs
DAYS = 365
DAY = 86_400_000_000
ENDPOINTS = 200
USER_AGENTS = 2000
REFERERS = 500
VISITS_PER_USER = 20  # of all that there are; the rarest of them never come
VISITS_PER_SESSION = 4.2
SESSIONS_AT_ONCE = 64
USER_SKEW = 0.75
ENDPOINT_SKEW = 1.1
PATH_SKEW = 0.9
CHUNK = 20_000


def visits(count: int, paths: int, days: int = DAYS) -> Iterator[Visit]:
    """Make ``count`` visits of so many days in the order of time, always the same ones."""
    chance = random.Random(count)
    users = Popularity(max(50, count // VISITS_PER_USER), USER_SKEW, chance)
    endpoints = Popularity(ENDPOINTS, ENDPOINT_SKEW, chance)
    referers = Popularity(REFERERS, 1.0, chance)
    numbers = Popularity(max(1, paths // ENDPOINTS), PATH_SKEW, chance)
    sessions = [users.draw() for _ in range(SESSIONS_AT_ONCE)]
    for timestamp in _timestamps(count, days, chance):
        place = chance.randrange(SESSIONS_AT_ONCE)
        if chance.random() < 1 / VISITS_PER_SESSION:
            sessions[place] = users.draw()
        user, endpoint, referer = sessions[place], endpoints.draw(), referers.draw()
        template = f"/section-{endpoint % 20}/page-{endpoint}"
        if paths:
            path: str | None = f"{template}/{numbers.draw()}"
            template += "/<int:item>"
        else:
            path = None
        duration = round(chance.gammavariate(2, 15_000))
        yield Visit(
            timestamp=timestamp,
            user_hash=hashlib.blake2b(b"%d" % user, digest_size=16).hexdigest(),
            method=_method(endpoint, chance),
            endpoint=template,
            path=path,
            status=chance.choices((200, 304, 404, 500), (90, 5, 4, 1))[0],
            duration_us=duration,
            first_byte_us=duration,
            bytes_sent=chance.randrange(500, 50_000),
            ip_address=f"10.{user >> 16 & 255}.{user >> 8 & 255}.{user & 255}",
            user_agent=f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            f"Chrome/{100 + user % 40}.0.{user * 7919 % USER_AGENTS}.0 Safari/537.36",
            referer=f"https://www.site-{referer:03}.example/links" if referer else None,
            host="shop.example.com",
        )


class Popularity:
    """Numbers from 0, of which the first is drawn most often: the n-th as 1 / n ** skew."""

    def __init__(self, size: int, skew: float, chance: random.Random) -> None:
        self._sums = list(itertools.accumulate(number**-skew for number in range(1, size + 1)))
        self._numbers = range(size)
        self._chance = chance

    def draw(self) -> int:
        """Return one number."""
        return self._chance.choices(self._numbers, cum_weights=self._sums)[0]


def _timestamps(count: int, days: int, chance: random.Random) -> Iterator[int]:
    """Spread visits over the days: nine times as many at 15:00 as at 3:00 hours."""
    for number in range(count):
        day, part = divmod((number + chance.random() * 0.9) * days / count, 1)
        yield BEGIN + int((day + _hour_of_quantile(part)) * DAY)


def _hour_of_quantile(quantile: float) -> float:
    """Return the part of a day before which ``quantile`` of its visits come."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        phase = 2 * math.pi * (middle - 0.375)
        before = middle - 0.8 / (2 * math.pi) * (math.cos(phase) - math.cos(2 * math.pi * 0.375))
        low, high = (middle, high) if before < quantile else (low, middle)
    return low


def _method(endpoint: int, chance: random.Random) -> str:
    """Give every fifth endpoint a POST, and every fortieth a DELETE: 245 pairs in all."""
    if endpoint % 40 == 0 and chance.random() < 0.01:
        return "DELETE"
    return "POST" if endpoint % 5 == 0 and chance.random() < 0.15 else "GET"


@dataclass(slots=True)
class Drained:
    """What moving visits took."""

    visits: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def drain(database: Path, visits: Iterable[Visit]) -> Drained:
    """Write visits to the spool, chunk by chunk, and move each chunk to the database."""
    folder = database.with_name(database.name + "-spool")
    storage = open_storage(database)
    spool, ingester = Spool(folder), Ingester(storage, folder)
    total = Drained()
    lines = (visit.line() for visit in visits)
    try:
        while chunk := list(itertools.islice(lines, CHUNK)):
            for line in chunk:
                if not spool.append(line):
                    raise OSError("the spool did not take a line")
            _move(ingester, total)
            total.visits += len(chunk)
        _move(ingester, total)
    finally:
        spool.close()
        storage.close()
    return total


def _move(ingester: Ingester, total: Drained) -> None:
    started, cpu_began = time.perf_counter(), time.process_time()
    while ingester.run_once():
        pass
    while ingester.count():
        pass
    ingester.tidy()
    total.cpu_seconds += time.process_time() - cpu_began
    total.seconds += time.perf_counter() - started


def size_on_disk(database: Path) -> int:
    """Return the database's bytes once its log is written back."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return sum(
        file.stat().st_size for file in database.parent.glob(f"{database.name}*") if file.is_file()
    )


def measure(folder: Path, before: Path | None, timed: Sequence[Visit], rows: int) -> dict[str, Any]:
    """Run one round, in a folder of its own."""
    database = folder / "visits.db"
    if before is not None:
        shutil.copy(before, database)
    calibration = [common.calibrate()]
    drained = drain(database, timed)
    calibration.append(common.calibrate())
    storage = open_storage(database)
    with storage.snapshot() as snapshot:
        recorded = snapshot.summary().total_hits
    storage.close()
    return {
        "visits_per_second": drained.visits / drained.seconds,
        "cpu_us": drained.cpu_seconds / drained.visits * 1e6,
        "bytes_per_visit": size_on_disk(database) / recorded,
        "users": count(database, "users"),
        "paths": count(database, "paths"),
        "calibration": calibration,
        "sent": rows + drained.visits,
        "recorded": recorded,
    }


def at_rate(some: Sequence[Visit], rate: float) -> list[Visit]:
    """Return these visits as they would come at a rate, from the first one on."""
    begin, step = some[0].timestamp, 1_000_000 / rate
    return [replace(visit, timestamp=begin + int(n * step)) for n, visit in enumerate(some)]


def count(database: Path, table: str) -> int:
    """Return how many rows a table has."""
    with closing(sqlite3.connect(database)) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(rows)


def run(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Fill the database, and run every round on a copy."""
    everything = visits(options.rows + options.visits, options.paths)
    before = None
    if options.rows:
        before = scratch / "before.db"
        filling = drain(before, itertools.islice(everything, options.rows))
        size_on_disk(before)
        print(
            f"filled with {filling.visits} visits, {filling.visits / filling.seconds:.0f} a "
            f"second over all, {filling.cpu_seconds / filling.visits * 1e6:.1f} µs of CPU each"
        )
    timed = list(everything)
    if options.rate:
        timed = at_rate(timed, options.rate)
    runs = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            runs.append({**measure(Path(folder), before, timed, options.rows), "round": number})
    return runs


def report(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return the table."""
    last = runs[-1]
    row = [
        f"{options.rows:,}",
        f"{options.visits:,}",
        f"{last['users']:,}",
        f"{last['paths']:,}",
        common.spread([run["visits_per_second"] for run in runs], 0),
        common.spread([run["cpu_us"] for run in runs], 1),
        f"{last['bytes_per_visit']:.0f}",
        "all" if complete(runs) else f"**{[run['recorded'] for run in runs]}**",
        f"{statistics.median(itertools.chain(*(run['calibration'] for run in runs))):.2f}",
    ]
    heads = ["rows before", "visits timed", "users", "paths", "visits/s", "CPU µs/visit"]
    return common.table([*heads, "bytes/visit on disk", "recorded", "calibration µs"], [row])


def complete(runs: Sequence[dict[str, Any]]) -> bool:
    """Return whether every visit was recorded, once."""
    return all(run["recorded"] == run["sent"] for run in runs)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--visits", type=int, default=200_000, help="how many are timed")
    parser.add_argument("--rows", type=int, default=0, help="how many are there before")
    parser.add_argument("--paths", type=int, default=0, help="paths beside the endpoints")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, help="how many of those timed come a second")
    parser.add_argument("--cpu", type=int, default=0, help="the processor to use; -1: any")
    parser.add_argument("--folder", type=Path, help="where databases are made, on a local disk")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args()
    if options.cpu >= 0:
        common.pin({options.cpu})
    where = f"on processor {options.cpu}" if options.cpu >= 0 else "on any processor"
    print(f"{common.conditions()}; {options.rounds} rounds, {where}", flush=True)
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as scratch:
        runs = run(options, Path(scratch))
    common.write_json_lines(options.json, runs)
    print("\n" + report(runs, options))
    return 0 if complete(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
