"""Every WSGI server but gunicorn: what was answered is reported at once, and counted once."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import startups
from checks import check, faults_in, late_summary, stored, summary
from load import Connection, Load
from servers import Server
from waiting import wait_until

REQUESTS = 150
Start = Callable[[Path], Server]
UWSGI = [
    pytest.param(startups.uwsgi(), id="uwsgi"),
    pytest.param(startups.uwsgi("--lazy-apps"), id="uwsgi, lazy"),
    pytest.param(startups.uwsgi("--enable-threads"), id="uwsgi, threads enabled"),
    pytest.param(startups.uwsgi("--threads", "2", "--lazy-apps"), id="uwsgi, threads, lazy"),
]
MOD_WSGI = [
    pytest.param(startups.mod_wsgi_daemons, id="mod_wsgi, daemons"),
    pytest.param(startups.mod_wsgi_embedded, id="mod_wsgi, embedded"),
]
DEVELOPMENT = [
    pytest.param(startups.wsgiref, id="wsgiref"),
    pytest.param(startups.werkzeug("threaded=True"), id="werkzeug, threaded"),
    pytest.param(startups.werkzeug("processes=2"), id="werkzeug, a fork per request"),
]
ALL = [pytest.param(startups.waitress, id="waitress"), *UWSGI, *MOD_WSGI, *DEVELOPMENT]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that other users can reach, as pytest's own is not."""
    with startups.reachable_folder() as path:
        yield path


@pytest.mark.parametrize("start", ALL)
def test_every_answered_request_is_reported_at_once(start: Start, folder: Path) -> None:
    server = start(folder)
    server.start()
    try:
        with few_requests(server) as load:
            while load.count < REQUESTS - 50:
                load.wait_for(25)
                answered = load.count
                assert answered <= summary(server.port)[0] <= REQUESTS
            load.finish()
        totals = [summary(server.port)[0] for _ in range(6)]
    finally:
        status = server.stop()

    assert totals == [REQUESTS] * len(totals)
    assert load.answered == set(range(REQUESTS))
    assert faults_in(server.log) == ""
    # Development servers have no handler of SIGTERM.
    assert status in (0, -signal.SIGTERM)
    assert stored(folder) == Counter(range(REQUESTS))


def few_requests(server: Server) -> Load:
    return Load(lambda: server.port, clients=4, requests=REQUESTS, requests_per_connection=1)


def rests(folder: Path) -> bool:
    """Say whether every visit is recorded, and whoever recorded it has done with its request."""
    segments = (folder / "visits.db-spool").glob("*.ndjson")
    lines = [line for segment in segments for line in segment.read_bytes().splitlines()]
    if sum(b'"path"' in line for line in lines) < REQUESTS:
        return False
    # uWSGI runs nothing at the exit of a worker that is amid a request.
    return not (folder / startups.UWSGI_STATS).exists() or startups.uwsgi_rests(folder)


@pytest.mark.parametrize(
    ("start", "signum"),
    [
        pytest.param(startups.waitress, signal.SIGINT, id="waitress"),
        pytest.param(startups.wsgiref, signal.SIGINT, id="wsgiref"),
        pytest.param(startups.werkzeug("threaded=True"), signal.SIGINT, id="werkzeug"),
        pytest.param(startups.uwsgi(), signal.SIGTERM, id="uwsgi"),
        pytest.param(startups.uwsgi("--enable-threads"), signal.SIGTERM, id="uwsgi, threads"),
    ],
)
def test_server_that_ends_in_peace_leaves_no_visit_in_the_spool(
    start: Start, signum: signal.Signals, folder: Path
) -> None:
    server = start(folder)
    server.start()
    try:
        with few_requests(server) as load:
            load.finish()
        wait_until(lambda: rests(folder))
    finally:
        status = server.stop(signum)

    with closing(sqlite3.connect(folder / "visits.db")) as connection:
        hits = connection.execute("SELECT count(*) FROM visits").fetchone()
    assert hits == (REQUESTS,)
    assert status == 0
    assert faults_in(server.log) == ""


@pytest.mark.parametrize(
    ("configuration", "threads"),
    [
        pytest.param("", 1, id="nothing said"),
        pytest.param("enable-threads = false", 1, id="disabled"),
        pytest.param("enable-threads = true", 2, id="enabled"),
        pytest.param("threads = 2", 3, id="threads"),
    ],
)
def test_uwsgi_gets_an_ingest_thread_only_if_it_runs_threads(
    configuration: str, threads: int, folder: Path
) -> None:
    """An idle process kept the ingest lock: its thread had to wait for the next request."""
    (folder / "uwsgi.ini").write_text(f"[uwsgi]\n{configuration}\n")

    with startups.uwsgi("--ini", "uwsgi.ini")(folder) as server:
        with Connection(server.port) as connection:
            worker = connection.get("/t/1").headers["x-worker"]
        running = len(list(Path(f"/proc/{worker}/task").iterdir()))
        reported = summary(server.port)[0]

    assert running == threads
    assert reported == 1
    assert ("set enable-threads = true" in server.log) == (threads == 1)


# Only a body of known length tells a client whether it came whole: uWSGI ends any other by closing
# the connection, as the end of a worker does, and Apache ends the chunks of a daemon that was killed as
# if all were sent.
@pytest.mark.parametrize("start", [*UWSGI, *MOD_WSGI])
def test_killed_workers_lose_nothing_and_count_nothing_twice(start: Start, folder: Path) -> None:
    with (
        start(folder) as server,
        Load(lambda: server.port, clients=4, kinds="tc", requests_per_connection=1) as load,
    ):
        for _ in range(2):
            load.wait_for(100)
            with suppress(ProcessLookupError):  # Apache has ended it by itself
                os.kill(late_summary(server.port)[1], signal.SIGKILL)
            load.wait_for_workers(1)
        load.wait_for(20)
        load.stop()
        reported = late_summary(server.port)[0]

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert faults_in(server.log) == ""
    check(load, folder, killed=True)
