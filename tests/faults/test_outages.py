"""Storage and disks out of order under load: clients notice nothing, and the count is exact."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from checks import QUEUED, ask, late_summary, recorded
from disks import full, immutable, small_disk
from faultapp import answer
from load import Load
from servers import Server
from watched import (
    WORKERS,
    check_answers,
    files_of,
    messages,
    paused,
    server,
    wait_until,
)
from werkzeug.test import Client

from wsgi_tracker import Tracker, open_storage
from wsgi_tracker.storage.sqlite.schema import SCHEMA_VERSION

Begin = Callable[[Path], AbstractContextManager[None]]


# --- outages that end by themselves --------------------------------------------------------------


@contextmanager
def locked(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 30000")
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def disk_full(database: Path) -> Iterator[None]:
    with full(database.parent):
        yield


@contextmanager
def read_only(database: Path) -> Iterator[None]:
    # Not its -shm, which SQLite maps: the kernel answers a write to that with SIGBUS.
    with immutable([database, database.with_name(database.name + "-wal")]):
        yield


@contextmanager
def newer_schema(database: Path) -> Iterator[None]:
    set_version(database, 99)
    yield
    set_version(database, SCHEMA_VERSION)


def refuses(running: Server) -> bool:
    """Say if a report is refused; or else, as another process tries just now, that it lacks some."""
    answer = ask(running.port)
    assert answer.status == 503 or QUEUED in answer.headers, answer.body
    return answer.status == 503


def set_version(database: Path, version: int) -> None:
    with closing(sqlite3.connect(database, timeout=30)) as other:
        other.execute(f"PRAGMA user_version = {version}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk for a database and its log, its spool on another."""
    with small_disk(tmp_path / "disk", 64) as folder:
        (tmp_path / "spool").mkdir(mode=0o700)
        (folder / "visits.db-spool").symlink_to(tmp_path / "spool")
        yield folder


@pytest.mark.parametrize(
    ("begin", "says"),
    [
        pytest.param(locked, "end it", id="locked"),
        pytest.param(disk_full, "make room|see the system's log", id="full"),
        pytest.param(read_only, "mount|see the system's log", id="read-only"),
        pytest.param(newer_schema, "install the newer release", id="newer schema"),
    ],
)
def test_visits_wait_for_the_end_of_an_outage(
    begin: Begin, says: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue("disk") if begin is disk_full else tmp_path
    database = folder / "visits.db"
    with server(database) as running, Load(lambda: running.port, clients=6) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(100)
        with begin(database):
            wait_until(load, lambda: messages(running)[0], "the outage is not logged")
            load.wait_for(200)
            wait_until(load, lambda: refuses(running), "reports know nothing of it")
        wait_until(load, lambda: ask(running.port).status == 200, "it does not resume")
        wait_until(load, lambda: messages(running)[1], "its end is not logged")
        load.wait_for(50)
        load.stop()
        reported, _ = late_summary(running.port)

    begun, over = messages(running)
    check_answers(load, running)
    assert reported == load.count
    assert recorded(database) == (Counter(load.answered), {"recorded": load.count})
    assert all(re.search(says, line) for line in begun), begun
    # Each process says it once.
    assert 1 <= len(over) <= len(begun) <= WORKERS


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(locked, id="locked"),
        pytest.param(disk_full, id="full"),
        pytest.param(newer_schema, id="newer schema"),
    ],
)
def test_workers_that_start_during_an_outage_serve(
    begin: Begin, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue("disk") if begin is disk_full else tmp_path
    database = folder / "visits.db"
    with server(database) as running, Load(lambda: running.port, clients=4) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(50)
        with begin(database):
            running.process.send_signal(signal.SIGHUP)
            load.wait_for_workers(WORKERS)
            load.wait_for(100)
        wait_until(load, lambda: ask(running.port).status == 200, "it does not resume")
        load.wait_for(50)
        load.stop()

    counted, counts = recorded(database)
    assert not re.search("Traceback|SIG(?!TERM|: hup)", running.log), running.log
    assert set(counted.values()) == {1}
    assert counted.keys() <= load.answered
    assert counts["recorded"] == len(counted)
    # Dropped: before the secret of user_hash could be read.
    assert sum(counts.values()) == load.count


def damaged(database: Path) -> AbstractContextManager[None]:
    return swapped(database, overwrite)


@contextmanager
def swapped(database: Path, damage: Callable[[Path], None]) -> Iterator[None]:
    good = database.read_bytes()
    damage(database)
    yield
    database.write_bytes(good)


@pytest.mark.parametrize(
    ("begin", "says"),
    [
        pytest.param(disk_full, "disk of .* is full|see the system's log", id="full"),
        pytest.param(damaged, "is damaged: stop all", id="damaged"),
    ],
)
def test_application_starts_whatever_befell_its_database(
    begin: Begin, says: str, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was told to choose another path, and did not start."""

    def start() -> Tracker:
        return Tracker(answer, disk / "visits.db", require_token=False, ingest=False)

    with start() as tracker:
        assert Client(tracker).get("/t/1").status_code == 200
        assert Client(tracker).get("/api/tracking/summary").status_code == 200
    with begin(disk / "visits.db"), start() as tracker:
        assert Client(tracker).get("/t/2").status_code == 200
        assert Client(tracker).get("/api/tracking/summary").status_code == 503
    counted, counts = recorded(disk / "visits.db")

    assert counted[1] == 1
    # Dropped: while the secret of user_hash could not be read.
    assert sum(counts.values()) == 2
    assert re.search(says, caplog.messages[0])


# --- the file itself is lost ---------------------------------------------------------------------


def delete(database: Path) -> None:
    for path in files_of(database):
        path.unlink()


def delete_database_alone(database: Path) -> None:
    database.unlink()


def replace(database: Path) -> None:
    delete(database)
    open_storage(database).close()


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(delete, id="deleted"),
        pytest.param(delete_database_alone, id="its log left"),
        pytest.param(replace, id="replaced"),
    ],
)
def test_new_database_takes_what_the_spool_still_holds(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"
    with server(database) as running, Load(lambda: running.port, clients=6) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(100)
        assert (
            ask(running.port).status == 200
        )  # so one of them has it open: its inode is not reused
        with paused(running):
            before = set(load.answered)
            lose(database)
        wait_until(load, lambda: "deleted or replaced" in running.log, "it is not logged")
        load.wait_for(100)
        wait_until(load, lambda: ask(running.port).status == 200, "it does not resume")
        load.stop()

    check_answers(load, running)
    counted, counts = recorded(database)
    assert set(counted.values()) == {1}
    assert load.answered - before <= counted.keys() <= load.answered
    assert counts == {"recorded": len(counted)}
    assert 1 <= running.log.count("was deleted or replaced: visits go to") <= WORKERS


def test_full_disk_is_all_that_a_first_start_tells_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It told of another program's database, and to move it away."""
    with small_disk(tmp_path / "disk", 1) as folder:
        with full(folder):
            tracker = Tracker(answer, folder / "visits.db", require_token=False, ingest=False)
            client = Client(tracker)
            assert client.get("/t/1").status_code == 200
            assert client.get("/api/tracking/summary").status_code == 503
        during = [record for record in caplog.records if record.levelname != "INFO"]
        assert client.get("/api/tracking/summary").status_code == 200
        tracker.close()

    assert not any(record.exc_info for record in during)
    assert all(
        re.search("is full|not known yet|No space left", record.getMessage()) for record in during
    )


def cut_in_half(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def overwrite(database: Path) -> None:
    """Fill all pages behind the first with what is no page."""
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


@pytest.mark.parametrize(
    "damage",
    [pytest.param(cut_in_half, id="cut"), pytest.param(overwrite, id="overwritten")],
)
def test_visits_wait_while_the_database_is_damaged(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"
    with server(database) as running, Load(lambda: running.port, clients=6) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(300)
        with locked(database):  # the file holds all, as that of a larger database would
            pass
        with closing(sqlite3.connect(database, timeout=30)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(database)
        wait_until(load, lambda: messages(running)[0], "the damage is not logged")
        before = set(load.answered)
        load.wait_for(100)
        status = ask(running.port).status
        with paused(running):
            for path in files_of(database):
                shutil.move(path, tmp_path / f"broken-{path.name}")
        wait_until(load, lambda: messages(running)[1], "it does not resume")
        load.wait_for(50)
        load.stop()

    check_answers(load, running)
    counted, counts = recorded(database)
    assert status == 503
    assert set(counted.values()) == {1}
    assert load.answered - before <= counted.keys() <= load.answered
    assert counts == {"recorded": len(counted)}
    assert 1 <= len(messages(running)[0]) <= WORKERS
    assert all("is damaged: stop all" in line for line in messages(running)[0])


# --- the spool's disk ----------------------------------------------------------------------------


def test_full_spool_drops_and_counts_exactly(tmp_path: Path) -> None:
    database = tmp_path / "visits.db"
    with (
        small_disk(tmp_path / "visits.db-spool", 2) as spool,
        server(database) as running,
        Load(lambda: running.port, clients=6) as load,
    ):
        load.wait_for(100)
        with full(spool):
            wait_until(load, lambda: "visits are dropped" in running.log, "it is not logged")
            load.wait_for(100)
        wait_until(load, lambda: "cannot be written: works again" in running.log, "no end")
        load.wait_for(100)
        load.stop()
        status = ask(running.port).status
        running.stop()
        counted, counts = recorded(database)

    check_answers(load, running)
    assert status == 200
    assert set(counted.values()) == {1}
    assert counted.keys() <= load.answered
    assert counts["recorded"] == len(counted)
    # Torn: what a write that filled the last page left of a line.
    assert sum(counts.values()) == load.count
    assert counts["dropped"] >= 100 - counts.get("torn", 0)
    assert 1 <= running.log.count("visits are dropped") / 2 <= WORKERS  # begun, and over
    assert "No space left on device; make room" in running.log


def test_retention_that_was_read_in_an_outage_leaves_no_connection_that_cannot_write(
    tmp_path: Path,
) -> None:
    """SQLite opens a file that it cannot write to for reading: the next batch failed on it."""
    storage = open_storage(tmp_path / "visits.db")

    with immutable([tmp_path / "visits.db"]):
        storage.set_retention(0)
        assert not storage.begin_purge(0, None)

    storage.set_retention(3)
    storage.close()


def test_deleted_spool_costs_no_visit(tmp_path: Path) -> None:
    database = tmp_path / "visits.db"
    with server(database) as running, Load(lambda: running.port, clients=6) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(100)
        shutil.rmtree(tmp_path / "visits.db-spool")
        wait_until(
            load, lambda: running.log.count("was deleted, moved or cut") == WORKERS, "no log"
        )
        load.wait_for(100)
        load.stop()

    check_answers(load, running)
    assert recorded(database) == (Counter(load.answered), {"recorded": load.count})
