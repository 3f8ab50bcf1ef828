"""One database, many who use it: trackers of a process, processes of a host, clocks that jump."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webtest

from wsgi_tracker import Tracker

PATIENCE_SECONDS = 60
SECOND = 10**9
NOON = 1_755_086_400 * SECOND  # 2025-08-13T12:00:00Z
HOUR = 3600 * SECOND
DAY = 24 * HOUR


def hits(client: webtest.TestApp, period: str = "all") -> int:
    answer = client.get(f"/api/tracking/summary?period={period}")
    assert "Wsgi-Tracker-Queued" not in answer.headers
    return int(answer.json["total_hits"])


@pytest.mark.parametrize("ingest", [True, False])
def test_two_applications_of_a_process_report_each_others_visits(
    ingest: bool, tracked: Callable[..., Tracker]
) -> None:
    clients = [webtest.TestApp(tracked(ingest=ingest)) for _ in range(2)]
    totals = []

    for number in range(10):
        clients[number % 2].get(f"/{number % 2}")
        totals.append([hits(client) for client in clients])

    assert totals == [[number, number] for number in range(1, 11)]
    assert len(clients[0].get("/api/tracking/stats").json["stats"]) == 2


def test_threads_of_two_applications_count_everything_once(
    tracked: Callable[..., Tracker],
) -> None:
    clients = [webtest.TestApp(tracked(ingest=True)) for _ in range(2)]
    barrier = threading.Barrier(6)

    def ask(client: webtest.TestApp) -> None:
        barrier.wait(PATIENCE_SECONDS)
        for number in range(50):
            client.get("/")
            if number % 25 == 0:
                hits(client)

    threads = [threading.Thread(target=ask, args=[clients[n % 2]]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    clients[0].app.close()  # which the other does not notice

    assert [hits(clients[1]), hits(clients[0])] == [300, 300]


MANY = """
import sys
from werkzeug.test import Client
from wsgi_tracker import Tracker

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

with Tracker(app, sys.argv[1], require_token=False) as tracker:
    client = Client(tracker)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(50):
        client.get(f"/{sys.argv[2]}", environ_overrides={"REMOTE_ADDR": "8.8.8.8"})
    report = client.get("/api/tracking/summary")
    assert "Wsgi-Tracker-Queued" in report.headers or report.json["total_hits"] >= 50
"""


@pytest.mark.parametrize("processes", [2, 16])
def test_processes_share_a_database(
    processes: int, tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, str(tmp_path / "visits.db"), str(number % 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]

    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    logs = [child.communicate(timeout=PATIENCE_SECONDS)[1] for child in children]

    assert [child.returncode for child in children] == [0] * processes, logs
    assert "".join(logs) == ""
    client = webtest.TestApp(tracked())
    rows = client.get("/api/tracking/stats").json["stats"]
    assert {row["endpoint"]: row["hit_count"] for row in rows} == {
        "/0": 25 * processes,
        "/1": 25 * processes,
    }
    assert list((tmp_path / "visits.db-spool").glob("*.ndjson")) == []


# --- clocks --------------------------------------------------------------------------------------


class Clock:
    """The wall clock of a process; whoever sets it sets it for everything."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("wsgi_tracker.observation.time_ns", clock)
    monkeypatch.setattr("wsgi_tracker.hostlock.time.time", lambda: clock.now / SECOND)
    return clock


def client_of(tracker: Tracker, clock: Clock) -> webtest.TestApp:
    tracker._api._fresh._clock = clock
    return webtest.TestApp(tracker)


def test_clock_that_jumps_loses_no_visit(tracked: Callable[..., Tracker], clock: Clock) -> None:
    client = client_of(tracked(), clock)
    jumps = [0, HOUR, -HOUR, -2 * DAY, 3 * DAY, -400 * DAY, 400 * DAY, -SECOND]
    seen = []

    for jump in jumps:
        clock.now += jump
        client.get("/")
        seen.append(clock.now)
        report = client.get("/api/tracking/summary?period=day").json
        # A period has no end: what lies in the future counts, too.
        assert report["total_hits"] == sum(when >= clock.now - DAY for when in seen)
        assert report["tracking_active"] is True

    trends: list[dict[str, Any]] = client.get("/api/tracking/trends?period=1y").json["trends"]
    assert hits(client) == len(jumps)
    assert sum(row["hits"] for row in trends) == sum(w >= clock.now - 365 * DAY for w in seen)
    buckets = [row["time_bucket"] for row in trends]
    assert buckets == sorted(set(buckets), reverse=True)


def test_clock_that_is_set_back_keeps_nobody_from_ingesting(
    tracked: Callable[..., Tracker], clock: Clock
) -> None:
    """The rest that the ingester asked for ends in a future that is far away now."""
    tracker = tracked()
    client, lock = client_of(tracker, clock), tracker._backend.ingester._host_lock
    client.get("/")
    hits(client)
    lock.rest(1.0)
    resting = lock.rest_seconds(1.0)
    clock.now -= DAY
    client.get("/")

    assert resting == pytest.approx(1.0, abs=0.01)
    assert lock.rest_seconds(1.0) == 0.0
    assert hits(client) == 2


def test_visit_of_the_future_that_waits_is_no_sign_of_trouble(
    tracked: Callable[..., Tracker], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.fresh.CATCH_UP_SECONDS", 0.01)
    tracker = tracked()
    client = client_of(tracker, clock)
    clock.now += DAY
    client.get("/")
    clock.now -= DAY

    with tracker._backend.ingester._host_lock.held():
        waiting = client.get("/api/tracking/summary")
        clock.now += DAY + 61 * SECOND
        stale = client.get("/api/tracking/summary")

    assert int(waiting.headers["Wsgi-Tracker-Queued"]) > 0
    assert [waiting.json["tracking_active"], stale.json["tracking_active"]] == [True, False]
    assert client.get("/api/tracking/summary").json["tracking_active"] is True
