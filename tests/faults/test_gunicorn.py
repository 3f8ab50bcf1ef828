"""gunicorn under load, whole and killed: what was answered is counted once, and at once."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from load import Connection, Load
from servers import TOKEN, Gunicorn, get, report
from werkzeug.test import Client

from wsgi_tracker import Tracker

PATIENCE_SECONDS = 30
WORKERS = 4
REQUESTS = 400
WORKER_CLASSES = {
    "sync": [],
    "gthread": ["--threads", "4"],
    "gevent": [],
}
MATRIX = [
    pytest.param(
        ["--worker-class", name, *options, *(["--preload"] if preload else [])],
        id=f"{name}{', preloaded' if preload else ''}",
    )
    for name, options in WORKER_CLASSES.items()
    for preload in (False, True)
]
needs_proc = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="finds processes through /proc"
)
Start = Callable[[list[str]], Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def make(options: list[str]) -> Gunicorn:
        return Gunicorn(
            "faultapp:tracked()",
            folder=tmp_path,
            # gunicorn's gevent workers do not hear a SIGTERM that comes while they start.
            options=["--workers", str(WORKERS), "--graceful-timeout", "3", *options],
            python_path=[Path(__file__).parent],
            # Development mode would only make the servers slower here.
            environ={"FAULTS_DATABASE": str(tmp_path / "visits.db"), "PYTHONDEVMODE": ""},
        )

    return make


def stored(folder: Path) -> Counter[int]:
    """Return how often each request's id is stored, after the rest of the spool was ingested."""
    database = folder / "visits.db"
    with Tracker(lambda *_: [], database, require_token=False) as tracker:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Wsgi-Tracker-Queued" in Client(tracker).get("/api/tracking/summary").headers:
            assert time.monotonic() < deadline, "visits wait in the spool"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert dict(connection.execute("SELECT name, value FROM counts")).keys() == {"recorded"}
        paths = connection.execute("SELECT path FROM user_visits").fetchall()
    assert [path.name for path in database.with_name("visits.db-spool").glob("*.ndjson")] == []
    return Counter(int(path.rpartition("/")[2]) for (path,) in paths)


def check(load: Load, folder: Path) -> None:
    counted = stored(folder)
    assert load.crossed == set(), "answered with another's answer"
    assert load.answered - counted.keys() == set(), "answered, and not counted"
    assert {number for number, times in counted.items() if times > 1} == set(), "counted twice"
    # Recorded, and killed before the last byte was sent: that is all there may be besides.
    assert counted.keys() - load.answered - load.unanswered == set(), "never sent, and counted"


def is_clean(log: str) -> bool:
    return "locked" not in log and "Traceback" not in log


def summary(port: int) -> tuple[int, int]:
    """Return the total on a new connection, and the process that reported it."""
    with Connection(port) as connection:
        answer = connection.get("/api/tracking/summary", [f"Authorization: Bearer {TOKEN}"])
    assert answer.status == 200, answer.body
    assert "wsgi-tracker-queued" not in answer.headers
    return json.loads(answer.body)["total_hits"], int(answer.headers["x-worker"])


@pytest.mark.parametrize("options", MATRIX)
def test_every_answered_request_is_reported_at_once(
    options: list[str], start: Start, tmp_path: Path
) -> None:
    with (
        start(options) as server,
        Load(lambda: server.port, clients=8, requests=REQUESTS) as load,
    ):
        while load.count < REQUESTS - 50:
            load.wait_for(25)
            answered = load.count
            reported = summary(server.port)[0]
            assert answered <= reported <= REQUESTS
        load.finish()
        totals = [summary(server.port)[0] for _ in range(2 * WORKERS)]

    assert totals == [REQUESTS] * len(totals)
    assert load.answered == set(range(REQUESTS))
    assert is_clean(server.log)
    assert stored(tmp_path) == Counter(range(REQUESTS))


def ingesting(folder: Path) -> int | None:
    """Return the process that holds the ingest lock at this moment, if one does."""
    lock = folder / "visits.db-spool" / "ingest.lock"
    if not lock.exists():
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "POSIX" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None


def pause(pid: int, folder: Path) -> None:
    """Stop a process while it does not ingest; the others could not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        os.kill(pid, signal.SIGSTOP)
        while not _is_stopped(pid):
            assert time.monotonic() < deadline, "it does not stop"
        if ingesting(folder) != pid:
            return
        os.kill(pid, signal.SIGCONT)
    raise TimeoutError("it never stops ingesting")


def _is_stopped(pid: int) -> bool:
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


@needs_proc
@pytest.mark.parametrize("options", MATRIX)
def test_every_worker_reports_what_the_others_have_answered(
    options: list[str], start: Start, tmp_path: Path
) -> None:
    paused: list[int] = []
    with start(options) as server:
        try:
            while len(paused) < WORKERS:
                with Connection(server.port) as connection:
                    connection.get(f"/t/{len(paused)}", ["Connection: close"])
                total, worker = summary(server.port)
                assert total == len(paused) + 1
                # Who is stopped accepts nothing: the next request goes to another.
                pause(worker, tmp_path)
                paused.append(worker)
            workers = server.workers()
        finally:
            for worker in paused:
                os.kill(worker, signal.SIGCONT)

    assert sorted(paused) == sorted(workers)
    assert is_clean(server.log)
    assert stored(tmp_path) == Counter(range(WORKERS))


def kill_a_worker(server: Gunicorn, chance: random.Random) -> bool:
    workers = server.workers()
    if not workers:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(workers), signal.SIGKILL)
        return True
    return False


def kill_who_ingests(server: Gunicorn, folder: Path) -> bool:
    holder = ingesting(folder)
    if holder not in server.workers():
        return False
    os.kill(holder, signal.SIGKILL)
    return True


@needs_proc
@pytest.mark.parametrize("options", MATRIX)
def test_killed_workers_lose_nothing_and_count_nothing_twice(
    options: list[str], start: Start, tmp_path: Path
) -> None:
    chance = random.Random()
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    with start(options) as server, Load(lambda: server.port, clients=6) as load:
        for _ in range(3):
            load.wait_for(chance.randrange(5, 60))
            while not kill_a_worker(server, chance):
                assert time.monotonic() < deadline, "no worker starts"
            load.wait_for(chance.randrange(5, 60))
            while not kill_who_ingests(server, tmp_path):
                assert time.monotonic() < deadline, "nobody ingests"
                load.wait_for(1)
        load.wait_for(50)
        load.stop()
        reported = report(server.port, "summary")["total_hits"]

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert is_clean(server.log)
    check(load, tmp_path)


@pytest.mark.parametrize("options", MATRIX[1::2])
def test_killed_group_loses_nothing_and_counts_nothing_twice(
    options: list[str], start: Start, tmp_path: Path
) -> None:
    server = start(options)
    server.start()
    try:
        with Load(lambda: server.port, clients=6) as load:
            for _ in range(2):
                load.wait_for(100)
                server.kill()
                server.start()
            load.wait_for(50)
            load.stop()
            reported = report(server.port, "summary")["total_hits"]
    finally:
        server.kill()

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert is_clean(server.log)
    check(load, tmp_path)


@pytest.mark.parametrize("worker_class", WORKER_CLASSES)
@pytest.mark.parametrize(
    ("options", "signum"),
    [
        pytest.param(["--max-requests", "25", "--max-requests-jitter", "10"], None, id="worn out"),
        pytest.param([], signal.SIGHUP, id="reload"),
        pytest.param(["--preload"], signal.SIGHUP, id="reload, preloaded"),
    ],
)
def test_workers_that_come_and_go_lose_nothing(
    options: list[str],
    signum: signal.Signals | None,
    worker_class: str,
    start: Start,
    tmp_path: Path,
) -> None:
    options = ["--worker-class", worker_class, *WORKER_CLASSES[worker_class], *options]
    with start(options) as server, Load(lambda: server.port, clients=4) as load:
        for _ in range(3):
            load.wait_for(60)
            if signum is not None:
                server.process.send_signal(signum)
            load.wait_for_workers(1)
        load.stop()
        reported = report(server.port, "summary")["total_hits"]

    assert reported == len(load.answered)
    assert is_clean(server.log)
    check(load, tmp_path)


def test_any_application_is_wrapped_on_the_command_line(tmp_path: Path) -> None:
    with Gunicorn(
        "wsgi_tracker:wrap('faultapp:answer')",
        folder=tmp_path,
        python_path=[Path(__file__).parent],
        environ={"PYTHONDEVMODE": "1"},
    ) as server:
        for number in range(3):
            assert get(server.port, f"/{'tcs'[number]}/{number}")[0] == 200
        reported = report(server.port, "summary")["total_hits"]

    assert reported == 3
    # A socket is gunicorn's own, at its exit.
    assert re.findall(r"unclosed (?!<socket)\S+", server.log) == []
    assert is_clean(server.log)
    assert stored(tmp_path) == Counter(range(3))
