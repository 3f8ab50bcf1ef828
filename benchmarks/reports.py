"""How long reports take while visits arrive, at any size; and beside them plain SQL and DuckDB.

    python benchmarks/reports.py [--rows 1000000] [--kind site] [--folder FOLDER] [--build]

A database of ``--rows`` visits (see bulk.py, which needs numpy) is copied and served by gunicorn, two
gthread workers on one processor, or with ``--both`` on both. From the other one, ``--rate`` requests
a second come meanwhile, of the same users for the same endpoints; and a client asks for every report and period in turn,
``--repetitions`` times after one that is not counted, on a new connection each, with a random pause
up to 0.2 s before, so that some visits wait in the spool, which a report reads along. The busier a
client, the less waits: so at the end it asks for one report every 1 to 2 s, as often again.

When the load is over, it asks ten times more ("idle"): what is then less was the visits' ingest.
And it asks about one past day and one past month, with filters and without, and breakdowns, sessions and
latencies of them: what no counter knows, and the visits are read for.
Then, in this process, the same questions are put to counters, to plain SQL, which
is what the package falls back on, and to DuckDB, if it is installed, with one thread. Their answers
must be equal. These times are the least of ``--slow-repetitions``, and hold no HTTP.

Kinds: ``site`` has 245 pairs of endpoint and method and few users who come often (44,000 in a
million visits); ``users`` has a million users who come in turn, and 5 endpoints; ``endpoints`` has
10,000, 12,250 pairs. With ``--folder`` a database is kept there, and used again for a day, as
windows reach back from now. ``--build`` only makes it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import bulk
import common
import duck
import gunicorn_throughput as gunicorn
import paced

from wsgi_tracker import open_storage
from wsgi_tracker.period import PERIODS, TREND_PERIODS, Granularity, window_start
from wsgi_tracker.selection import BREAKDOWNS, Selection
from wsgi_tracker.storage.sqlite import counted, raw
from wsgi_tracker.storage.sqlite.counters import read_state

GOAL_MS, GOAL_MS_OF_LARGE, GOAL_MS_OF_HOURS = 15, 25, 400
LARGE = 50_000_000
PAUSE_SECONDS = 0.2
REQUESTS = 20_000
IDLE_REPETITIONS = 10
COUNTER_REPETITIONS = 5


@dataclass(frozen=True, slots=True)
class Question:
    """A report and its period; ``length`` is that of the window in µs, ``None`` for all."""

    report: str
    period: str = ""
    length: int | None = None
    granularity: Granularity | None = None

    @property
    def name(self) -> str:
        """Return what the table shows."""
        return " ".join([self.report, *self._parameters().values()])

    @property
    def path(self) -> str:
        """Return the URL that asks it."""
        return f"/api/tracking/{self.report}?{urlencode(self._parameters())}"

    def _parameters(self) -> dict[str, str]:
        granularity = {"granularity": self.granularity.value} if self.granularity else {}
        return {**granularity, **({"period": self.period} if self.period else {})}

    def goal_ms(self, rows: int) -> int:
        """Return what 95 of 100 answers may take at most."""
        if self.granularity is Granularity.HOUR and self.period == "1y":
            return GOAL_MS_OF_HOURS
        return GOAL_MS if rows < LARGE else GOAL_MS_OF_LARGE

    def ask(self, source: Any, connection: Any, now: int) -> Any:
        """Ask a module: ``counted``, ``raw`` or ``duck``."""
        start: Any = window_start(self.length, now)
        more: list[Any] = [self.granularity] if self.granularity else []
        if source is raw:
            start = Selection(start)
            more += [timezone.utc] if self.granularity else []
        elif source is counted:
            more.append(None)
        return getattr(source, self.report)(connection, start, *more)


QUESTIONS = [
    *(
        Question(report, period, length)
        for report in ("stats", "summary")
        for period, length in PERIODS.items()
    ),
    *(
        Question("trends", period, length, granularity)
        for granularity in Granularity
        for period, length in TREND_PERIODS.items()
    ),
]
PAST_REPETITIONS = 5
PAST_GOALS_MS = {"day": 100, "month": 1500}
PAST = [
    "stats?",
    "stats?status=404",
    "stats?class=-human&method=GET",
    "stats?endpoint=/section-1/*",
    "stats?include=status,latency,bytes",
    "summary?browser=Chrome&include=sessions",
    "summary?include=sessions",
    "summary?compare=previous",
    "trends?granularity=hour",
    "trends?granularity=day&tz=Asia/Kathmandu&include=status,latency",
    *(f"breakdown?by={by}" for by in BREAKDOWNS),
    "breakdown?by=path&status=404&class=human",
    "visits?status=500&limit=1000",
]
NEWEST = Question("visits")  # the fifty newest, which no counter knows
ASKED = [*QUESTIONS, NEWEST]


def ask_over_http(port: int, repetitions: int, pause_seconds: float) -> dict[str, list[float]]:
    """Return the seconds of every answer, by question, in order of length."""
    chance = random.Random(1)
    seconds: dict[str, list[float]] = {question.name: [] for question in ASKED}
    for repetition in range(repetitions + 1):
        for question in ASKED:
            time.sleep(chance.uniform(0, pause_seconds))
            began = time.perf_counter()
            _get(port, question.path)
            if repetition:
                seconds[question.name].append(time.perf_counter() - began)
    return {name: sorted(each) for name, each in seconds.items()}


def ask_now_and_then(port: int, repetitions: int) -> list[float]:
    """Return the seconds of one report that finds what came in more than a second, in order."""
    chance, seconds = random.Random(2), []
    for _ in range(repetitions):
        time.sleep(chance.uniform(1, 2))
        began = time.perf_counter()
        _get(port, QUESTIONS[0].path)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


def ask_about_past(port: int, name: str) -> dict[str, list[float]]:
    """Return the seconds of questions about a day, or a month, that ended a week ago; in order."""
    end = datetime.now(timezone.utc).date() - timedelta(days=7)
    times = {"start": str(end - timedelta(days=1 if name == "day" else 30)), "end": str(end)}
    seconds: dict[str, list[float]] = {}
    for question in PAST:
        separator = "" if question.endswith("?") else "&"
        for _ in range(PAST_REPETITIONS):
            began = time.perf_counter()
            _get(port, f"/api/tracking/{question}{separator}{urlencode(times)}")
            seconds.setdefault(question, []).append(time.perf_counter() - began)
    return {question: sorted(each) for question, each in seconds.items()}


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=gunicorn.PATIENCE_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {gunicorn.TOKEN}"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body!r}")


def serve(folder: Path, kind: bulk.Kind, options: argparse.Namespace) -> dict[str, Any]:
    """Serve the database in ``folder`` under load, and ask; check that no visit was lost."""
    processors = f"{options.server_cpu},{options.load_cpu}" if options.both else options.server_cpu
    environ = {"BENCH_SERVER_CPU": str(processors), "BENCH_TRACKED": "yes"}
    requests = bulk.requests(kind, REQUESTS, options.rows)
    with gunicorn.Server(folder, "gthread", environ) as server:
        with paced.load(server.port, requests, options.rate, options.load_cpu) as sent:
            seconds = ask_over_http(server.port, options.repetitions, PAUSE_SECONDS)
            seldom = ask_now_and_then(server.port, options.repetitions)
        recorded = server.recorded()
        idle = ask_over_http(server.port, IDLE_REPETITIONS, 0)
        past = {name: ask_about_past(server.port, name) for name in PAST_GOALS_MS}
    served = sum(json.loads(file.read_text())["served"] for file in folder.glob("worker-*.json"))
    latencies = sorted(sent[0].latencies)
    return {
        "seconds": seconds,
        "idle": idle,
        "past": past,
        "seldom": seldom,
        "rate": sent[0].rate,
        "errors": sent[0].errors,
        "load_p50_ms": quantile(latencies, 0.5) * 1000,
        "load_p99_ms": quantile(latencies, 0.99) * 1000,
        "recorded": recorded - options.rows,
        "served": served,
    }


def compare(database: Path, peer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Put every question to counters, plain SQL and DuckDB; return their times, and what differs."""
    times: dict[str, dict[str, float]] = {}
    differences: list[str] = []
    storage = open_storage(database)
    with contextlib.closing(storage), storage._file.read() as connection:
        if not read_state(connection).is_sound:
            differences.append("visits are not counted")
        now = time.time_ns() // 1000
        for question in QUESTIONS:
            slowly = partial(timed, options.slow_repetitions, question.ask)
            counters, ours = timed(COUNTER_REPETITIONS, question.ask, counted, connection, now)
            plain, found = slowly(raw, connection, now)
            times[question.name] = {"counters": counters, "plain": plain}
            if ours != found:
                differences.append(f"{question.name}: plain SQL")
            if peer is not None:
                times[question.name]["duckdb"], theirs = slowly(duck, peer, now)
                if as_rows(question, ours) != theirs:
                    differences.append(f"{question.name}: DuckDB")
        plain, _ = timed(COUNTER_REPETITIONS, raw.visits, connection, Selection(), 50, None)
        times[NEWEST.name] = {"plain": plain}
    return {"times": times, "differences": differences}


def timed(repetitions: int, ask: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Return the least of some times in seconds, and the answer."""
    seconds, answer = [], None
    for _ in range(repetitions):
        began = time.perf_counter()
        answer = ask(*given)
        seconds.append(time.perf_counter() - began)
    return min(seconds), answer


def as_rows(question: Question, answer: Any) -> Any:
    """Return a report as DuckDB has it."""
    if question.report == "summary":
        return astuple(answer)
    if question.report == "trends":
        return [(row.start, row.hits, row.unique_users, row.unique_endpoints) for row in answer]
    return [astuple(row) for row in answer]


def quantile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which ``part`` of them lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def report(run: dict[str, Any], rows: int) -> str:
    """Return the table; what misses its goal is bold."""
    heads = ["report", "p50 ms", "p95 ms", "goal ms", "idle p50", "counters alone"]
    lines = []
    for question in ASKED:
        seconds, goal = run["seconds"][question.name], question.goal_ms(rows)
        p50, p95 = (quantile(seconds, part) * 1000 for part in (0.5, 0.95))
        shown = f"{p95:.1f}" if p95 <= goal else f"**{p95:.1f}**"
        idle = quantile(run["idle"][question.name], 0.5)
        alone = [run["times"][question.name].get(name) for name in ("counters", "plain", "duckdb")]
        others = [_milliseconds(each) for each in (idle, *alone)]
        lines.append([question.name, f"{p50:.1f}", shown, f"{goal}", *others])
    return common.table([*heads, "plain SQL", "DuckDB"], lines)


def report_of_past(run: dict[str, Any]) -> str:
    """Return the table of what is asked about the past; what misses its goal is bold."""
    lines = []
    for question in PAST:
        line = [question]
        for name, goal in PAST_GOALS_MS.items():
            seconds = run["past"][name][question]
            p50, worst = quantile(seconds, 0.5) * 1000, seconds[-1] * 1000
            line += [f"{p50:.0f}", f"{worst:.0f}" if worst <= goal else f"**{worst:.0f}**"]
        lines.append(line)
    heads = [f"{name} {what} ms" for name in PAST_GOALS_MS for what in ("p50", "worst")]
    return common.table(["about the past", *heads], lines)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f}" if seconds < 1 else f"{seconds * 1000:.0f}"


def measure(database: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run it all on a copy of ``database``."""
    shutil.copy(database, scratch / "visits.db")
    os.sync()  # else the disk is busy with the copy for a minute
    before = os.getloadavg()[0]
    served = serve(scratch, bulk.KINDS[options.kind], options)
    common.pin({options.server_cpu})
    busy = {"load_average": [before, os.getloadavg()[0]], "calibration": common.calibrate()}
    peer = duck.copy(scratch / "visits.db", scratch / "visits.duckdb")
    if peer is None:
        print("**DuckDB is not installed, and left out: pip install duckdb numpy**", flush=True)
    return {**served, **busy, **compare(scratch / "visits.db", peer, options)}


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many visits there are")
    parser.add_argument("--kind", choices=bulk.KINDS, default="site")
    parser.add_argument("--rate", type=float, default=1000, help="visits a second that come")
    parser.add_argument("--repetitions", type=int, default=40, help="of each question over HTTP")
    parser.add_argument("--slow-repetitions", type=int, default=2, help="of plain SQL and DuckDB")
    parser.add_argument("--build", action="store_true", help="only make the database")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--both", action="store_true", help="let the server use both processors")
    parser.add_argument("--folder", type=Path, help="where databases are kept, on a local disk")
    parser.add_argument("--json", type=Path, help="write the run to this file")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    common.pin({options.load_cpu})
    print(f"{common.conditions()}; {options.rows} visits of the kind {options.kind}", flush=True)
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as name:
        scratch = Path(name)
        database = bulk.kept(options.folder or scratch, options.kind, options.rows)
        if options.build:
            return 0
        run = measure(database, scratch, options)
    common.write_json_lines(options.json, [run])
    return say(run, options)


def say(run: dict[str, Any], options: argparse.Namespace) -> int:
    """Print the results; return 1 if something was lost, or answers differ."""
    print(
        f"what is asked in process, and the server{' on both, else' if options.both else ''} on "
        f"processor {options.server_cpu}, load and client on {options.load_cpu}; calibration {run['calibration']:.2f} µs, load average "
        f"{' to '.join(f'{average:.1f}' for average in run['load_average'])}\n"
        f"{run['rate']:.0f} of {options.rate:.0f} visits/s arrived, answered in p50 "
        f"{run['load_p50_ms']:.1f}, p99 {run['load_p99_ms']:.1f} ms, {run['errors']} errors; "
        f"recorded {run['recorded']} of {run['served']}"
    )
    print("\n" + report(run, options.rows) + "\n")
    print(report_of_past(run) + "\n")
    p50, p95 = (quantile(run["seldom"], part) * 1000 for part in (0.5, 0.95))
    print(
        f"{QUESTIONS[0].name}, when nobody asks for 1 to 2 s before: p50 {p50:.1f}, p95 {p95:.1f} ms"
    )
    for difference in run["differences"]:
        print(f"**answers differ: {difference}**")
    if not run["differences"]:
        print("counters and the others answered alike")
    return 1 if run["differences"] or run["recorded"] != run["served"] else 0


if __name__ == "__main__":
    sys.exit(main())
