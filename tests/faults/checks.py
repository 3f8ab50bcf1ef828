"""What must hold after any fault, and how to find, and kill, a worker or the process that ingests."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
from load import Answer, Connection, Load
from locks import ingesting
from servers import TOKEN, Server
from werkzeug.test import Client

from wsgi_tracker import Tracker, open_storage

PATIENCE_SECONDS = 30
QUEUED = "wsgi-tracker-queued"
# A thread of socketserver may read from a connection that the server's end has just closed, and the
# process may end before it has told all of that.
CLOSED_AT_THE_END = re.compile(
    r"-{40}\nException occurred during processing of request"
    r"((?:(?!-{40}).)*handle_one_request(?:(?!-{40}).)*Bad file descriptor\n-{40}\n"
    r"|(?:(?!-{40}|handle_one_request).)*\Z)",
    re.DOTALL,
)
needs_proc = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="finds processes through /proc"
)


def recorded(database: Path) -> tuple[Counter[int], dict[str, int]]:
    """Return how often each request is stored, the rest of the spool included, and the counts."""
    with Tracker(lambda *_: [], database, require_token=False) as tracker:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while QUEUED in Client(tracker).get("/api/tracking/summary").headers:
            assert time.monotonic() < deadline, "visits wait in the spool"
    with closing(open_storage(database)) as storage:
        assert storage.check() is None  # the counters are those of the visits
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = dict(connection.execute("SELECT name, value FROM counts"))
        paths = connection.execute("SELECT path FROM user_visits").fetchall()
    return Counter(int(path.rpartition("/")[2]) for (path,) in paths), counts


def stored(folder: Path, *, killed: bool = False) -> Counter[int]:
    """Return how often each request is stored, where nothing was dropped and no file is left.

    Only a process that was ``killed`` may leave half a line: the kernel cuts a write at a page's
    edge when SIGKILL comes meanwhile. Its request was not answered, and counts as torn; the half is
    kept with what was rejected.
    """
    counted, counts = recorded(folder / "visits.db")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := segments_left(folder, killed=killed):
        # A child that was killed with its server may hold its segment a moment longer.
        assert time.monotonic() < deadline, left
        counted, counts = recorded(folder / "visits.db")
    assert counts.keys() - ({"torn"} if killed else set()) == {"recorded"}, counts
    return counted


def segments_left(folder: Path, *, killed: bool) -> list[str]:
    names = [path.name for path in (folder / "visits.db-spool").glob("*.ndjson")]
    return [name for name in names if not (killed and name == "rejected.ndjson")]


def check(load: Load, folder: Path, *, killed: bool = False) -> None:
    counted = stored(folder, killed=killed)
    assert load.crossed == set(), "answered with another's answer"
    assert load.answered - counted.keys() == set(), "answered, and not counted"
    assert {number for number, times in counted.items() if times > 1} == set(), "counted twice"
    # Recorded, and killed before the last byte was sent: that is all there may be besides.
    assert counted.keys() - load.answered - load.unanswered == set(), "never sent, and counted"


def faults_in(log: str) -> str:
    """Return a log from the first sign of a fault on."""
    log = CLOSED_AT_THE_END.sub("", log)
    found = re.search("locked|Traceback", log)
    return log[found.start() :] if found else ""


def ask(port: int) -> Answer:
    """Ask for the summary on a new connection."""
    with Connection(port) as connection:
        return connection.get("/api/tracking/summary", [f"Authorization: Bearer {TOKEN}"])


def summary(port: int) -> tuple[int, int]:
    """Return the total, and the process that reported it."""
    answer = ask(port)
    assert QUEUED not in answer.headers
    return _total(answer)


def late_summary(port: int) -> tuple[int, int]:
    """Return the same as soon as nothing is queued: after a flood, a second may be too short."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while QUEUED in (answer := ask(port)).headers:
        assert time.monotonic() < deadline, "visits wait in the spool"
    return _total(answer)


def _total(answer: Answer) -> tuple[int, int]:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["total_hits"], int(answer.headers["x-worker"])


def kill_a_worker(server: Server, chance: random.Random) -> bool:
    """Kill one of the workers; False if there is none."""
    workers = server.workers()
    return bool(workers) and _kill(chance.choice(workers))


def kill_who_ingests(server: Server, folder: Path) -> bool:
    """Kill the worker that ingests at this moment; False if none does."""
    holder = ingesting(folder)
    return holder is not None and holder in server.workers() and _kill(holder)


def _kill(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
