"""Several threads fork at once: each fork brings the process to rest, and lets all of it go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120
PREPARE = """
import json, os, sqlite3, sys, threading
from pathlib import Path
from wsgi_tracker import process
from wsgi_tracker.hostlock import HostLock
from wsgi_tracker.storage.sqlite.pool import ConnectionPool, PooledConnection

folder = Path(sys.argv[1])
database = folder / "pool.db"
sqlite3.connect(database).close()
host_lock = HostLock(folder)
pool = ConnectionPool(  # the newer: forks meet in its hook first
    database,
    lambda writing: sqlite3.connect(database, check_same_thread=False, factory=PooledConnection),
)

def fork():
    child = os.fork()
    if not child:
        os._exit(0 if not process._forks._turn.locked() and free() == (8, True) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def free():
    slots = 0
    while pool._slots.acquire(blocking=False):
        slots += 1
    for _ in range(slots):
        pool._slots.release()
    with host_lock._mutex.held() as is_free:
        return slots, is_free

def report(results):
    print(json.dumps([results, *free(), process._forks._turn.locked()]))
"""


def run(script: str, folder: Path) -> Any:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREPARE + script, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return json.loads(process.stdout)


AT_ONCE = """
import time
sys.setswitchinterval(1e-6)
barrier, codes = threading.Barrier(3, timeout=60), []

def fork_often():
    for _ in range(10):
        barrier.wait()
        codes.append(fork())
        barrier.wait()

threads = [threading.Thread(target=fork_often) for _ in range(2)]
for thread in threads:
    thread.start()
began = time.monotonic()
for _ in range(10):
    with pool.reader():
        barrier.wait()
        for _ in range(300):  # both threads are about to fork, and wait for this
            os.sched_yield()
    barrier.wait()
for thread in threads:
    thread.join()
report([len(codes), sum(codes), time.monotonic() - began < 60])
"""


def test_forks_of_two_threads_lose_no_connection_and_no_lock(tmp_path: Path) -> None:
    """Each forgot what the other's fork held: after 16 forks nothing could be read any more."""
    assert run(AT_ONCE, tmp_path) == [[20, 0, True], 8, True, False]


UNHAPPY = """
class Thing:
    def fork_once_more(self):
        if not codes:
            codes.append(None)
            codes.append(fork())

    def fail(self):
        raise RuntimeError("a hook that fails")

codes, thing, ignored = [], Thing(), []
sys.unraisablehook = ignored.append
process.watch_forks(before=thing.fork_once_more)
codes.append(fork())
process.watch_forks(before=thing.fail)
codes.append(fork())
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
if os.getuid() == 0:
    os.setuid(65534)  # root may always fork
try:
    codes.append(fork())
except BlockingIOError:
    codes.append("refused")
report(codes)
"""


def test_turn_is_given_back_whatever_goes_wrong(tmp_path: Path) -> None:
    """A fork inside a hook, a hook that raises, a fork that the system refuses."""
    assert run(UNHAPPY, tmp_path) == [[None, 0, 0, 0, "refused"], 8, True, False]


WITHOUT_HOOKS = """
import ctypes, time
process._forks.before()  # as another thread of the parent may be at that moment
child = ctypes.PyDLL(None).fork()
if not child:
    process._forks._thread = 1  # that thread is not here
    began = time.monotonic()
    code = fork()
    os._exit(code if time.monotonic() - began < process.TURN_PATIENCE_SECONDS / 2 else 2)
process._forks.in_parent()
report([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
"""


def test_child_forked_without_hooks_waits_for_no_thread_of_its_parent(tmp_path: Path) -> None:
    assert run(WITHOUT_HOOKS, tmp_path) == [[0], 8, True, False]
