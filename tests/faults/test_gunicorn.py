"""gunicorn under load, whole and killed: what was answered is counted once, and at once."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import startups
from checks import (
    PATIENCE_SECONDS,
    check,
    faults_in,
    kill_a_worker,
    kill_who_ingests,
    late_summary,
    needs_proc,
    stored,
    summary,
)
from load import Connection, Load
from locks import ingesting
from servers import Server, get, gunicorn, report
from startups import GUNICORN_WORKERS, WORKER_CLASSES

REQUESTS = 400
MATRIX = [
    pytest.param(
        ["--worker-class", name, *options, *(["--preload"] if preload else [])],
        id=f"{name}{', preloaded' if preload else ''}",
    )
    for name, options in WORKER_CLASSES.items()
    for preload in (False, True)
]
Start = Callable[[list[str]], Server]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return lambda options: startups.gunicorn(*options)(tmp_path)


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
        totals = [summary(server.port)[0] for _ in range(2 * GUNICORN_WORKERS)]

    assert totals == [REQUESTS] * len(totals)
    assert load.answered == set(range(REQUESTS))
    assert faults_in(server.log) == ""
    assert stored(tmp_path) == Counter(range(REQUESTS))


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
            while len(paused) < GUNICORN_WORKERS:
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
    assert faults_in(server.log) == ""
    assert stored(tmp_path) == Counter(range(GUNICORN_WORKERS))


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
        reported, _ = late_summary(server.port)

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert faults_in(server.log) == ""
    check(load, tmp_path, killed=True)


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
            reported, _ = late_summary(server.port)
    finally:
        server.kill()

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert faults_in(server.log) == ""
    check(load, tmp_path, killed=True)


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
        reported, _ = late_summary(server.port)

    assert reported == len(load.answered)
    assert faults_in(server.log) == ""
    check(load, tmp_path)


def test_any_application_is_wrapped_on_the_command_line(tmp_path: Path) -> None:
    with gunicorn(
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
    assert faults_in(server.log) == ""
    assert stored(tmp_path) == Counter(range(3))
