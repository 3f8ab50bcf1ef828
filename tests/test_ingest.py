"""Every readable line of the spool reaches storage exactly once, whatever else is there."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest

from wsgi_tracker import Tracker, Visit, open_storage
from wsgi_tracker.errors import StorageError
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.segments import SUFFIX, header
from wsgi_tracker.spool import Spool

serial = itertools.count(1)
GOOD = Visit(1_755_081_000_000_000, "a" * 32, "GET", "/boxes").line()
OTHER = Visit(1_755_081_000_000_001, "b" * 32, "GET", "/boxes").line()


class Host:
    """A database, its spool, and who ingests: all that is below the middleware."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "visits.db"
        self.folder = folder / "visits.db-spool"
        self.folder.mkdir(mode=0o700)
        self.storage = open_storage(self.database)
        self.ingester = Ingester(self.storage, self.folder)

    def segment(self, content: bytes, *, segment: str = "", name: str = "") -> Path:
        """Write a segment whose writer is gone."""
        segment = segment or f"{next(serial):032x}"
        path = self.folder / (name or segment + SUFFIX)
        path.write_bytes(header(segment) + content)
        return path

    def ingest(self) -> None:
        """Ingest all there is, quiet segments too."""
        self.ingester._look_at = 0.0
        while self.ingester.run_once():
            pass

    def hits(self) -> int:
        return self.storage.summary(0).total_hits

    def counts(self) -> dict[str, int]:
        with closing(sqlite3.connect(self.database)) as connection:
            return dict(connection.execute("SELECT name, value FROM counts"))

    def rejected(self) -> bytes:
        path = self.folder / "rejected.ndjson"
        return path.read_bytes() if path.exists() else b""

    def segments(self) -> list[str]:
        return [path.name for path in self.folder.glob(f"*{SUFFIX}") if "rej" not in path.name]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.ingester.close()
    host.storage.close()


@pytest.mark.parametrize(
    ("content", "hits", "rejected"),
    [
        pytest.param(b"", 0, 0, id="empty"),
        pytest.param(GOOD + OTHER, 2, 0, id="good"),
        pytest.param(GOOD + b"5\n" + OTHER, 2, 1, id="number"),
        pytest.param(b"null\n" + GOOD, 1, 1, id="null"),
        pytest.param(b"{}\n" + GOOD, 1, 1, id="empty object"),
        pytest.param(b"[]\n" + GOOD, 1, 1, id="array"),
        pytest.param(b"\n" + GOOD + b"\n\n", 1, 3, id="empty lines"),
        pytest.param(GOOD[:-1] + b"," + OTHER + b'{"a":"x\ny"}\n', 1, 3, id="two in one, joined"),
        pytest.param(b'{"a":"x\ny"}\n' + GOOD, 1, 2, id="two that a comma would join"),
        pytest.param(GOOD[:-3].replace(b"null", b'"x', 1) + b"\n" + OTHER, 1, 1, id="open string"),
        pytest.param(b"\0\0\0\n" + GOOD + b"\0" + OTHER, 2, 2, id="NUL"),
        pytest.param(b"\xff\xfe\n" + GOOD, 1, 1, id="no UTF-8"),
        pytest.param(GOOD.replace(b"175508", b'"x"'), 0, 1, id="timestamp is text"),
        pytest.param(GOOD.replace(b"1755081000000000", b"1.5"), 0, 1, id="timestamp is real"),
        pytest.param(GOOD.replace(b"1755081000000000", b"-1"), 0, 1, id="before 1970"),
        pytest.param(GOOD.replace(b"1755081000000000", b"9" * 30), 0, 1, id="after 9999"),
        pytest.param(GOOD.replace(b'"/boxes"', b"null"), 0, 1, id="no endpoint"),
        pytest.param(GOOD.replace(b'"/boxes"', b"7"), 0, 1, id="endpoint is a number"),
        pytest.param(GOOD.replace(b'"status":null', b'"status":"x"'), 0, 1, id="status is text"),
        pytest.param(GOOD.replace(b"{", b'{"colour":"red",', 1), 1, 0, id="field from the future"),
        pytest.param(GOOD[:40] + OTHER, 1, 1, id="glued behind a torn one"),
        pytest.param(GOOD[:40] + OTHER[:40] + GOOD, 1, 1, id="glued behind two"),
        pytest.param(GOOD + OTHER[:-20], 1, 1, id="torn tail"),
        pytest.param(GOOD + OTHER[:-1], 2, 0, id="only the line's end is missing"),
        pytest.param(b"x" * 100_000 + b"\n" + GOOD, 1, 1, id="long garbage"),
        pytest.param(b"[" * 5000 + b"\n" + GOOD, 1, 1, id="deep"),
    ],
)
def test_all_that_is_readable_is_stored_and_the_rest_kept(
    content: bytes, hits: int, rejected: int, host: Host
) -> None:
    host.segment(content)

    host.ingest()
    host.ingest()

    counts = host.counts()
    assert host.hits() == hits
    assert counts.get("rejected", 0) + counts.get("torn", 0) == rejected
    assert counts.get("recorded", 0) == hits
    assert bool(host.rejected()) is bool(rejected)
    assert host.segments() == []


def test_line_longer_than_a_batch_does_not_stop_the_rest(host: Host) -> None:
    host.ingester._batch_bytes = 2000
    host.segment(GOOD * 20 + b"x" * 7000 + b"\n" + GOOD * 20)

    host.ingest()

    assert host.hits() == 40
    assert host.segments() == []


def test_batches_cut_between_lines(host: Host) -> None:
    host.ingester._batch_bytes = 1000
    for _ in range(3):
        host.segment(GOOD * 17)

    host.ingest()

    assert host.hits() == 51


def test_segment_without_header_is_read_under_its_name(host: Host) -> None:
    path = host.folder / "found.ndjson"
    path.write_bytes(GOOD + OTHER)

    host.ingest()
    path.write_bytes(GOOD + OTHER)
    host.ingest()

    assert host.hits() == 2


def test_finished_segment_is_never_read_again(host: Host) -> None:
    path = host.segment(GOOD)
    shutil.copy(path, host.folder.parent / "backup")
    host.ingest()

    shutil.copy(host.folder.parent / "backup", path)
    shutil.copy(host.folder.parent / "backup", host.folder / "copy.ndjson")
    host.ingest()

    assert host.hits() == 1
    assert host.segments() == []


def test_copy_beside_its_original_counts_nothing_twice(host: Host) -> None:
    path = host.segment(GOOD)
    shutil.copy(path, host.folder / "0-copy.ndjson")
    shutil.copy(path, host.folder / "z-copy.ndjson")

    for _ in range(3):
        host.ingest()

    assert host.hits() == 1
    assert host.segments() == []


def test_copy_of_a_live_segment_does_not_finish_it(host: Host) -> None:
    spool = Spool(host.folder)
    spool.append(GOOD)
    (name,) = host.segments()
    shutil.copy(host.folder / name, host.folder / "0-copy.ndjson")
    host.ingest()

    spool.append(OTHER)
    host.ingest()
    spool.close()
    host.ingest()
    host.ingest()

    assert host.hits() == 2
    assert host.segments() == []


def test_half_a_line_of_a_living_writer_waits(host: Host) -> None:
    spool = Spool(host.folder)
    spool.append(GOOD + OTHER[:50])
    host.ingest()
    hits = host.hits()

    spool.append(OTHER[50:])
    host.ingest()
    spool.close()

    assert (hits, host.hits(), host.counts().get("rejected", 0)) == (1, 2, 0)


def test_folders_and_strangers_in_the_spool_are_left_alone(host: Host) -> None:
    (host.folder / "folder.ndjson").mkdir()
    (host.folder / "notes.txt").write_text("hello")
    host.segment(GOOD)

    host.ingest()

    assert host.hits() == 1
    assert (host.folder / "notes.txt").read_text() == "hello"


# --- the writer ----------------------------------------------------------------------------------


def test_segment_belongs_to_its_writer_alone(host: Host) -> None:
    spool = Spool(host.folder)
    spool.append(GOOD)
    (name,) = host.segments()

    fd = os.open(host.folder / name, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spool.close()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_only_the_owner_reads_what_is_stored(host: Host) -> None:
    spool = Spool(host.folder.with_name("fresh-spool"))
    spool.append(GOOD)
    host.segment(b"garbage\n")
    host.ingest()

    for path in [host.database, *host.database.parent.rglob("*spool/*")]:
        if path.suffix != SUFFIX or "fresh" in str(path) or "rejected" in path.name:
            assert path.stat().st_mode & 0o077 == 0, path
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    spool.close()


def test_rotation_loses_no_line_of_any_thread(host: Host) -> None:
    spool = Spool(host.folder, segment_bytes=5000)
    barrier = threading.Barrier(4)

    def write() -> None:
        barrier.wait()
        for _ in range(500):
            assert spool.append(GOOD)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(host.segments()) > 20
    spool.close()
    host.ingest()

    assert host.hits() == 2000
    assert host.counts().get("rejected", 0) == 0


def test_writer_takes_another_segment_when_its_file_is_deleted_before_the_lock(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, deleted = fcntl.flock, []

    def ingester_is_faster(fd: int, operation: int) -> None:
        if not deleted:
            deleted.extend(host.segments())
            (host.folder / deleted[0]).unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", ingester_is_faster)
    spool = Spool(host.folder)

    assert spool.append(GOOD)
    spool.close()
    monkeypatch.undo()
    host.ingest()

    assert (len(deleted), host.hits()) == (1, 1)


def test_full_spool_drops_the_newest_and_counts_them(host: Host) -> None:
    spool = Spool(host.folder, max_bytes=8192)

    kept = sum(spool.append(GOOD) for _ in range(200))
    spool.write_counts()
    spool.close()
    host.ingest()

    assert 0 < kept < 200
    assert host.hits() == kept
    assert host.counts() == {"recorded": kept, "dropped": 200 - kept}


FILE_SIZE = """
import resource, signal, sys
from pathlib import Path
from wsgi_tracker.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
spool = Spool(Path(sys.argv[1]))
line = bytes.fromhex(sys.argv[3])
print(sum(spool.append(line) for _ in range(100)), spool._dropped)
"""


def test_short_write_is_counted_once(host: Host) -> None:
    """A file size limit makes the kernel write part of a line, then refuse."""
    limit = len(header("0" * 32)) + 10 * len(GOOD) + 50
    child = subprocess.run(
        [sys.executable, "-c", FILE_SIZE, str(host.folder), str(limit), GOOD.hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, dropped = map(int, child.stdout.split())

    host.ingest()

    # One torn line was cut off on disk; the other visits are dropped until a second has passed.
    assert (kept, dropped) == (10, 89)
    assert host.hits() == 10
    assert host.counts() == {"recorded": 10, "torn": 1}


def test_unwritable_disk_drops_and_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(host.folder)
    spool.append(GOOD)
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if data == OTHER:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    assert [spool.append(OTHER), spool.append(GOOD)] == [False, False]
    assert not spool.writable
    monkeypatch.setattr("wsgi_tracker.spool.time.monotonic", lambda: spool._retry_at + 1)
    assert spool.append(GOOD)
    assert spool.writable
    spool.write_counts()
    spool.close()
    host.ingest()

    assert host.counts() == {"recorded": 2, "dropped": 2}


# --- one at a time -------------------------------------------------------------------------------


def test_threads_and_ingesters_together_store_everything_once(host: Host) -> None:
    for _ in range(40):
        host.segment(GOOD * 25)
    others = [Ingester(host.storage, host.folder, batch_bytes=3000) for _ in range(4)]
    barrier = threading.Barrier(4)

    def ingest(ingester: Ingester) -> None:
        barrier.wait()
        ingester.catch_up(30)

    threads = [threading.Thread(target=ingest, args=[each]) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert host.hits() == 1000
    host.ingest()
    assert host.segments() == []


HOLD_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lock_holder(host: Host) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the ingest lock and does nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(host.folder / "ingest.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_catch_up_says_what_is_left_when_another_process_is_stuck(
    host: Host, lock_holder: subprocess.Popen[str]
) -> None:
    host.segment(GOOD + OTHER)

    queue = host.ingester.catch_up(0.05)

    assert queue.size_bytes == len(GOOD + OTHER)
    assert queue.oldest_timestamp == 1_755_081_000_000_000
    assert host.hits() == 0


def test_lock_is_free_when_its_holder_dies(host: Host, lock_holder: subprocess.Popen[str]) -> None:
    host.segment(GOOD)
    lock_holder.send_signal(signal.SIGKILL)
    lock_holder.wait(30)

    assert host.ingester.catch_up(30).size_bytes == 0
    assert host.hits() == 1


def test_thread_ingests_by_itself_and_stops(tmp_path: Path) -> None:
    stored = threading.Event()

    class Storage:
        def __init__(self, storage: Any) -> None:
            self._storage = storage

        def __getattr__(self, name: str) -> Any:
            return getattr(self._storage, name)

        def ingest(self, *args: Any, **options: Any) -> None:
            self._storage.ingest(*args, **options)
            stored.set()

    host = Host(tmp_path)
    ingester = Ingester(Storage(host.storage), host.folder)
    ingester.start()
    ingester.start()
    host.segment(GOOD)

    assert stored.wait(30)
    ingester.close()
    ingester.close()
    assert host.hits() == 1
    host.storage.close()


# --- storage out of order ------------------------------------------------------------------------


@pytest.fixture
def tracker(tracked: Callable[..., Tracker]) -> webtest.TestApp:
    return webtest.TestApp(tracked())


def test_locked_database_delays_but_loses_nothing(tracker: webtest.TestApp, tmp_path: Path) -> None:
    tracker.get("/")
    with closing(sqlite3.connect(tmp_path / "visits.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.get("/")
        refused = tracker.get("/api/tracking/summary", status=503)
        other.execute("ROLLBACK")

    assert refused.headers["Retry-After"] == "1"
    assert refused.json["error"]["code"] == "storage_unavailable"
    assert tracker.get("/api/tracking/summary").json["total_hits"] == 2


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_new_database_takes_what_is_still_in_the_spool(
    how: str, tracker: webtest.TestApp, tmp_path: Path
) -> None:
    tracker.get("/")
    assert tracker.get("/api/tracking/summary").json["total_hits"] == 1
    for path in tmp_path.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    if how == "replaced":
        open_storage(tmp_path / "visits.db").close()

    tracker.get("/")
    tracker.app._ingester._look_at = 0.0

    assert tracker.get("/api/tracking/summary").json["total_hits"] == 2


def test_newer_schema_stops_reports_not_the_application(
    tracked: Callable[..., Tracker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    webtest.TestApp(tracked()).get("/")
    database = tmp_path / "visits.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")

    app = webtest.TestApp(tracked())
    assert app.get("/").text == "hello"
    refused = app.get("/api/tracking/summary", status=503)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 1")

    assert "schema 99" in refused.json["error"]["message"]
    assert "schema 99" in caplog.text
    assert app.get("/api/tracking/summary").json["total_hits"] == 2


def test_corrupt_database_stops_reports_not_the_application(
    tracker: webtest.TestApp, tmp_path: Path
) -> None:
    tracker.get("/")
    tracker.app._storage.close()
    for path in tmp_path.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "visits.db").write_bytes(b"no database " * 1000)

    assert tracker.get("/").text == "hello"
    tracker.get("/api/tracking/summary", status=503)
    (tmp_path / "visits.db").unlink()
    tracker.app._ingester._look_at = 0.0

    assert tracker.get("/api/tracking/summary").json["total_hits"] == 2


def test_segment_row_is_forgotten_after_a_month(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    with closing(sqlite3.connect(host.database, isolation_level=None)) as connection:
        connection.execute("UPDATE segments SET finished_at = finished_at - 31 * 86400")
        host.segment(GOOD)
        host.ingest()
        assert connection.execute("SELECT count(*) FROM segments").fetchone() == (1,)


# --- lines that only damage, or a stranger, can have written -------------------------------------


def many(count: int) -> bytes:
    return b"".join(
        Visit(1_755_081_000_000_000 + n, "a" * 32, "GET", "/boxes").line() for n in range(count)
    )


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"counts":{"dropped":1e400}}\n', id="infinite"),
        pytest.param(b'{"counts":{"dropped":NaN}}\n', id="not a number"),
        pytest.param(b'{"counts":{"dropped":%d}}\n' % 2**63, id="too large for SQLite"),
        pytest.param(b'{"counts":{"dropped":%s}}\n' % (b"9" * 5000), id="too large for int()"),
        pytest.param(b'{"counts":%s\n' % (b"[" * 200_000), id="too deep"),
        pytest.param(b'{"counts":{"dropped":"x"}}\n', id="text"),
        pytest.param(b'{"counts":[]}\n', id="array"),
        pytest.param(b'{"counts":{"dropped":\n', id="torn"),
        pytest.param(b'{"counts":{"\xff":1}}\n', id="no UTF-8"),
    ],
)
def test_counts_that_are_none_do_not_wedge_the_spool(line: bytes, host: Host) -> None:
    host.segment(line + GOOD)

    host.ingest()

    assert host.hits() == 1
    assert host.counts() == {"recorded": 1, "rejected": 1}
    assert host.segments() == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'"%s"\n' % GOOD.strip().replace(b'"', b'\\"'), id="visit within a string"),
        pytest.param(b"[%s]\n" % GOOD.strip(), id="visit within an array"),
        pytest.param(GOOD.replace(b"1755081000000000", b"true"), id="timestamp is true"),
        pytest.param(GOOD.replace(b'"status":null', b'"status":true'), id="status is true"),
        pytest.param(GOOD.replace(b'"/boxes"', b'{"a":1}'), id="endpoint is an object"),
        pytest.param(GOOD.replace(b'"/boxes"', b'["a"]'), id="endpoint is an array"),
    ],
)
def test_what_only_looks_like_a_visit_is_rejected(line: bytes, host: Host) -> None:
    host.segment(line + OTHER)

    host.ingest()

    assert host.hits() == 1
    assert host.rejected() == line


def test_nul_behind_a_bracket_does_not_hide_the_lines_that_follow(host: Host) -> None:
    """SQLite stops reading at a NUL: two visits in the first of two lines stood for both."""
    host.segment(GOOD[:-1] + b"," + OTHER[:-1] + b"]\0\n" + many(1))

    host.ingest()

    assert host.rejected().endswith(b"]\0\n")
    assert host.storage.visits(9)[0].timestamp == 1_755_081_000_000_000
    assert host.counts() == {"recorded": 1, "rejected": 1}


def test_two_lines_that_join_are_not_made_good_by_two_visits_in_one(host: Host) -> None:
    """From 3.45 on, SQLite reads line ends within strings (JSON5)."""
    joined = GOOD.replace(b'"host":null', b'"host":"a\nb"')
    host.segment(GOOD[:-1] + b"," + OTHER + joined + many(1))

    host.ingest()

    assert {visit.host for visit in host.storage.visits(9)} == {None}
    assert host.counts() == {"recorded": 2, "rejected": 2, "torn": 1}


def test_one_bad_line_among_thousands_costs_only_itself(host: Host) -> None:
    good = many(3000)
    cut = good.index(b"\n", len(good) // 2) + 1
    host.segment(good[:cut] + b"null\n" + good[cut:])

    host.ingest()

    assert host.hits() == 3000
    assert host.rejected() == b"null\n"


class BeforeIngest:
    """Real storage; ``act`` runs once, before a batch is stored."""

    def __init__(self, storage: Any, act: Callable[[], None]) -> None:
        self._storage = storage
        self._act = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def ingest(self, *args: Any, **options: Any) -> None:
        act, self._act = self._act, lambda: None
        act()
        self._storage.ingest(*args, **options)


def test_segment_seen_before_its_first_line_is_counted_once(host: Host) -> None:
    """The ingester opened it between its creation and its first line, and read it twice."""
    segment = "f" * 32
    fd = os.open(
        host.folder / (segment + SUFFIX), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600
    )
    fcntl.flock(fd, fcntl.LOCK_EX)

    def writer_goes_on() -> None:
        os.write(fd, header(segment))
        os.write(fd, GOOD)

    host.ingester._storage = BeforeIngest(host.storage, writer_goes_on)
    host.ingest()
    os.write(fd, OTHER)
    host.ingest()
    os.close(fd)
    host.ingest()

    assert host.hits() == 2
    assert host.counts() == {"recorded": 2}


def test_commit_that_fails_stores_nothing_and_the_next_stores_all(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(many(10))

    def fail(*args: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("wsgi_tracker.storage.intake._add_counts", fail)
    with pytest.raises(StorageError, match="disk is full"):
        host.ingest()
    after_failure = (host.hits(), len(host.segments()), host.storage.positions())
    monkeypatch.undo()
    host.ingest()

    assert after_failure == (0, 1, {})
    assert host.hits() == 10
    assert host.counts() == {"recorded": 10}


def test_ingester_that_dies_between_commit_and_unlink_leaves_nothing_twice(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(many(10))

    def die(segment: Any) -> None:
        raise OSError("killed")

    monkeypatch.setattr("wsgi_tracker.segments.Segment.unlink", die)
    with pytest.raises(StorageError):
        host.ingest()
    left = len(host.segments())
    monkeypatch.undo()
    Ingester(host.storage, host.folder).catch_up(30)
    host.ingest()

    assert left == 1
    assert (host.hits(), host.segments()) == (10, [])


INGEST = """
import sys
from pathlib import Path
from wsgi_tracker import open_storage
from wsgi_tracker.ingest import Ingester
storage = open_storage(sys.argv[1])
ingester = Ingester(storage, Path(sys.argv[1] + "-spool"), batch_bytes=5000)
print("ready", flush=True)
sys.stdin.readline()
ingester.catch_up(60)
storage.close()
"""


def test_processes_together_store_everything_once(host: Host) -> None:
    for _ in range(20):
        host.segment(many(100))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", INGEST, str(host.database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    host.ingest()

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert host.counts() == {"recorded": 2000}
    assert host.hits() == 2000


def test_catch_up_goes_on_as_soon_as_the_lock_is_free(
    host: Host, lock_holder: subprocess.Popen[str]
) -> None:
    host.segment(GOOD)
    waiting, queues = threading.Event(), []

    class Storage(BeforeIngest):
        def positions(self) -> Any:
            waiting.set()
            return self._storage.positions()

    host.ingester._storage = Storage(host.storage, lambda: None)
    thread = threading.Thread(target=lambda: queues.append(host.ingester.catch_up(30)))
    thread.start()
    assert waiting.wait(30)
    before = host.hits()
    lock_holder.communicate("\n", timeout=30)
    thread.join(30)

    assert (before, host.hits()) == (0, 1)
    assert queues[0].size_bytes == 0


@pytest.mark.parametrize(
    ("age_seconds", "active"),
    [pytest.param(59, True, id="fresh"), pytest.param(60, False, id="old")],
)
def test_report_says_what_is_queued_and_whether_it_still_moves(
    age_seconds: int,
    active: bool,
    tracked: Callable[..., Tracker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsgi_tracker.api.CATCH_UP_SECONDS", 0.01)
    tracker = tracked()
    tracker._api._clock = lambda: (1_755_081_000 + age_seconds) * 10**9
    app = webtest.TestApp(tracker)
    segment = "e" * 32
    (tmp_path / "visits.db-spool" / (segment + SUFFIX)).write_bytes(header(segment) + GOOD + OTHER)

    with tracker._ingester._host_lock.held() as held:
        stuck = app.get("/api/tracking/summary")
    free = app.get("/api/tracking/summary")

    assert held
    assert stuck.headers["Wsgi-Tracker-Queued"] == str(len(GOOD + OTHER))
    assert (stuck.json["total_hits"], stuck.json["tracking_active"]) == (0, active)
    assert "Wsgi-Tracker-Queued" not in free.headers
    assert (free.json["total_hits"], free.json["tracking_active"]) == (2, True)


def test_spool_that_cannot_be_listed_is_503(tracker: webtest.TestApp, tmp_path: Path) -> None:
    (tmp_path / "visits.db-spool").rmdir()
    (tmp_path / "visits.db-spool").write_text("no folder")

    refused = tracker.get("/api/tracking/summary", status=503)

    assert refused.json["error"]["code"] == "storage_unavailable"


def test_spool_folder_that_was_deleted_comes_back(tracker: webtest.TestApp, tmp_path: Path) -> None:
    (tmp_path / "visits.db-spool").rmdir()

    first = tracker.get("/api/tracking/summary").json["total_hits"]
    tracker.get("/")

    assert (first, tracker.get("/api/tracking/summary").json["total_hits"]) == (0, 1)


def test_new_database_takes_what_is_in_the_spool_without_waiting_for_a_visit(
    tracker: webtest.TestApp, tmp_path: Path
) -> None:
    tracker.get("/")
    tracker.get("/api/tracking/summary")
    for name in ("visits.db", "visits.db-wal", "visits.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)

    tracker.app._ingester._look_at = 0.0
    tracker.app._ingester.wake()  # as its thread does

    assert tracker.get("/api/tracking/summary").json["total_hits"] == 1


def test_everything_offered_is_recorded_queued_or_dropped(
    tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    def endpoint(environ: dict[str, Any]) -> str:
        if environ["PATH_INFO"] == "/broken":
            raise RuntimeError("their bug")
        return "/all"

    tracker = tracked(endpoint=endpoint, max_spool_bytes=20_000)
    app = webtest.TestApp(tracker)
    for number in range(150):
        app.get("/broken" if number % 50 == 0 else "/")
    tracker._spool.write_counts()

    recorded = app.get("/api/tracking/summary").json["total_hits"]

    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        counts = dict(connection.execute("SELECT name, value FROM counts"))
    assert counts["recorded"] == recorded
    assert counts["recorded"] + counts["dropped"] == 150
