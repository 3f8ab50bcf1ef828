"""Who counts as one visitor, by which secret, and what nobody can find out afterwards."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import webtest
from calls import environ, generate, lines, only_visit, serve
from commands import command
from waiting import wait_until

from wsgi_tracker import Tracker
from wsgi_tracker.errors import ConfigurationError, StorageError
from wsgi_tracker.secret import DailySecret

Tracked = Callable[..., Tracker]
DAY = (date(2025, 8, 13) - date(1970, 1, 1)).days
DAY_NS = 86400 * 10**9
GIVEN = "a secret that many databases share"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [DAY * DAY_NS + 1]
    for module in ("observation", "recorder"):
        monkeypatch.setattr(f"wsgi_tracker.{module}.time_ns", lambda: now[0])
    return now


def hashes(tmp_path: Path) -> list[str]:
    return [line["user_hash"] for line in lines(tmp_path)]


# --- who it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "more"),
    [
        pytest.param("REMOTE_USER", {"REMOTE_USER": "olga"}, id="key"),
        pytest.param(
            lambda environ: environ["session"]["id"], {"session": {"id": 7}}, id="callable"
        ),
    ],
)
def test_named_user_is_one_visitor(user: Any, more: Any, tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(user=user)
    for address in ("192.0.2.1", "192.0.2.2"):
        serve(tracker, environ(REMOTE_ADDR=address, HTTP_USER_AGENT=address, **more))

    assert len(set(hashes(tmp_path))) == 1
    assert "olga" not in str(lines(tmp_path))  # and no hash by chance, as "ada"


def test_user_is_asked_for_when_the_application_knows(tracked: Tracked, tmp_path: Path) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["REMOTE_USER"] = environ["PATH_INFO"]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ab"]

    tracker = tracked(app, user="REMOTE_USER")
    for path in ("/ada", "/bob", "/ada"):
        serve(tracker, environ(path))

    first, second, third = hashes(tmp_path)
    assert first == third != second


def test_users_whose_long_names_begin_alike_are_two(tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(user="REMOTE_USER")
    for end in ("ada", "bob"):
        serve(tracker, environ(REMOTE_USER="x" * 2000 + end))

    assert len(set(hashes(tmp_path))) == 2


@pytest.mark.parametrize("user", [None, ""])
def test_who_is_not_named_is_told_apart_by_address_and_agent(
    user: Any, tracked: Tracked, tmp_path: Path
) -> None:
    for tracker in (tracked(), tracked(user=lambda environ: user)):
        serve(tracker, environ(REMOTE_ADDR="192.0.2.1"))

    assert len(set(hashes(tmp_path))) == 1


def test_callable_that_fails_costs_no_visit(
    tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracked(user=lambda environ: environ["no such key"])
    serve(tracker, environ(REMOTE_ADDR="192.0.2.1"))
    serve(tracked(), environ(REMOTE_ADDR="192.0.2.1"))

    assert len(set(hashes(tmp_path))) == 1
    assert "no such key" in caplog.text


# --- by which secret -----------------------------------------------------------------------------


def test_daily_identity_is_another_every_day(
    tracked: Tracked, tmp_path: Path, clock: list[int]
) -> None:
    tracker = tracked(identity="daily")
    for _ in range(2):
        serve(tracker, environ())
        serve(tracked(identity="daily"), environ())  # another process
        clock[0] += DAY_NS

    first, again, second, too = hashes(tmp_path)
    assert first == again != second == too


def test_secret_of_a_day_is_gone_with_the_next(tmp_path: Path) -> None:
    secret = DailySecret(tmp_path).of(DAY)
    assert [path.name for path in tmp_path.iterdir()] == ["secret-2025-08-13"]
    assert (tmp_path / "secret-2025-08-13").stat().st_mode & 0o777 == 0o600

    kept = os.open(tmp_path / "secret-2025-08-13", os.O_RDONLY)
    other = DailySecret(tmp_path).of(DAY + 1)

    assert other != secret
    assert [path.name for path in tmp_path.iterdir()] == ["secret-2025-08-14"]
    assert os.read(kept, 100) == bytes(32)  # overwritten, not only unlinked
    os.close(kept)


def test_process_that_is_behind_at_midnight_takes_the_secret_that_is_left(tmp_path: Path) -> None:
    secret = DailySecret(tmp_path).of(DAY + 1)

    assert DailySecret(tmp_path).of(DAY) == secret


def test_process_that_is_behind_at_midnight_leaves_the_next_secret_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deleted the one that another had made meanwhile: visitors of that day counted twice."""
    link, found = os.link, []

    def link_late(*paths: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        found.append(DailySecret(tmp_path).of(DAY + 1))
        link(*paths)

    monkeypatch.setattr(os, "link", link_late)
    DailySecret(tmp_path).of(DAY)

    assert DailySecret(tmp_path).of(DAY + 1) == found[0]
    assert [path.name for path in tmp_path.iterdir()] == ["secret-2025-08-14"]


@pytest.mark.parametrize("damage", [b"", b"a" * 31, bytes(32)])
def test_secret_of_the_day_that_is_damaged_is_said(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret-2025-08-13").write_bytes(damage)

    with pytest.raises(StorageError, match="secret-2025-08-13 is damaged, delete it"):
        DailySecret(tmp_path).of(DAY)


def test_secret_that_is_made_and_deleted_at_midnight_is_that_of_the_next_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_early(*paths: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        link(*paths)
        DailySecret(tmp_path).of(DAY + 1)

    monkeypatch.setattr(os, "link", link_early)

    assert DailySecret(tmp_path).of(DAY) == DailySecret(tmp_path).of(DAY + 1)


def test_secret_that_is_being_overwritten_is_none(tmp_path: Path) -> None:
    """Its zeros were taken for a secret that everybody knows."""
    secret = DailySecret(tmp_path).of(DAY + 1)
    (tmp_path / "secret-2025-08-13").write_bytes(bytes(32))

    assert DailySecret(tmp_path).of(DAY) == secret


def test_secret_that_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    DailySecret(tmp_path).of(DAY + 1)
    (tmp_path / "secret-2025-08-13").write_bytes(b"a" * 32)

    DailySecret(tmp_path).of(DAY + 1)

    assert [path.name for path in tmp_path.iterdir()] == ["secret-2025-08-14"]


def test_answer_that_takes_days_spoils_no_secret(
    tracked: Tracked, tmp_path: Path, clock: list[int]
) -> None:
    """It made one of the day when it began, and deleted that of the day."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return generate(b"ab") if environ["PATH_INFO"] == "/stream" else [b"ab"]

    begun = tracked(app, identity="daily")(environ("/stream"), lambda *_: lambda data: None)
    clock[0] += 2 * DAY_NS
    serve(tracked(app, identity="daily"), environ())
    assert list(begun) == [b"ab"]
    serve(tracked(app, identity="daily"), environ())

    assert len(hashes(tmp_path)) == 3
    assert len(set(hashes(tmp_path))) == 1


def test_clock_that_ran_ahead_spoils_no_later_day(tmp_path: Path) -> None:
    """Its secret would have lasted until the day that it showed."""
    ahead = DailySecret(tmp_path).of(DAY + 900)

    assert DailySecret(tmp_path).of(DAY) != ahead
    assert [path.name for path in tmp_path.iterdir()] == ["secret-2025-08-13"]


def test_processes_that_meet_midnight_together_agree(tmp_path: Path) -> None:
    for day in range(DAY, DAY + 20):
        barrier, found = threading.Barrier(8), []

        def ask(day: int = day, barrier: Any = barrier, found: Any = found) -> None:
            barrier.wait(30)
            found.append(DailySecret(tmp_path).of(day))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert len(found) == 8
        assert len(set(found)) == 1


def test_daily_secret_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="secret of the day cannot be kept"):
        DailySecret(tmp_path / "missing").of(DAY)


@pytest.mark.parametrize("identity", ["permanent", "daily"])
def test_given_secret_counts_alike_in_every_database(identity: str, tmp_path: Path) -> None:
    found = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        for secret in (GIVEN, GIVEN.encode()):
            with Tracker(
                lambda environ, start_response: start_response("200 OK", []) and [],
                folder / "visits.db",
                identity=identity,
                secret=secret,
            ) as tracker:
                serve(tracker, environ())
                found |= set(hashes(folder))

    assert len(found) == 1
    assert GIVEN.encode() not in b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


# --- the same in every application ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"identity": "daily"}, {}, "has identity='daily', given 'permanent'"),
        ({}, {"identity": "daily"}, "has identity='permanent', given 'daily'"),
        ({}, {"secret": GIVEN}, "secret is not that"),
        ({"secret": GIVEN}, {}, "secret is not that"),
        ({"secret": GIVEN}, {"secret": GIVEN + "s"}, "secret is not that"),
        (
            {"timezone": "UTC"},
            {"timezone": "Asia/Tokyo"},
            "configure -d DATABASE --timezone Asia/Tokyo",
        ),
    ],
)
def test_application_that_would_count_otherwise_is_refused(
    first: Any, second: Any, message: str, tracked: Tracked
) -> None:
    tracked(**first)

    with pytest.raises(ConfigurationError, match=message):
        tracked(**second)
    tracked(**first)


def test_command_changes_what_all_agree_on(tracked: Tracked, tmp_path: Path) -> None:
    tracked(identity="daily", secret=GIVEN).close()
    configure = ("configure", "--database", tmp_path / "visits.db")
    told = ("--identity", "permanent", "--forget-secret", "--timezone", "Asia/Kathmandu")

    assert "nothing to change" in command(*configure).stderr
    assert "another does not start" in command(*configure, *told).stdout
    refused = command(*configure, "--timezone", "Mars/Olympus")
    assert "timezone is a name such as" in refused.stderr
    assert refused.exit_code == 2

    tracked(secret=GIVEN + "s", timezone="Asia/Kathmandu")


def test_command_waits_for_who_writes(tracked: Tracked, tmp_path: Path) -> None:
    tracked().close()
    with closing(
        sqlite3.connect(tmp_path / "visits.db", isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(1.0, other.execute, ["ROLLBACK"])
        end.start()

        done = command("configure", "-d", tmp_path / "visits.db", "--timezone", "Asia/Tokyo")
        end.join()

    assert done.exit_code == 0


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Keep all others from a database, readers too."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_database_that_is_locked_is_not_compared(
    tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracked(token="right").close()
    with locked(tmp_path / "visits.db"):
        tracked(token="right", identity="daily")

    assert len(caplog.messages) == 1
    assert "locked" in caplog.text


def test_what_was_not_compared_is_when_the_first_visits_are_stored(
    tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracked(token="right").close()
    with locked(tmp_path / "visits.db"):
        tracker = tracked(token="right", identity="daily", ingest=True)
    serve(tracker, environ("/"))
    wait_until(lambda: "count as those of others" in caplog.text)

    told = [line for line in caplog.messages if "count as those of others" in line]
    assert len(told) == 1
    assert "the database has identity='permanent', given 'daily'" in told[0]


@pytest.mark.parametrize(
    "options",
    [{"identity": "weekly"}, {"secret": "short"}, {"secret": 7}, {"user": ""}, {"user": 7}],
)
def test_what_cannot_tell_visitors_apart_is_refused(options: Any, tracked: Tracked) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        tracked(**options)


# --- in reports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("report", ["stats", "summary", "trends"])
def test_report_says_when_unique_users_are_those_of_days(report: str, tracked: Tracked) -> None:
    client = webtest.TestApp(tracked(identity="daily", require_token=False))
    client.get("/")

    assert client.get(f"/api/tracking/{report}").json["unique_users_basis"] == "daily"


def test_hit_of_somebody_unknown_counts_nobody(tracked: Tracked, tmp_path: Path) -> None:
    client = webtest.TestApp(tracked(honor_privacy_signals=True, require_token=False))
    client.get("/", headers={"Sec-GPC": "1", "User-Agent": "agent"})
    visit = only_visit(tmp_path)
    client.get("/", headers={"User-Agent": "agent"})
    summary = client.get("/api/tracking/summary").json
    stats = client.get("/api/tracking/stats").json["stats"]
    trends = client.get("/api/tracking/trends").json["trends"]
    visits = client.get("/api/tracking/visits").json["visits"]

    assert (visit["user_hash"], visit["ip_address"], visit["user_agent"]) == (None, None, "agent")
    assert (summary["total_hits"], summary["total_unique_users"]) == (2, 1)
    assert (stats[0]["hit_count"], stats[0]["unique_users"]) == (2, 1)
    assert (trends[0]["hits"], trends[0]["unique_users"]) == (2, 1)
    assert visits[1]["user_hash"] is None


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        pytest.param({"ip_addresses": "none"}, b"203.0.113.77", id="no address"),
        pytest.param({"ip_addresses": "truncated"}, b"203.0.113.77", id="half an address"),
        pytest.param({"honor_privacy_signals": True}, b"203.0.113.77", id="privacy signal"),
        pytest.param({"user": "REMOTE_USER"}, b"ada.lovelace", id="user's name"),
        pytest.param({"exclude": ("/secret/*",)}, b"/secret/path", id="excluded path"),
        pytest.param({}, b"hunter2", id="query string"),
    ],
)
def test_what_is_not_to_be_stored_is_nowhere(
    options: Any, absent: bytes, tracked: Tracked, tmp_path: Path
) -> None:
    """Not in the database, its log, nor the spool; nor is it there by another way."""
    request = environ(
        "/secret/path",
        REMOTE_ADDR="203.0.113.77",
        REMOTE_USER="ada.lovelace",
        QUERY_STRING="password=hunter2",
        HTTP_REFERER="https://ada:hunter2@a.example/?q=hunter2#hunter2",
        HTTP_SEC_GPC="1",
        HTTP_USER_AGENT="agent",
    )
    tracker = tracked(**options, require_token=False)
    serve(tracker, dict(request))
    in_spool = stored_bytes(tmp_path)
    webtest.TestApp(tracker).get("/api/tracking/summary")
    in_log = stored_bytes(tmp_path)
    tracker.close()

    for found in (in_spool, in_log, stored_bytes(tmp_path)):
        assert absent not in found
    # It would have been found.
    if options:
        other = tmp_path / "other"
        other.mkdir()
        defaults = Tracker(tracker._app, other / "visits.db", require_token=False, ingest=False)
        serve(defaults, dict(request))
        defaults.close()
        assert absent in stored_bytes(other) or absent == b"ada.lovelace"
