"""The writer's side of the spool: a visit is in the file, or it is counted as dropped."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import os
import re
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

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.own_segment import LOOK_BYTES
from wsgi_tracker.segments import SUFFIX, Segment
from wsgi_tracker.spool import Spool

PATIENCE_SECONDS = 30
LINE = Visit(1_755_081_000_000_000, "a" * 32, "GET", "/boxes").line()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "visits.db-spool"


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., Spool]]:
    spools = []

    def make(**options: Any) -> Spool:
        spool = Spool(folder, **options)
        spools.append(spool)
        return spool

    yield make
    for spool in spools:
        spool.close()


def segments(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(f"*{SUFFIX}")}


def lines(folder: Path) -> list[bytes]:
    """Return every whole line of every segment, headers left out."""
    found = []
    for name in segments(folder):
        found += (folder / name).read_bytes().splitlines(keepends=True)[1:]
    return found


def has_writer(folder: Path, name: str) -> bool:
    segment = Segment(folder, name)
    try:
        return not segment.lock()
    finally:
        segment.close()


def ingest(folder: Path) -> dict[str, int]:
    """Move the spool to storage; return what storage has counted."""
    storage = open_storage(folder.parent / "visits.db")
    ingester = Ingester(storage, folder)
    while ingester.run_once():
        pass
    storage.close()
    with closing(sqlite3.connect(folder.parent / "visits.db")) as connection:
        return dict(connection.execute("SELECT name, value FROM counts"))


def fill_disk(spool: Spool) -> None:
    """Let every further write to the open segment fail as on a full disk."""
    spool._segment._path = Path("/dev/full")
    full = os.open(spool._segment._path, os.O_WRONLY)
    os.dup2(full, spool._segment.fd)
    os.close(full)


needs_full_device = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="no /dev/full on this system"
)


# --- segments ------------------------------------------------------------------------------------


def test_segment_is_named_by_its_first_line(folder: Path, make: Callable[..., Spool]) -> None:
    make().append(LINE)

    (name,) = segments(folder)
    first, second = (folder / name).read_bytes().splitlines(keepends=True)
    assert re.fullmatch(r"[0-9a-f]{32}\.ndjson", name)
    assert json.loads(first) == {"segment": name.removesuffix(SUFFIX)}
    assert second == LINE


def test_nothing_is_created_before_the_first_visit(
    folder: Path, make: Callable[..., Spool]
) -> None:
    spool = make()

    assert spool.writable
    assert not folder.exists()


def test_owner_alone_may_read_whatever_the_umask_says(
    folder: Path, make: Callable[..., Spool]
) -> None:
    before = os.umask(0)
    try:
        make().append(LINE)
    finally:
        os.umask(before)

    (name,) = segments(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / name).stat().st_mode & 0o777 == 0o600


def test_rotation_keeps_the_descriptor_and_leaves_the_old_segment(
    folder: Path, make: Callable[..., Spool]
) -> None:
    spool = make(segment_bytes=5000)
    spool.append(LINE)
    (first,), descriptor = segments(folder), spool._segment.fd

    while len(segments(folder)) == 1:
        assert spool.append(LINE)

    (second,) = segments(folder) - {first}
    assert spool._segment.fd == descriptor
    assert (has_writer(folder, first), has_writer(folder, second)) == (False, True)


def test_owner_is_told_of_every_segment(folder: Path, make: Callable[..., Spool]) -> None:
    opened: list[int] = []
    spool = make(segment_bytes=4096, on_open=lambda: opened.append(1))

    for _ in range(10_000 // len(LINE)):
        spool.append(LINE)

    assert len(opened) == len(segments(folder)) == 3


def test_writer_takes_another_segment_when_an_ingester_has_locked_its_own(
    folder: Path, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, held = fcntl.flock, []

    def ingester_is_faster(fd: int, operation: int) -> None:
        if not held:
            (name,) = segments(folder)
            held.append(os.open(folder / name, os.O_RDONLY))
            flock(held[0], fcntl.LOCK_EX)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", ingester_is_faster)

    assert make().append(LINE)

    assert len(segments(folder)) == 2
    assert lines(folder) == [LINE]
    os.close(held[0])


def test_closed_spool_opens_another_segment(folder: Path, make: Callable[..., Spool]) -> None:
    spool = make()
    spool.append(LINE)
    (first,) = segments(folder)

    spool.close()
    spool.close()
    had_writer = has_writer(folder, first)
    assert spool.append(LINE)

    assert not had_writer
    assert len(segments(folder)) == 2


FORKING = """
import os, sys
from pathlib import Path
from wsgi_tracker.own_segment import LOOK_BYTES
from wsgi_tracker.spool import Spool

spool, line = Spool(Path(sys.argv[1])), bytes.fromhex(sys.argv[2])
spool.append(line)
before = os.listdir(sys.argv[1])
child = os.fork()
if not child:
    assert spool.append(line) and spool.append(line)
    spool.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert spool.append(line)
print(*before, flush=True)
sys.stdin.readline()
"""


def test_forked_child_writes_a_segment_of_its_own(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, str(folder), LINE.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        own = parent.stdout.readline().strip()
        (other,) = segments(folder) - {own}
        writers = {name: has_writer(folder, name) for name in (own, other)}
        found = {name: (folder / name).read_bytes().count(LINE) for name in (own, other)}
        parent.communicate("\n", timeout=PATIENCE_SECONDS)

    assert found == {own: 2, other: 2}
    assert writers == {own: True, other: False}


# --- a stranger in the folder --------------------------------------------------------------------


def test_deleted_folder_costs_no_visit_and_counts_none_twice(
    folder: Path, make: Callable[..., Spool], caplog: pytest.LogCaptureFixture
) -> None:
    """Lines went to the deleted file until it was full, and nothing said so."""
    spool = make()
    spool.append(LINE)
    ingest(folder)
    spool.append(LINE)
    shutil.rmtree(folder)
    spool.append(LINE)

    for _ in range(3):
        spool.tend()
    spool.append(LINE)

    assert len(segments(folder)) == 2
    assert len(caplog.messages) == 1
    assert "was deleted" in caplog.messages[0]
    assert ingest_after(spool, folder) == {"recorded": 4}


def test_truncated_segment_is_left(folder: Path, make: Callable[..., Spool]) -> None:
    spool = make()
    for _ in range(3):
        spool.append(LINE)
    spool.tend()
    ingest(folder)
    (name,) = segments(folder)
    os.truncate(folder / name, 0)
    spool.append(LINE)
    spool.tend()
    spool.append(LINE)

    assert len(segments(folder)) == 2
    assert ingest_after(spool, folder) == {"recorded": 5}
    assert segments(folder) == set()


@pytest.mark.parametrize("attempts", [1, 3])
def test_deleted_segment_is_kept_until_its_disk_has_room(
    attempts: int,
    folder: Path,
    make: Callable[..., Spool],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was closed when the attempt had failed, with all that it held."""
    real = os.write

    def refuse_much(fd: int, data: bytes) -> int:
        return real(fd, data[:1000])

    spool = make()
    for _ in range(20):
        spool.append(LINE)
    shutil.rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse_much)
        for _ in range(attempts):
            spool.tend()
            assert spool.append(LINE)
    left = sorted(path.suffix for path in folder.iterdir())
    spool.tend()

    assert left == [SUFFIX]
    assert sum("put back" in message for message in caplog.messages) == 2
    assert "No space left" in caplog.text
    assert ingest_after(spool, folder) == {"recorded": 20 + attempts}


def test_deleted_segment_that_takes_no_more_is_kept(
    folder: Path, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    for _ in range(3):
        spool.append(LINE)
    shutil.rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: 0)
        assert not spool.append(LINE)

    assert ingest_after(spool, folder) == {"recorded": 3, "dropped": 1}


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_process_that_only_records_notices_that_its_segment_is_gone(
    how: str, folder: Path, make: Callable[..., Spool]
) -> None:
    """Only an ingest thread looked; a folder that was moved, nobody noticed."""
    spool = make()
    spool.append(LINE)
    if how == "moved":
        folder.rename(folder.with_name("elsewhere"))
    else:
        (name,) = segments(folder)
        (folder / name).unlink()
        if how == "replaced":
            (folder / name).write_bytes(b"")

    count = (LOOK_BYTES // len(LINE)) + 2
    for _ in range(count):
        spool.append(LINE)
    seen = len(segments(folder))
    stored = ingest(folder)
    spool.append(LINE)
    shutil.rmtree(folder)  # and again, before it is closed
    spool.close()

    assert seen == 2
    assert stored == {"recorded": count + 1}
    assert ingest(folder) == {"recorded": count + 2}


def test_rotation_puts_a_deleted_segment_back(folder: Path, make: Callable[..., Spool]) -> None:
    spool = make(segment_bytes=5000)
    spool.append(LINE)
    shutil.rmtree(folder)
    kept = 1
    while not folder.exists():
        kept += spool.append(LINE)

    assert ingest_after(spool, folder) == {"recorded": kept}


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from wsgi_tracker.spool import Spool

folder, line = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
spool = Spool(folder)
spool.append(line)
shutil.rmtree(folder)
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)  # of what is put back, not yet named
spool.tend()
"""


def test_what_a_killed_process_had_nearly_put_back_is_stored(
    folder: Path, make: Callable[..., Spool]
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folder, LINE.hex()],
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    left = list(folder.glob("*.restoring"))
    spool = make()
    spool.append(LINE)

    assert killed.returncode == -signal.SIGKILL
    assert len(left) == 1
    assert ingest_after(spool, folder) == {"recorded": 2}
    assert not list(folder.glob("*.restoring"))


def test_restored_segment_is_on_the_disk_when_asked_for(
    folder: Path, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synced = os.fsync, []

    def note(fd: int) -> None:
        real(fd)
        synced.append((os.fstat(fd).st_ino, len(segments(folder))))

    spool = make(fsync=True)
    spool.append(LINE)
    shutil.rmtree(folder)
    spool.append(LINE)
    monkeypatch.setattr(os, "fsync", note)

    spool.tend()

    assert synced[-2:] == [(folder.stat().st_ino, 2), (folder.parent.stat().st_ino, 2)]


def test_segment_that_grows_is_kept(folder: Path, make: Callable[..., Spool]) -> None:
    spool = make()
    for _ in range(5):
        spool.append(LINE)
        spool.tend()

    assert len(segments(folder)) == 1


def test_segment_that_cannot_be_named_is_not_left_behind(
    folder: Path, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk gathered an empty file every second."""
    real = os.write

    def write_little(fd: int, data: bytes) -> int:
        return real(fd, data[:5])

    monkeypatch.setattr(os, "write", write_little)

    assert not make().append(LINE)
    assert segments(folder) == set()


# --- fsync -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", [True, False])
def test_lines_and_names_are_on_the_disk_when_asked_for(
    fsync: bool, folder: Path, make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synced = os.fsync, []

    def count(fd: int) -> None:
        real(fd)
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", count)
    spool = make(fsync=fsync, segment_bytes=5000)

    spool.append(LINE)
    flags = [fcntl.fcntl(spool._segment.fd, fcntl.F_GETFL)]
    while len(segments(folder)) == 1:
        spool.append(LINE)
    flags.append(fcntl.fcntl(spool._segment.fd, fcntl.F_GETFL))

    # The kernel syncs each write by itself: after a rotation, too.
    assert [bool(flag & os.O_DSYNC) for flag in flags] == [fsync] * 2
    folders = [folder.stat().st_ino, folder.parent.stat().st_ino]
    assert synced == (folders * 2 if fsync else [])


# --- what cannot be written is counted -----------------------------------------------------------


@needs_full_device
def test_no_segment_is_opened_for_a_second_after_a_failure(
    folder: Path,
    make: Callable[..., Spool],
    spool_clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = make()
    spool.append(LINE)
    fill_disk(spool)

    refused = [spool.append(LINE) for _ in range(3)]
    spool_clock[0] += 0.999
    refused.append(spool.append(LINE))
    within, was_writable = len(segments(folder)), spool.writable
    spool_clock[0] += 0.001
    kept = spool.append(LINE)

    assert (refused, within, was_writable) == ([False] * 4, 1, False)
    assert (kept, len(segments(folder)), spool.writable) == (True, 2, True)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "No space left on device" in messages[0]
    assert "works again" in messages[1]
    assert ingest_after(spool, folder) == {"recorded": 2, "dropped": 4}


def ingest_after(spool: Spool, folder: Path) -> dict[str, int]:
    spool.write_counts()
    spool.close()
    return ingest(folder)


def test_drops_are_remembered_until_they_can_be_written(
    folder: Path, make: Callable[..., Spool], spool_clock: list[float]
) -> None:
    folder.write_text("no folder")
    spool = make()

    for _ in range(5):
        assert not spool.append(LINE)
        spool.write_counts()
    spool.close()
    folder.unlink()
    spool_clock[0] += 1
    assert spool.append(LINE)

    assert ingest_after(spool, folder) == {"recorded": 1, "dropped": 5}


def test_drops_of_a_process_that_recorded_nothing_are_counted(
    folder: Path, make: Callable[..., Spool]
) -> None:
    spool = make()
    spool.drop(3)
    spool.close()
    spool.close()

    assert ingest(folder) == {"dropped": 3}
    assert segments(folder) == set()


def test_error_that_names_another_file_each_time_is_logged_once(
    folder: Path,
    make: Callable[..., Spool],
    spool_clock: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk without inodes, or a folder without permission, logged a line every second."""
    folder.mkdir()
    spool = make()

    def refuse(path: Path, *args: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for _ in range(3):
            spool.append(LINE)
            spool_clock[0] += 1

    assert len(caplog.messages) == 1
    assert "Permission denied; make room" in caplog.messages[0]


def test_full_spool_takes_visits_again_once_it_was_ingested(
    folder: Path,
    make: Callable[..., Spool],
    spool_clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = make(max_bytes=20_000)
    kept = sum(spool.append(LINE) for _ in range(500))
    size = sum(path.stat().st_size for path in folder.glob("*"))
    spool.write_counts()

    first = ingest(folder)
    spool_clock[0] += 1
    kept += sum(spool.append(LINE) for _ in range(10))

    assert 20_000 <= size <= 20_000 + 4096
    assert "max_spool_bytes=20000" in caplog.text
    assert first["recorded"] + first["dropped"] == 500
    assert kept == first["recorded"] + 10
    assert ingest_after(spool, folder) == {"recorded": kept, "dropped": 510 - kept}


def test_threads_at_a_full_spool_lose_no_count(folder: Path, make: Callable[..., Spool]) -> None:
    spool = make(max_bytes=30_000, segment_bytes=4096)
    barrier, kept = threading.Barrier(8), itertools.count()

    def write() -> None:
        barrier.wait(PATIENCE_SECONDS)
        for _ in range(100):
            if spool.append(LINE):
                next(kept)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    recorded = next(kept)
    assert 0 < recorded < 800
    assert ingest_after(spool, folder) == {"recorded": recorded, "dropped": 800 - recorded}


def test_error_is_logged_once_while_it_lasts(
    folder: Path,
    make: Callable[..., Spool],
    spool_clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder.write_text("no folder")
    spool = make()

    for _ in range(5):
        spool.append(LINE)
        spool_clock[0] += 1

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert str(folder) in caplog.text


SHORT_WRITE = """
import resource, signal, sys
from pathlib import Path
from wsgi_tracker.own_segment import LOOK_BYTES
from wsgi_tracker.spool import Spool

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
spool, line = Spool(Path(sys.argv[1])), bytes.fromhex(sys.argv[2])
kept = sum(spool.append(line) for _ in range(100))
if sys.argv[3] == "counts first":
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    spool.write_counts()
else:
    spool.write_counts()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    spool._retry_at = 0.0  # the second is over
    kept += spool.append(line)
    spool.write_counts()
print(kept)
spool.close()
"""


@pytest.mark.parametrize(
    ("order", "offered"),
    [
        pytest.param("visit first", 101, id="a visit is the next to be written"),
        pytest.param("counts first", 100, id="the counts are the next to be written"),
    ],
)
def test_every_visit_is_accounted_for_after_a_short_write(
    order: str, offered: int, folder: Path
) -> None:
    """Counts that were glued to the torn line went to rejected.ndjson, and were lost."""
    writer = subprocess.run(
        [sys.executable, "-c", SHORT_WRITE, str(folder), LINE.hex(), order],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )

    counts = ingest(folder)

    assert counts["recorded"] == int(writer.stdout)
    assert counts["torn"] == 1
    assert sum(counts.values()) == offered
