"""The tracked application under running, and what is true of it after any outage."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from load import Load
from servers import Server, gunicorn

PATIENCE_SECONDS = 60
SLOW_SECONDS = 5  # what a busy machine may take; an application that waited for us would take 30
WORKERS = 2
WAITS = "visits wait in the spool: "


@contextmanager
def server(
    database: Path | str,
    spool_bytes: int = 64 << 20,
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve the application that is tracked in ``database``, whose folder is meant if none is given."""
    with gunicorn(
        "faultapp:tracked()",
        folder=folder or Path(database).parent,
        workers=WORKERS,
        options=["--worker-class", "gthread", "--threads", "4"],
        python_path=[Path(__file__).parent],
        environ={
            "FAULTS_DATABASE": str(database),
            "FAULTS_SPOOL_BYTES": str(spool_bytes),
            "PYTHONDEVMODE": "",
            **(environ or {}),
        },
    ) as running:
        yield running


def wait_until(load: Load, reached: Callable[[], object], what: str) -> None:
    """Let requests go on until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, what
        load.wait_for(1)


def check_answers(load: Load, running: Server) -> None:
    """Clients have noticed nothing, and no process has died."""
    assert load.crossed == set()
    assert load.unanswered == set()
    assert load.slowest_seconds < SLOW_SECONDS
    assert len(load.workers) <= WORKERS
    assert not re.search("Traceback|SIG(?!TERM)|exited", running.log), running.log


def messages(running: Server) -> tuple[list[str], list[str]]:
    """Return what was logged of outages: their beginnings, and their ends."""
    lines = [line for line in running.log.splitlines() if line.startswith(WAITS)]
    ends = [line for line in lines if line.endswith("works again")]
    return [line for line in lines if line not in ends], ends


def files_of(database: Path) -> list[Path]:
    """Return the database, its log and its shared memory."""
    return [database, *database.parent.glob(database.name + "-???")]


@contextmanager
def paused(running: Server) -> Iterator[None]:
    """Stop every process: SQLite has no word for files that change while it works."""
    os.killpg(running.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(running.process.pid, signal.SIGCONT)
