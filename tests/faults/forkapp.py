"""An application that forks while its visits are recorded and ingested, every tenth request."""

from __future__ import annotations

import concurrent.futures.thread
import ctypes
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import faultapp
from locks import ingesting

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUESTS_PER_FORK = 10
LONGEST_WAIT_SECONDS = 0.2


class ChildLeavesError(Exception):
    """Raised in a child, to end it."""


def forget_others() -> None:
    """In a child of gunicorn's pool: at its end Python would wait for a thread that is ourselves.

    And for processes that other threads of the parent had begun, which it can not.
    """
    concurrent.futures.thread._threads_queues.clear()
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]


def child_exits() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    _reap(pid)


def interpreter_exits() -> None:
    """Fork a child that runs its parent's exit handlers, and frees all that it inherited."""
    pid = os.fork()
    if not pid:
        forget_others()
        ctypes.pythonapi.Py_Exit(0)
    _reap(pid)


def child_raises() -> None:
    """Fork a child whose way out leads through the tracker."""
    pid = os.fork()
    if not pid:
        raise ChildLeavesError
    _reap(pid)


def process_ends() -> None:
    process = multiprocessing.get_context("fork").Process(target=forget_others)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process ended with {process.exitcode}")


def child_lives_on() -> None:
    if not os.fork():
        while True:
            signal.pause()


def program_lives_on() -> None:
    subprocess.Popen(["/bin/sleep", "infinity"], close_fds=False)


def c_fork_lives_on() -> None:
    """Fork as C does, without Python's hooks; while this process ingests, if it soon does."""
    libc = ctypes.PyDLL(None)
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while ingesting(Path.cwd()) != os.getpid() and time.monotonic() < deadline:
        pass
    if not libc.fork():
        while True:
            libc.pause()


def _reap(pid: int) -> None:
    status = os.waitpid(pid, 0)[1]
    if status:
        raise RuntimeError(f"the child ended with {status}")


ENDING = [child_exits, child_raises, interpreter_exits, process_ends]
LASTING = [child_lives_on, program_lives_on, c_fork_lives_on]


def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as ``faultapp`` does, and before that, now and then, fork as one of $FAULTS_FORKS."""
    number = int(environ["PATH_INFO"].rpartition("/")[2])
    if number % REQUESTS_PER_FORK == 0:
        kinds = os.environ["FAULTS_FORKS"].split()
        globals()[kinds[number // REQUESTS_PER_FORK % len(kinds)]]()
    return faultapp.answer(environ, start_response)


def tracked() -> WSGIApplication:
    """Track ``answer``, and end children that come out of it."""
    tracker = faultapp.tracked(answer)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return tracker(environ, start_response)
        except ChildLeavesError:
            os._exit(0)

    return app
