"""The spool beside other threads and greenlets: it closes, logs and counts, and loses no visit."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import GOOD, Host

from wsgi_tracker.spool import Spool

PATIENCE_SECONDS = 60
GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent, logging, sys
from pathlib import Path
from wsgi_tracker.spool import Spool

class NoLock:
    def acquire(self): pass
    def release(self): pass
    def __enter__(self): pass
    def __exit__(self, *error): pass

class Yields(logging.Handler):
    def createLock(self):
        self.lock = NoLock()  # as of a handler that sends, and does not make others wait

    def emit(self, record):
        gevent.sleep(0)

logging.getLogger("wsgi_tracker").addHandler(Yields())
folder, line = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
spool = Spool(folder)
if sys.argv[3] == "refused":
    folder.write_text("no folder")
else:
    spool.append(line)
    for name in folder.iterdir():
        name.unlink()

def run():
    for _ in range(10):
        spool.append(line)
        spool.tend()

gevent.joinall([gevent.spawn(run) for _ in range(2)], raise_error=True)
print("finished")
"""


@pytest.mark.parametrize("fault", ["refused", "deleted"])
def test_log_handler_that_yields_stops_no_greenlet(fault: str, tmp_path: Path) -> None:
    """The second waited for a lock of the first, which never came to run again."""
    pytest.importorskip("gevent")

    worker = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GREENLETS, tmp_path / "spool", GOOD.hex(), fault],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )

    assert (worker.stdout, worker.returncode) == ("finished\n", 0), worker.stderr


@pytest.fixture
def hasty() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_closing_beside_threads_that_write_loses_no_visit_and_hits_no_stranger(
    host: Host, tmp_path: Path
) -> None:
    """A stranger's file got the closed segment's number, and with it the lines of visits."""
    spool, kept, refused = Spool(host.folder), itertools.count(), itertools.count()
    barrier, finished, written = threading.Barrier(4), [], threading.Event()
    stranger = tmp_path / "stranger"

    def write() -> None:
        barrier.wait(PATIENCE_SECONDS)
        for _ in range(2000):
            next(kept if spool.append(GOOD) else refused)
            written.set()
        finished.append(1)
        written.set()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait(PATIENCE_SECONDS)
    while len(finished) < len(threads):
        spool.close()
        fd = os.open(stranger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        written.clear()
        if len(finished) < len(threads):
            assert written.wait(PATIENCE_SECONDS)
        os.close(fd)
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    spool.close()
    host.ingest()

    assert stranger.read_bytes() == b""
    assert (next(kept), next(refused)) == (6000, 0)
    assert host.counts() == {"recorded": 6000}
    assert host.segments() == []


def test_spool_that_is_gone_keeps_no_descriptor(tmp_path: Path) -> None:
    def use() -> None:
        spool = Spool(tmp_path / "spool")
        spool.append(GOOD)
        spool.close()
        spool.close()

    use()
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        use()

    assert len(os.listdir("/dev/fd")) == before


def test_descriptor_of_a_closed_spool_is_used_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append(GOOD)
    descriptor = spool._segment.fd
    spool.close()
    os.fstat(descriptor)
    spool.append(GOOD)

    assert spool._segment.fd == descriptor
    spool.close()


# --- drops -----------------------------------------------------------------------------------------


def test_full_spool_takes_the_counts_of_a_process_that_has_no_segment(host: Host) -> None:
    """They waited for room, and died with the process."""
    first, told = Spool(host.folder, max_bytes=1), []
    second = Spool(host.folder, max_bytes=1, on_open=lambda: told.append(1))
    assert first.append(GOOD)

    for _ in range(5):
        assert not second.append(GOOD)
        second.tend()

    assert told == [1]
    assert not second.writable
    assert len(host.segments()) == 2  # one for the whole outage
    host.ingest()
    assert host.counts() == {"recorded": 1, "dropped": 5}
    second.drop(2)
    second.close()
    first.close()
    host.ingest()
    assert host.counts() == {"recorded": 1, "dropped": 7}
    assert host.segments() == []


def test_quiet_spool_finds_out_that_it_is_writable_again(
    host: Host, spool_clock: list[float]
) -> None:
    """After one short write, reports said for ever that visits are dropped."""
    spool = Spool(host.folder)
    spool.append(GOOD)
    spool._segment._path = Path("/dev/full")
    os.dup2(unwritable := os.open(spool._segment._path, os.O_WRONLY), spool._segment.fd)
    os.close(unwritable)
    assert not spool.append(GOOD)

    seen = [spool.writable]
    spool.tend()  # counts alone prove nothing
    seen.append(spool.writable)
    spool_clock[0] += 1
    seen.append(spool.writable)

    assert seen == [False, False, True]
    spool.close()
    host.ingest()
    assert host.counts() == {"recorded": 1, "dropped": 1}
