"""Kill every server again and again under load; what was answered must be stored once.

The load knows which of its requests were answered to the last byte, buffered and streamed, and a
client beside it asks for reports all the time. Half of the kills (SIGKILL) come at any moment, half
when somebody ingests. A server with a master loses any of its workers, or the one that ingests, and
with every tenth kill all its processes at once; a server without one loses all each time. It is then
started again over the same folder.

What is counted: `lost` (answered, but not stored), `twice` (stored more than once), `foreign`
(answered with another's answer, or stored though never sent), `late` (reports that held less than
was answered before they were asked for, or a last one that holds more than was sent), `besides` (stored, but killed before the answer's last
byte: that is allowed) and `troubles` (tracebacks and locked databases in the log).
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import pytest
import startups
from checks import (
    PATIENCE_SECONDS,
    QUEUED,
    ask,
    kill_a_worker,
    kill_who_ingests,
    late_summary,
    stored,
)
from load import KINDS, REQUESTS_PER_CONNECTION, Load
from locks import ingesting
from servers import Server

CLIENTS = 6
GROUP_EVERY = 10
REPORT_PAUSE_SECONDS = 0.02
FAULTS = ("lost", "twice", "foreign", "late", "troubles")
COLUMNS = {
    "server": "server",
    "kills": "kills",
    "groups": "of all processes",
    "answered": "answered",
    "lost": "lost",
    "twice": "twice",
    "foreign": "foreign",
    "reports": "reports",
    "late": "late",
    "besides": "stored, not answered",
}
TROUBLE = re.compile("Traceback|locked")


@dataclass(frozen=True)
class Target:
    """A server, and how it is asked; one that stands ``alone`` has no master to replace it."""

    name: str
    start: Callable[[Path], Server]
    alone: bool = False
    kinds: str = KINDS
    requests_per_connection: int = REQUESTS_PER_CONNECTION


def targets() -> Iterator[Target]:
    """Yield every server that is killed."""
    for worker_class, options in startups.WORKER_CLASSES.items():
        for preload in ([], ["--preload"]):
            arguments = [worker_class, *options, *preload]
            start = startups.gunicorn("--worker-class", *arguments)
            yield Target(f"gunicorn {' '.join(arguments)}", start)
    yield Target("waitress", startups.waitress, alone=True)
    for options in ([], ["--enable-threads"]):
        name = " ".join(["uWSGI", *options])
        yield Target(name, startups.uwsgi(*options), kinds="tc", requests_per_connection=1)
    # Here and for uWSGI, only a body of known length tells a client whether it came whole: others end
    # with the connection, as the end of a process does; and Apache ends the chunks of a daemon that was
    # killed as if all were sent.
    yield Target("mod_wsgi, daemons", startups.mod_wsgi_daemons, kinds="tc")
    yield Target("mod_wsgi, embedded", startups.mod_wsgi_embedded, kinds="tc")
    yield Target("wsgiref", startups.wsgiref, alone=True, kinds="tc")
    yield Target("Werkzeug, threaded", startups.werkzeug("threaded=True"), alone=True, kinds="tc")
    yield Target(
        "Werkzeug, a fork per request", startups.werkzeug("processes=2"), alone=True, kinds="tc"
    )


def run(wanted: int, only: str = "") -> Iterator[dict[str, Any]]:
    """Kill each server so often, and yield what was counted."""
    for number, target in enumerate(targets()):
        if only.lower() in target.name.lower():
            try:
                row = kill_one(target, wanted, random.Random(number))
            except pytest.skip.Exception as missing:
                print(f"{target.name}: left out, {missing}", flush=True)
            else:
                print(json.dumps(row), flush=True)
                yield row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of all servers."""
    cells = [[figure(row[key]) for key in COLUMNS] for row in rows]
    return common.table(list(COLUMNS.values()), cells)


def figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def kill_one(target: Target, wanted: int, chance: random.Random) -> dict[str, Any]:
    """Kill one server again and again, and count what became of its visits."""
    began = time.monotonic()
    with startups.reachable_folder() as folder:
        server, groups = target.start(folder), 0
        server.start()
        try:
            with loaded(server, target) as load, asking(server, load) as reports:
                for number in range(1, wanted + 1):
                    load.wait_for(chance.randrange(5, 60))
                    whole = target.alone or number % GROUP_EVERY == 0
                    groups += whole
                    kill(server, folder, load, chance, whole=whole)
                load.wait_for(50)
                load.stop()
            sent = len(load.answered) + len(load.unanswered)
            reports["late"] += not len(load.answered) <= late_summary(server.port)[0] <= sent
        finally:
            server.kill()
        return {
            "server": target.name,
            "kills": wanted,
            "groups": groups,
            **accounted(load, stored(folder, killed=True)),
            **reports,
            "troubles": len(TROUBLE.findall(server.log)),
            "seconds": round(time.monotonic() - began),
        }


def loaded(server: Server, target: Target) -> Load:
    """Return clients that follow the server from port to port."""
    return Load(
        lambda: server.port,
        CLIENTS,
        kinds=target.kinds,
        requests_per_connection=target.requests_per_connection,
    )


@contextmanager
def asking(server: Server, load: Load) -> Iterator[dict[str, int]]:
    """Ask for reports meanwhile; the counts are final once all of it has ended."""
    counts, stop = {"reports": 0, "late": 0}, threading.Event()

    def run() -> None:
        while not stop.wait(REPORT_PAUSE_SECONDS):
            answered = load.count
            try:
                answer = ask(server.port)
            except OSError:
                continue  # it was killed
            if answer.status == 200 and QUEUED not in answer.headers:
                counts["reports"] += 1
                counts["late"] += json.loads(answer.body)["total_hits"] < answered

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def kill(server: Server, folder: Path, load: Load, chance: random.Random, *, whole: bool) -> None:
    """Kill a worker or the ``whole`` server, at any moment or when it ingests."""
    at_ingest = chance.random() < 0.5
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS

    def kill_now() -> bool:
        if not whole:
            return kill_who_ingests(server, folder) if at_ingest else kill_a_worker(server, chance)
        if at_ingest and ingesting(folder) is None:
            return False
        server.kill()
        server.start()
        return True

    while not kill_now():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody ingests" if at_ingest else "no worker starts")
        load.wait_for(1)


def accounted(load: Load, counted: Counter[int]) -> dict[str, int]:
    """Compare what was answered with what is stored."""
    sent = load.answered | load.unanswered
    return {
        "answered": len(load.answered),
        "lost": len(load.answered - counted.keys()),
        "twice": sum(times > 1 for times in counted.values()),
        "foreign": len(load.crossed) + len(counted.keys() - load.crossed - sent),
        "besides": len(counted.keys() & load.unanswered),
    }
