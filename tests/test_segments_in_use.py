"""A segment belongs to its writer until that is gone; then to one ingester, to its last line."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading

import pytest
from hosts import GOOD, OTHER, BeforeIngest, Host

from wsgi_tracker.segments import SUFFIX, header
from wsgi_tracker.spool import Spool


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
    assert host.counts()["rejected"] == 1


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
