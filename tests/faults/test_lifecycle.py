"""gunicorn told to end, and workers it gives up: every answered request is counted once."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from checks import PATIENCE_SECONDS, check, late_summary
from load import Connection, Load
from servers import Server, gunicorn

BLOCKED = 10**9  # the load never comes that far
WORKER_CLASSES = pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--worker-class", "sync"], id="sync"),
        pytest.param(["--worker-class", "gthread", "--threads", "4"], id="gthread"),
        pytest.param(["--worker-class", "gevent"], id="gevent"),
    ],
)


def serving(application: str, options: list[str], folder: Path) -> Server:
    return gunicorn(
        application,
        folder=folder,
        workers=3,
        options=["--graceful-timeout", "5", *options],
        python_path=[Path(__file__).parent],
        environ={"FAULTS_DATABASE": str(folder / "visits.db"), "PYTHONDEVMODE": ""},
    )


@WORKER_CLASSES
@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=["TERM", "INT", "QUIT"]
)
def test_server_that_is_told_to_end_under_load_loses_nothing(
    signum: signal.Signals, options: list[str], tmp_path: Path
) -> None:
    server = serving("faultapp:tracked()", options, tmp_path)
    server.start()
    try:
        with Load(lambda: server.port, clients=4) as load:
            load.wait_for_workers(3)
            load.wait_for(60)
            server.process.send_signal(signum)
            status = server.process.wait(PATIENCE_SECONDS)
            load.stop()
    finally:
        server.kill()

    assert status == 0
    # What SIGINT and SIGQUIT interrupt is logged, and what was being handled then.
    tracebacks = server.log.count("Traceback") - server.log.count("During handling of the above")
    assert tracebacks == server.log.count("\nSystemExit")
    assert "locked" not in server.log
    check(load, tmp_path)


# A blocked thread of gthread keeps no worker from telling that it lives.
@pytest.mark.parametrize("worker_class", ["sync", "gevent"])
def test_worker_that_blocks_beyond_its_timeout_loses_nothing(
    worker_class: str, tmp_path: Path
) -> None:
    options = ["--worker-class", worker_class, "--timeout", "1"]
    with (
        serving("faultapp:tracked()", options, tmp_path) as server,
        Load(lambda: server.port, clients=4) as load,
    ):
        load.wait_for_workers(3)
        with Connection(server.port) as connection, suppress(OSError):
            assert connection.get(f"/b/{BLOCKED}").status == 500
        load.wait_for_workers(1)
        load.wait_for(20)
        load.stop()
        load.unanswered.add(BLOCKED)
        reported = late_summary(server.port)[0]

    assert "WORKER TIMEOUT" in server.log
    assert len(load.answered) < reported <= len(load.answered) + len(load.unanswered)
    check(load, tmp_path, killed=True)
    with closing(sqlite3.connect(tmp_path / "visits.db")) as database:
        blocked = database.execute(
            "SELECT status, error FROM user_visits WHERE path = ?", (f"/b/{BLOCKED}",)
        ).fetchall()
    assert blocked == [(500, "SystemExit")]
