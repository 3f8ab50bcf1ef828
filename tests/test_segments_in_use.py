"""A segment belongs to its writer until that is gone; then to one ingester, to its last line."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest
from hosts import GOOD, OTHER, BeforeIngest, Host

from wsgi_tracker.segments import SUFFIX, Segment, header
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


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_replaces_a_segment_stops_nothing(kind: str, host: Host, tmp_path: Path) -> None:
    path = host.segment(GOOD)
    host.ingest()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(header("d" * 32) + GOOD)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    host.segment(OTHER)

    host.ingest()

    assert host.hits() == 2
    assert host.ingester.catch_up(30).size_bytes == 0
    # Replaced between the listing and the opening: an error, and no waiting for a writer.
    with pytest.raises(OSError, match=path.name if kind == "link" else "Errno"):
        Segment(host.folder, path.name)


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_replaces_the_rejected_lines_stops_no_visit(
    kind: str, host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = host.folder / "rejected.ndjson"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        host.segment(b"garbage\n" + GOOD)
        host.ingest()
    path.unlink()
    host.segment(b"more garbage\n" + GOOD)
    host.ingest()

    assert not (tmp_path / "elsewhere").exists()
    assert host.rejected() == b"more garbage\n"
    assert host.counts() == {"recorded": 3, "rejected": 3}
    failed, over = [message for message in caplog.messages if "not kept" in message]
    assert "rejected.ndjson" in failed
    assert "works again" in over


def test_live_segment_that_was_cut_stops_nothing(host: Host) -> None:
    """What lies before the position is taken for stored; all behind it counts."""
    spool = Spool(host.folder)
    for _ in range(4):
        spool.append(GOOD)
    host.ingest()
    (name,) = host.segments()
    os.truncate(host.folder / name, len(header("")) + 32 + len(GOOD))

    host.ingest()
    assert host.ingester.catch_up(30).size_bytes == 0
    for _ in range(4):
        spool.append(OTHER)
    host.ingest()
    spool.close()
    host.ingest()

    assert (host.hits(), host.segments()) == (5, [])
