"""A child that was forked without Python's hooks, as uWSGI forks: it finds out by itself.

Forks that run the hooks are tested where each thing that registers one is.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from calls import ASKING
from hosts import GOOD, Host

from wsgi_tracker.own_segment import LOOK_BYTES

PATIENCE_SECONDS = 120
# PyDLL keeps the GIL, as who forks from C must.
FORK = """
import ctypes, json, os, signal, sys, threading, time

def fork():
    # A child waits for ever for a thread of its parent's that had asked it for the GIL.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    child = ctypes.PyDLL(None).fork()
    sys.setswitchinterval(interval)
    signal.alarm(60)  # nobody hangs for ever
    return child
"""


def run(script: str, *arguments: Any) -> Any:
    """Run a process that forks; return what it prints as JSON."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return json.loads(process.stdout)


SPOOL = """
from pathlib import Path
from wsgi_tracker.spool import Spool
spool, line = Spool(Path(sys.argv[1])), bytes.fromhex(sys.argv[2])
spool.append(line)
spool.drop(3)
spool._lock.acquire()  # as another thread of the parent may have at that moment
child = fork()
if not child:
    kept = sum(spool.append(line) for _ in range(500))
    spool.drop(4)
    names = len(os.listdir(spool.folder))
    spool.close()
    os._exit(0 if (kept, names) == (500, 2) else 1)
spool._lock.release()
kept = sum(spool.append(line) for _ in range(500))
status = os.waitpid(child, 0)[1]
kept += spool.append(line)
spool.close()
print(json.dumps([status, kept]))
"""


def test_child_moves_to_a_segment_of_its_own_and_counts_its_own_drops(host: Host) -> None:
    status, kept = run(SPOOL, host.folder, GOOD.hex())

    host.ingest()

    assert (status, kept) == (0, 501)
    assert host.counts() == {"recorded": 1002, "dropped": 7}
    assert host.segments() == []


TRACKER = """
database, requests, child_ends = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def seconds_to_close():
    began = time.monotonic()
    tracker.close()
    return time.monotonic() - began

tracker = Tracker(hello, database, require_token=False)
for _ in range(10):
    ask("/parent")
assert hits() == 10
ingester, gate, arrived = tracker._backend.ingester, threading.Lock(), threading.Event()

def wait_at_gate():
    arrived.set()
    gate.acquire()

# No hook brings the parent's thread to rest: here it wants no GIL, which a child would wait for, too.
gate.acquire()
sys.setswitchinterval(60)
ingester._on_wake = wait_at_gate
assert arrived.wait(60), "nobody ingests"
mutex = ingester._host_lock._mutex
mutex._before_fork()
forked = fork()
sys.setswitchinterval(0.005)
if not forked:
    woken = threading.Event()
    ingester._on_wake = woken.set
    for _ in range(requests):
        ask("/child")
    if requests:
        assert woken.wait(60), "nobody ingests in the child"
    seconds = seconds_to_close()
    assert seconds < 2.5, seconds
    ask("/child")
    assert hits() >= 10 + requests + 1
    if child_ends == "exit":
        sys.exit(0)
    os._exit(0)  # as if killed
ingester._on_wake = lambda: None
gate.release()
mutex._after_fork_in_parent()
for _ in range(100):
    ask("/parent")
status = os.waitpid(forked, 0)[1]
for _ in range(10):
    ask("/parent")
print(json.dumps([status, hits(), seconds_to_close()]))
"""


@pytest.mark.parametrize("child_ends", ["exit", "killed"])
@pytest.mark.parametrize(
    # As many as have the child look at its segment, and start its thread.
    "requests",
    [pytest.param(2 * LOOK_BYTES // 200, id="serves"), pytest.param(0, id="closes at once")],
)
def test_parent_and_child_both_go_on_and_every_visit_counts_once(
    requests: int, child_ends: str, tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"

    status, hits, seconds = run(ASKING + TRACKER, database, requests, child_ends)

    assert (status, hits) == (0, 120 + requests + 1)
    assert seconds < 2.5
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute(
            "SELECT endpoint, count(*) FROM user_visits GROUP BY 1 ORDER BY 1"
        ).fetchall() == [("/child", requests + 1), ("/parent", 120)]
        assert connection.execute("SELECT name FROM counts").fetchall() == [("recorded",)]
