"""Every readable line of the spool reaches storage exactly once, whatever else is there."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import webtest
from hosts import GOOD, OTHER, BeforeIngest, Host, many

from wsgi_tracker import Tracker
from wsgi_tracker.errors import StorageError
from wsgi_tracker.ingest import Ingester


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


def test_folders_and_strangers_in_the_spool_are_left_alone(host: Host) -> None:
    (host.folder / "folder.ndjson").mkdir()
    (host.folder / "notes.txt").write_text("hello")
    host.segment(GOOD)

    host.ingest()

    assert host.hits() == 1
    assert (host.folder / "notes.txt").read_text() == "hello"


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


@pytest.mark.parametrize("fsync", [True, False])
def test_every_commit_is_on_the_disk_when_asked_for(
    fsync: bool, tracked: Callable[..., Tracker]
) -> None:
    tracker = tracked(fsync=fsync)
    asked: list[bool] = []

    class Storage(BeforeIngest):
        def ingest(self, *args: Any, durable: bool, **options: Any) -> None:
            asked.append(durable)
            self._storage.ingest(*args, durable=durable, **options)
            with self._storage._file._pool.writer() as connection:
                ((level,),) = connection.execute("PRAGMA synchronous")
            asked.append(level == 2)

    tracker._backend.ingester._storage = Storage(tracker._backend.storage, lambda: None)
    app = webtest.TestApp(tracker)
    for _ in range(2):
        app.get("/")
        app.get("/api/tracking/summary")

    assert asked == [fsync] * 4


def test_segment_row_is_forgotten_after_a_month(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    with closing(sqlite3.connect(host.database, isolation_level=None)) as connection:
        connection.execute("UPDATE segments SET finished_at = finished_at - 31 * 86400")
        host.storage._forget_at = 0.0  # an hour later
        host.segment(GOOD)
        host.ingest()
        assert connection.execute("SELECT count(*) FROM segments").fetchone() == (1,)


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
        def positions(self, segments: Any) -> Any:
            waiting.set()
            return self._storage.positions(segments)

    host.ingester._storage = Storage(host.storage, lambda: None)
    thread = threading.Thread(target=lambda: queues.append(host.ingester.catch_up(30)))
    thread.start()
    assert waiting.wait(30)
    before = host.hits()
    lock_holder.communicate("\n", timeout=30)
    thread.join(30)

    assert (before, host.hits()) == (0, 1)
    assert queues[0].size_bytes == 0


FINISHED_ROWS = """
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
INSERT INTO segments SELECT printf('%032x', 1000000 + n), 100, strftime('%s', 'now') FROM n"""


def test_rows_of_finished_segments_cost_nothing(host: Host) -> None:
    """Each batch and each report read them all: 1.7 s at a month's 250,000."""
    with closing(sqlite3.connect(host.database, isolation_level=None)) as connection:
        connection.execute(FINISHED_ROWS)
    host.segment(GOOD)
    host.ingest()  # looks for forgotten ones, as once an hour
    steps: list[int] = []
    connect = host.storage._file._pool._connect

    def counting(writing: bool) -> Any:
        connection = connect(writing)
        connection.set_progress_handler(lambda: steps.append(1), 1000)
        return connection

    host.storage.close()
    host.storage._file._pool._connect = counting

    host.segment(OTHER)
    host.ingester.catch_up(30)

    assert host.hits() == 2
    assert len(steps) < 20


def test_segment_with_a_control_character_for_an_id_is_read_once(host: Host) -> None:
    for _ in range(2):
        host.segment(GOOD, segment="\0" * 32, name="odd.ndjson")
        host.ingest()

    assert host.hits() == 1
