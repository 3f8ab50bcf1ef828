"""Commands that run until they are stopped: reports alone, and ingest beside an application."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from commands import Running, command, run
from counting import BEGIN, Counted, look, visit
from hosts import GOOD, OTHER, Host
from servers import TOKEN, Server, get, gunicorn, report
from waiting import wait_until

from wsgi_tracker import Visit
from wsgi_tracker.period import DAY

pytestmark = pytest.mark.once
APP = """
from wsgi_tracker import Tracker

def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

app = Tracker(hello, "visits.db")
leaves_it = Tracker(hello, "visits.db", ingest=False)
"""
endings = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])


def shop(folder: Path, application: str = "app", workers: int = 1) -> Server:
    (folder / "shop.py").write_text(APP)
    return gunicorn(
        f"shop:{application}",
        folder=folder,
        python_path=[folder],
        workers=workers,
    )


def stored(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM visits").fetchone()[0])


@endings
def test_serve_says_where_and_ends_when_it_is_told(signum: signal.Signals, db: Counted) -> None:
    db.ingest([visit(BEGIN)])
    db.storage.close()
    with Running("serve", "--port", "0", "-d", db.database) as serving:
        port = serving.port
        status, body = get(port, "/api/tracking/summary")
        code = serving.stop(signum)

        assert (status, json.loads(body)["total_hits"]) == (200, 1)
        assert (code, serving.errors) == (0, "")
    assert sorted(path.name for path in db.database.parent.iterdir()) == [
        "visits.db",
        "visits.db-spool",
    ]


QUESTIONS = """
stats?include=status summary trends?fill=true visits?limit=2 breakdown?by=method export
users/nobody nothing stats?limit=0 openapi.json
""".split()


def test_serve_answers_as_the_application_does(tmp_path: Path) -> None:
    with shop(tmp_path) as application:
        for _ in range(3):
            get(application.port, "/boxes")
        with Running(
            "serve", "--port", "0", "-d", tmp_path / "visits.db", "--token", TOKEN
        ) as serving:
            theirs, ours = (
                {
                    question: get(
                        port, f"/api/tracking/{question}", Authorization=f"Bearer {TOKEN}"
                    )
                    for question in QUESTIONS
                }
                for port in (application.port, serving.port)
            )

    assert ours == theirs
    assert [status for status, _ in ours.values()] == [200] * 6 + [404, 404, 400, 200]


def test_serve_is_fresh_while_an_application_writes(tmp_path: Path) -> None:
    with shop(tmp_path, workers=2) as application:
        get(application.port, "/boxes")  # a worker has made the database
        with Running(
            "serve", "--port", "0", "-d", tmp_path / "visits.db", "--token", TOKEN
        ) as serving:
            seen = []
            for _ in range(20):
                get(application.port, "/boxes")
                seen.append(report(serving.port, "summary")["total_hits"])

    assert seen == list(range(2, 22))


def test_serve_asks_for_the_token_it_was_given(
    db: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is the application's own, which may hold several."""
    monkeypatch.setenv("WSGI_TRACKER_TOKEN", "one, two")
    with Running("serve", "--port", "0", "-d", db.database) as serving:
        port = serving.port
        asked = {
            token: get(port, "/api/tracking/summary", Authorization=f"Bearer {token}")[0]
            for token in ("one", "two", "three")
        }

    assert asked == {"one": 200, "two": 200, "three": 401}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "127.0.0.1:8080"}, 200, id="address"),
        pytest.param({"Host": "localhost"}, 200, id="name"),
        pytest.param({"Host": "[::1]:8080"}, 200, id="IPv6"),
        pytest.param({"Host": "rebound.example"}, 403, id="a name that was resolved to here"),
        pytest.param({"Host": "localhost.rebound.example"}, 403, id="a name that begins so"),
        pytest.param({"Host": "localhost", "X-Forwarded-For": "192.0.2.1"}, 403, id="proxy"),
        pytest.param({"Host": "localhost", "Forwarded": "for=192.0.2.1"}, 403, id="RFC 7239"),
    ],
)
def test_serve_without_a_token_is_for_this_machine(
    headers: dict[str, str], status: int, db: Counted
) -> None:
    with Running("serve", "--port", "0", "-d", db.database) as serving:
        asked = get(serving.port, "/api/tracking/summary", **headers)

    assert asked[0] == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "shop.example"])  # noqa: S104
def test_serve_wants_a_token_where_others_can_ask(host: str, db: Counted) -> None:
    done = run("serve", "--host", host, "-d", db.database)

    assert f"others can reach {host}: give --token" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("token", ["", " , ", "a b€"])
def test_serve_takes_no_token_that_is_none(token: str, db: Counted) -> None:
    """An empty one, of a variable that was not set, let everybody ask."""
    done = run("serve", "--host", "0.0.0.0", "--token", token, "-d", db.database)  # noqa: S104

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_serve_listens_on_all_addresses_of_a_name(db: Counted) -> None:
    with Running("serve", "--host", "localhost", "--port", "0", "-d", db.database) as serving:
        status, _ = get(serving.port, "/api/tracking/summary", Host="localhost")

    assert status == 200


def test_serve_says_that_its_port_is_taken(db: Counted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("serve", "--port", str(port), "-d", db.database)

    assert f"127.0.0.1, port {port}: cannot listen there" in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_serve_says_where_reports_are(db: Counted) -> None:
    with Running("serve", "--port", "0", "-d", db.database) as serving:
        port = serving.port
        elsewhere = [get(port, path) for path in ("/", "/api/tracking2", "/api")]

    assert elsewhere == [(404, b"reports are at /api/tracking/\n")] * 3


@endings
def test_sidecar_has_visits_in_the_database_by_themselves(
    signum: signal.Signals, tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"
    with shop(tmp_path, "leaves_it", workers=2) as application:
        for _ in range(5):
            get(application.port, "/boxes")
        before = stored(database)
        with Running("ingest", "-d", database) as sidecar:
            assert sidecar.line() == f"visits go to {database}\n"
            wait_until(lambda: stored(database) == 5)
            for _ in range(5):
                get(application.port, "/boxes")
            wait_until(lambda: stored(database) == 10)
            code = sidecar.stop(signum)
            rest, errors = sidecar.rest(), sidecar.errors
        get(application.port, "/boxes")

        assert (before, stored(database)) == (0, 10)
        assert (code, rest, errors) == (0, ["stopped\n"], "")
        assert report(application.port, "summary")["total_hits"] == 11


def test_sidecar_may_be_there_before_the_application(tmp_path: Path) -> None:
    database = tmp_path / "visits.db"
    with Running("ingest", "-d", database) as sidecar:
        sidecar.line()
        with shop(tmp_path, "leaves_it") as application:
            get(application.port, "/boxes")
            wait_until(lambda: stored(database) == 1)


def test_two_sidecars_ingest_each_visit_once(tmp_path: Path) -> None:
    database = tmp_path / "visits.db"
    with (
        shop(tmp_path, "leaves_it", workers=2) as application,
        Running("ingest", "-d", database) as one,
        Running("ingest", "-d", database) as other,
    ):
        one.line(), other.line()
        for _ in range(50):
            get(application.port, "/boxes")
        wait_until(lambda: stored(database) >= 50)
        codes = [one.stop(signal.SIGTERM), other.stop(signal.SIGTERM)]
        hits = report(application.port, "summary")["total_hits"]

    assert (codes, hits, stored(database)) == ([0, 0], 50, 50)


@pytest.mark.parametrize("once", [True, False])
def test_sidecar_purges_what_is_too_old(once: bool, host: Host) -> None:
    host.storage.set_retention(30)
    now = time.time_ns() // 1000
    host.segment(GOOD + Visit(now - 29 * DAY, "b" * 32, "GET", "/kept").line())

    if once:
        command("ingest", "--once", "-d", host.database)
    else:
        with Running("ingest", "-d", host.database) as sidecar:
            sidecar.line()
            wait_until(lambda: host.counts() != {} and stored(host.database) == 1)

    assert [row.endpoint for row in look(host.storage).stats()] == ["/kept"]
    assert stored(host.database) == 1


def test_ingest_once_ends_when_nothing_waits(host: Host) -> None:
    host.segment(GOOD + OTHER)

    done = command("ingest", "--once", "-d", host.database)

    assert (done.exit_code, host.hits(), host.segments()) == (0, 2, [])


def test_sidecar_waits_for_who_writes(host: Host) -> None:
    host.segment(GOOD)
    with closing(sqlite3.connect(host.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Running("ingest", "-d", host.database) as sidecar:
            other.execute("ROLLBACK")
            wait_until(lambda: stored(host.database) == 1)
            code = sidecar.stop(signal.SIGTERM)

    assert code == 0
