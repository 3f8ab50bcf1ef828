"""A visitor who is forgotten is in no file any more, and nobody else is missed."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from calls import environ, lines, serve

from wsgi_tracker import Tracker
from wsgi_tracker.errors import ConfigurationError, StorageError
from wsgi_tracker.storage.sqlite.purge import Sweep

pytestmark = pytest.mark.once

Tracked = Callable[..., Tracker]


def visit(tracker: Tracker, number: int) -> None:
    """Be one visitor, with an address, agent, path and referer that nobody else has."""
    request = environ(
        f"/path-of-{number:03}",
        REMOTE_ADDR=f"10.9.8.{number}",
        HTTP_USER_AGENT=f"agent-of-{number:03}",
        HTTP_REFERER=f"https://referer-of-{number:03}.example/",
    )
    serve(tracker, request)


def traces(number: int) -> list[bytes]:
    names = ("path", "agent", "referer")
    return [f'10.9.8.{number}"'.encode(), *(f"{name}-of-{number:03}".encode() for name in names)]


def files(tmp_path: Path) -> bytes:
    return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def total(tracker: Tracker) -> int:
    found: int = webtest.TestApp(tracker).get("/api/tracking/summary").json["total_hits"]
    return found


def test_nothing_is_left_of_who_is_forgotten(tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(require_token=False, endpoint="path")
    for number in range(100, 250):
        visit(tracker, number)
    gone = lines(tmp_path)[77]["user_hash"]
    assert total(tracker) == 150  # stored, and still in the segment that is being written
    visit(tracker, 177)  # and only in the spool
    assert all(trace in files(tmp_path) for trace in traces(177)[1:])

    assert tracker.forget(gone) == 2

    left = files(tmp_path)
    assert gone.encode() not in left
    assert not any(trace in left for trace in traces(177))
    assert total(tracker) == 149
    assert all(trace in left for trace in traces(178)[1:])
    assert (tmp_path / "visits.db-wal").stat().st_size == 0


def test_no_copies_are_left_where_rows_were_moved(tracked: Tracked, tmp_path: Path) -> None:
    """One visitor in a hundred left a path or an agent in the gaps of pages."""
    tracker = tracked(require_token=False)
    numbers = [number * 7919 % 100_000 for number in range(2000)]
    for start in range(0, 2000, 200):
        for number in numbers[start : start + 200]:
            agent = f"agent-of-{number:05}-" + "x" * (number % 150)
            serve(tracker, environ(REMOTE_ADDR="10.9.8.7", HTTP_USER_AGENT=agent))
        total(tracker)
    gone = lines(tmp_path)[77]["user_hash"]
    tracker.forget(gone)
    tracker.close()

    found = Counter(re.findall(rb"agent-of-(\d{5})", (tmp_path / "visits.db").read_bytes()))

    assert len(found) == 1999
    assert set(found.values()) == {2}  # in the table, and in its index


def stolen(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let another process begin a sweep, so many times, while ours is reading."""
    left, read = [times], Sweep.read

    def read_beside_another(self: Sweep, connection: sqlite3.Connection) -> bool:
        if left[0]:
            left[0] -= 1
            Sweep().begin(connection)
        return read(self, connection)

    monkeypatch.setattr(Sweep, "read", read_beside_another)


def test_purge_of_another_process_leaves_nothing_of_who_is_forgotten(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended ours: address, agent and path were left, and nobody knew."""
    tracker = tracked(require_token=False)
    visit(tracker, 100)
    visit(tracker, 101)
    gone = lines(tmp_path)[0]["user_hash"]
    stolen(monkeypatch, 1)

    assert tracker.forget(gone) == 1

    assert not any(trace in files(tmp_path) for trace in traces(100))


def test_purges_that_never_end_are_said(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = tracked()
    visit(tracker, 100)
    gone = lines(tmp_path)[0]["user_hash"]
    stolen(monkeypatch, 1000)

    with pytest.raises(StorageError, match="others delete visits, too"):
        tracker.forget(gone)


def test_spool_can_be_read_after_lines_were_blanked(tracked: Tracked, tmp_path: Path) -> None:
    """As where a database is replaced: all lines are read again."""
    tracker = tracked(require_token=False)
    for number in range(100, 110):
        visit(tracker, number)
    tracker.forget(lines(tmp_path)[3]["user_hash"])
    tracker._backend.storage.close()
    for path in tmp_path.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    visit(tracker, 111)
    tracker._backend.ingester.look_again()

    assert total(tracker) == 10
    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        assert dict(connection.execute("SELECT name, value FROM counts")) == {"recorded": 10}


def test_rejected_lines_are_forgotten_too(tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(require_token=False)
    visit(tracker, 100)
    gone = lines(tmp_path)[0]["user_hash"]
    torn = b'{"timestamp":1,"user_hash":"%s","endpoint' % gone.encode()
    (tmp_path / "visits.db-spool" / "rejected.ndjson").write_bytes(b"other\n" + torn + b"\nlast\n")

    assert tracker.forget(gone) == 1

    assert gone.encode() not in files(tmp_path)
    rejected = (tmp_path / "visits.db-spool" / "rejected.ndjson").read_bytes().split(b"\n")
    assert (rejected[0], len(rejected[1]), rejected[2:]) == (b"other", len(torn), [b"last", b""])


def test_visits_go_on_while_somebody_is_forgotten(tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(require_token=False)
    for number in range(100, 200):
        visit(tracker, number)
    gone = [line["user_hash"] for line in lines(tmp_path)[:5]]
    begun = threading.Event()

    def send() -> None:
        for _ in range(5000):
            visit(tracker, 200)
            begun.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert begun.wait(30)
    deleted = [tracker.forget(user_hash) for user_hash in gone]
    thread.join(30)

    assert deleted == [1] * 5
    assert total(tracker) == 95 + 5000


def test_unknown_visitor_is_forgotten_already(tracked: Tracked) -> None:
    assert tracked().forget("0" * 32) == 0


@pytest.mark.parametrize("user_hash", ["", "x" * 32, "0" * 31, "%", "' OR 1 --", None])
def test_what_is_no_user_hash_is_refused(user_hash: Any, tracked: Tracked) -> None:
    with pytest.raises(ConfigurationError, match="32 hexadecimal digits"):
        tracked().forget(user_hash)


def test_nobody_is_forgotten_while_visits_wait(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.forget.DRAIN_SECONDS", 0.0)
    tracker = tracked()
    visit(tracker, 100)
    gone = lines(tmp_path)[0]["user_hash"]

    with (
        tracker._backend.ingester._host_lock.held(),
        pytest.raises(StorageError, match="bytes wait"),
    ):
        tracker.forget(gone)


def test_reader_that_never_ends_is_said(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.sqlite.database.LOG_PATIENCE_SECONDS", 0.0)
    tracker = tracked(require_token=False)
    visit(tracker, 100)
    gone = lines(tmp_path)[0]["user_hash"]
    total(tracker)
    with closing(sqlite3.connect(tmp_path / "visits.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM visits").fetchone()
        with pytest.raises(StorageError, match="read all the time"):
            tracker.forget(gone)

    assert tracker.forget(gone) == 0
    assert gone.encode() not in files(tmp_path)
