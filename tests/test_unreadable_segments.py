"""A segment that cannot be read stops no other, and no report says that it holds everything."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nobody
import pytest
from hosts import GOOD, OTHER, Host, many

from wsgi_tracker.errors import StorageError
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.segments import SUFFIX, Segment, header
from wsgi_tracker.spool import Spool

HEADER_BYTES = len(header("f" * 32))


class Disk:
    """A disk that fails to read one file, from a position on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = os.pread
        self._inode = -1
        self._good_bytes = 0
        monkeypatch.setattr(os, "pread", self._read)

    def fail(self, path: Path, good_bytes: int) -> None:
        self._inode, self._good_bytes = path.stat().st_ino, good_bytes

    def repair(self) -> None:
        self._inode = -1

    def _read(self, fd: int, size: int, position: int) -> bytes:
        if os.fstat(fd).st_ino == self._inode and position >= self._good_bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._real(fd, size, position)


@pytest.mark.parametrize("good_bytes", [0, 1, HEADER_BYTES])
def test_segment_whose_disk_fails_stops_no_other(
    good_bytes: int, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)
    bad = host.segment(many(300))
    host.segment(OTHER)
    disk.fail(bad, good_bytes)

    for _ in range(3):
        host.ingester.look_again()
        host.ingester.wake()
    queue = host.ingester.catch_up(30)
    before = host.hits()
    disk.repair()
    host.ingest()

    assert (before, queue.size_bytes) == (1, len(many(300)))
    refused, over = caplog.messages
    assert bad.name in refused
    assert "Input/output error" in refused
    assert "works again" in over
    assert host.counts() == {"recorded": 301}
    assert host.segments() == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_few_descriptors_are_no_fault_of_a_segment(
    number: int, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(GOOD)
    real = os.open

    def refuse(path: Any, *args: Any) -> int:
        if str(path).endswith(SUFFIX):
            raise OSError(number, os.strerror(number))
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(StorageError, match="open enough files"):
        host.ingest()


INGESTS_AS_NOBODY = """
import logging, sys
from pathlib import Path
from nobody import become_nobody
from wsgi_tracker import open_storage
from wsgi_tracker.ingest import Ingester

logging.basicConfig(stream=sys.stdout)
storage = open_storage(sys.argv[1])
with storage.snapshot():
    pass
storage.close()
become_nobody()
ingester = Ingester(storage, Path(sys.argv[1] + "-spool"))
for number in range(3):
    ingester.wake()
with storage.snapshot() as snapshot:
    print(snapshot.summary().total_hits)
storage.close()
"""


def test_segment_of_another_user_is_left_and_logged_once() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        host = Host(Path(name))
        host.segment(GOOD).chmod(0)
        host.segment(OTHER).chmod(0o644)
        for path in (Path(name), host.folder, host.database):
            path.chmod(0o777)

        said = nobody.run(INGESTS_AS_NOBODY, host.database)

    lines = [line for line in said if "other users" not in line]
    assert lines[-1] == "1"
    assert len(lines) == 2
    assert "no permission to read" in lines[0]


ASKS_AS_NOBODY = """
import json, sys
from calls import answering, environ
from nobody import become_nobody
from wsgi_tracker import Tracker

tracker = Tracker(answering([b"a"]), sys.argv[1], ingest=False, require_token=False)
become_nobody()

for report in ("health", "summary", "health"):
    headers = []
    def start_response(status, fields, exc_info=None):
        headers.extend(fields)
    body = tracker(environ("/api/tracking/" + report), start_response)
    print(json.dumps([dict(headers).get("Wsgi-Tracker-Queued"), json.loads(b"".join(body))]))
"""


def test_report_and_health_say_what_another_user_keeps() -> None:
    """They claimed to be complete: nothing was queued, and no header said otherwise."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        host = Host(Path(name))
        theirs = host.segment(GOOD * 3)
        theirs.chmod(0)
        stored = host.segment(GOOD)
        shutil.copy(stored, Path(name) / "kept")
        host.segment(OTHER).chmod(0o644)
        host.storage.close()
        for path in (Path(name), host.folder, *Path(name).glob("visits.db*")):
            path.chmod(0o777)
        stored.unlink()

        said = nobody.run(ASKS_AS_NOBODY, host.database)

    before, (header_says, summary), after = map(json.loads, said)
    for health, queued_bytes in (
        (before[1], len(GOOD * 3) + len(OTHER)),
        (after[1], len(GOOD * 3)),
    ):
        assert (health["status"], health["queued"]) == ("degraded", None)
        assert health["queued_bytes"] == queued_bytes
        (problem,) = (problem for problem in health["problems"] if "wait" not in problem)
        assert f"no permission to read {theirs.name}" in problem
    assert (header_says, summary["total_hits"]) == (str(len(GOOD * 3)), 1)


def test_stored_segment_of_another_user_is_no_problem(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    spool = Spool(host.folder)
    spool.append(GOOD)
    host.ingest()
    (name,) = host.segments()
    disk.fail(host.folder / name, 0)

    assert Ingester(host.storage, host.folder).catch_up(30).size_bytes == 0
    disk.repair()
    spool.close()


# --- what a report waits for ---------------------------------------------------------------------


def test_report_of_a_new_database_holds_what_is_still_in_the_spool(host: Host) -> None:
    """What had been read to its end for the old one was not looked at."""
    spool = Spool(host.folder)
    for _ in range(10):
        spool.append(GOOD)
    host.ingester.catch_up(30)
    for path in host.database.parent.glob("visits.db*"):
        if path.is_file():
            path.unlink()

    queue = host.ingester.catch_up(30)

    assert (queue.size_bytes, host.hits()) == (0, 10)
    spool.close()


def test_batch_for_the_old_database_hides_nothing_from_the_new_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(host.folder)
    spool.append(GOOD)
    store = host.ingester._store

    def store_and_replace(reading: Any) -> None:
        store(reading)
        monkeypatch.undo()
        host.storage.close()
        for path in host.database.parent.glob("visits.db*"):
            if path.is_file():
                path.unlink()
        host.ingester._backlog()  # as a report of another thread does

    monkeypatch.setattr(host.ingester, "_store", store_and_replace)
    host.ingester.run_once()

    assert host.ingester.catch_up(30).size_bytes == 0
    assert host.hits() == 1
    spool.close()


@pytest.mark.parametrize("name", ["0-copy.ndjson", "z-copy.ndjson"])
def test_copy_hides_nothing_of_its_original_from_a_report(name: str, host: Host) -> None:
    """The backlog knew the end of the copy, and took it for the original's."""
    spool = Spool(host.folder)
    spool.append(GOOD)
    (original,) = host.segments()
    shutil.copy(host.folder / original, host.folder / name)
    spool.append(OTHER)

    with host.ingester._host_lock.held():
        queue = Ingester(host.storage, host.folder).catch_up(0.01)

    assert queue.size_bytes == len(GOOD + OTHER)
    spool.close()


def test_segment_that_is_named_while_a_report_looks_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was known by another id a moment later, and the report was an internal error."""
    segment = "f" * 32
    path = host.folder / (segment + SUFFIX)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    end_of_lines = Segment.end_of_lines

    def name_it(self: Segment) -> int:
        if not path.stat().st_size:
            os.write(fd, header(segment) + GOOD)
        return end_of_lines(self)

    monkeypatch.setattr(Segment, "end_of_lines", name_it)

    assert host.ingester.catch_up(30).size_bytes == 0
    assert host.hits() == 1
    os.close(fd)


def test_fault_of_who_is_woken_before_does_not_stop_ingest(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("their bug")

    ingester = Ingester(host.storage, host.folder, on_wake=fail)
    for _ in range(3):
        host.segment(GOOD)
        ingester.look_again()
        ingester.wake()
    host.segment(GOOD)
    ingester.catch_up(30)

    assert host.hits() == 4
    assert caplog.messages == ["the spool is not looked after: their bug"]


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_ingest_lock_is_that_of_the_folder_that_is_there(how: str, host: Host) -> None:
    """Processes that started after a move held another lock, and wrote at the same time."""
    with host.ingester._host_lock.held() as ours:
        assert ours
    if how == "moved":
        host.folder.rename(host.folder.with_name("elsewhere"))
    else:
        shutil.rmtree(host.folder)

    with host.ingester._host_lock.held() as ours:
        assert ours
        assert (host.folder / "ingest.lock").exists()
