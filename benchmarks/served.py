"""What gunicorn serves for gunicorn_throughput.py: its configuration and the application.

Told by the environment: ``BENCH_FOLDER``, where workers leave their counts; ``BENCH_TRACKED``;
``BENCH_SERVER_CPU`` for everything, one or several as in ``0,1``; ``BENCH_INGEST_CPU`` for the
ingest threads.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

from wsgi_tracker import Tracker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

control_socket_disable = True  # several gunicorns of one user would meet at it
loglevel = "info"

_folder = Path(os.environ["BENCH_FOLDER"])
_calls = itertools.count()  # next() is atomic: threads lose no call
_cpu_began = 0.0


def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Be the plain application, and count what is served."""
    next(_calls)
    return common.plain_app(environ, start_response)


def application() -> WSGIApplication:
    """Return the application, tracked if it is to be."""
    if not os.environ.get("BENCH_TRACKED"):
        return counted
    tracker = Tracker(counted, _folder / "visits.db", trusted_proxies=["127.0.0.1"])
    if os.environ.get("BENCH_INGEST_CPU"):
        _move_ingest(tracker, int(os.environ["BENCH_INGEST_CPU"]))
    return tracker


def _move_ingest(tracker: Tracker, cpu: int) -> None:
    """Let the ingest thread move itself; threads cannot be pinned by their process."""
    ingester = tracker._backend.ingester
    on_wake = ingester._on_wake

    def move() -> None:
        ingester._on_wake = on_wake
        common.pin({cpu})
        on_wake()

    ingester._on_wake = move


def on_starting(server: Any) -> None:
    """Pin the server before it starts its workers, which inherit that."""
    common.pin(int(number) for number in os.environ["BENCH_SERVER_CPU"].split(","))


def post_worker_init(worker: Any) -> None:
    """Count CPU from here."""
    global _cpu_began
    _cpu_began = time.process_time()


def worker_exit(server: Any, worker: Any) -> None:
    """Leave this worker's counts; every visit was ingested before, when reports were asked."""
    counts = {"served": next(_calls), "cpu_seconds": time.process_time() - _cpu_began}
    (_folder / f"worker-{os.getpid()}.json").write_text(json.dumps(counts))
