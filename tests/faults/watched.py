"""The tracked application under running, and what is true of it after any outage."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from load import Connection, Load
from servers import TOKEN, Server, gunicorn
from werkzeug.test import Client

from wsgi_tracker import Tracker

PATIENCE_SECONDS = 60
SLOW_SECONDS = 5  # what a busy machine may take; an application that waited for us would take 30
WORKERS = 2
WAITS = "visits wait in the spool: "


@contextmanager
def server(database: Path, spool_bytes: int = 64 << 20) -> Iterator[Server]:
    """Serve the application that is tracked in ``database``."""
    with gunicorn(
        "faultapp:tracked()",
        folder=database.parent,
        options=["--workers", str(WORKERS), "--worker-class", "gthread", "--threads", "4"],
        python_path=[Path(__file__).parent],
        environ={
            "FAULTS_DATABASE": str(database),
            "FAULTS_SPOOL_BYTES": str(spool_bytes),
            "PYTHONDEVMODE": "",
        },
    ) as running:
        yield running


def ask(port: int) -> tuple[int, str]:
    """Ask for the summary; return status and body."""
    with Connection(port) as connection:
        answer = connection.get("/api/tracking/summary", [f"Authorization: Bearer {TOKEN}"])
    return answer.status, answer.body.decode()


def wait_until(load: Load, reached: Callable[[], object], what: str) -> None:
    """Let requests go on until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, what
        load.wait_for(1)


def recorded(database: Path) -> tuple[Counter[int], dict[str, int]]:
    """Return how often each request is stored, the rest of the spool included, and the counts."""
    with Tracker(lambda *_: [], database, require_token=False) as tracker:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Wsgi-Tracker-Queued" in Client(tracker).get("/api/tracking/summary").headers:
            assert time.monotonic() < deadline, "visits wait in the spool"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = dict(connection.execute("SELECT name, value FROM counts"))
        paths = connection.execute("SELECT path FROM user_visits").fetchall()
    return Counter(int(path.rpartition("/")[2]) for (path,) in paths), counts


def check_answers(load: Load, running: Server) -> None:
    """Clients have noticed nothing, and no process has died."""
    assert load.crossed == set()
    assert load.unanswered == set()
    assert load.slowest_seconds < SLOW_SECONDS
    assert len(load.workers) <= WORKERS
    assert not re.search("Traceback|SIG(?!TERM)|exited", running.log), running.log


def messages(running: Server) -> tuple[list[str], list[str]]:
    """Return what was logged of outages: their beginnings, and their ends."""
    lines = [line for line in running.log.splitlines() if line.startswith(WAITS)]
    ends = [line for line in lines if line.endswith("works again")]
    return [line for line in lines if line not in ends], ends


def files_of(database: Path) -> list[Path]:
    """Return the database, its log and its shared memory."""
    return [database, *database.parent.glob(database.name + "-???")]


@contextmanager
def paused(running: Server) -> Iterator[None]:
    """Stop every process: SQLite has no word for files that change while it works."""
    os.killpg(running.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(running.process.pid, signal.SIGCONT)
