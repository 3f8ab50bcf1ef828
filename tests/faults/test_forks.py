"""Applications that fork under load, and whose workers are killed: children keep nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from checks import (
    PATIENCE_SECONDS,
    check,
    faults_in,
    kill_who_ingests,
    late_summary,
    needs_proc,
    stored,
    summary,
)
from forkapp import ENDING, LASTING
from load import Load
from servers import Server, gunicorn

REQUESTS = 200
Fork = Callable[[], None]
WORKERS = pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="sync"),
        pytest.param(
            ["--worker-class", "gthread", "--threads", "4", "--preload"], id="gthread, preloaded"
        ),
    ],
)


def forking(forks: Sequence[Fork], options: list[str], folder: Path) -> Server:
    return gunicorn(
        "forkapp:tracked()",
        folder=folder,
        workers=3,
        options=["--graceful-timeout", "3", *options],
        python_path=[Path(__file__).parent],
        environ={
            "FAULTS_DATABASE": str(folder / "visits.db"),
            "FAULTS_FORKS": " ".join(fork.__name__ for fork in forks),
            "PYTHONDEVMODE": "",
        },
    )


def orphans(server: Server) -> int:
    """Return how many processes of the server have lost their parent."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended
            continue
        if int(group) == server.process.pid and state != "Z":
            parents[int(path.parent.name)] = int(parent)
    del parents[server.process.pid]
    return sum(parent not in {*parents, server.process.pid} for parent in parents.values())


@needs_proc
@WORKERS
def test_children_count_nothing_and_their_parents_everything(
    options: list[str], tmp_path: Path
) -> None:
    with (
        forking([*ENDING, *LASTING], options, tmp_path) as server,
        Load(lambda: server.port, clients=6, requests=REQUESTS) as load,
    ):
        load.finish()
        totals = [summary(server.port)[0] for _ in range(6)]

    assert load.crossed == load.unanswered == set(), server.log[-5000:]
    assert totals == [REQUESTS] * len(totals)
    assert faults_in(server.log) == ""
    assert stored(tmp_path) == Counter(range(REQUESTS))


@needs_proc
@WORKERS
@pytest.mark.parametrize(
    "forks",
    [
        pytest.param(ENDING, id="that end"),
        *[pytest.param([fork], id=fork.__name__) for fork in LASTING],
    ],
)
def test_killed_parents_leave_nothing_to_their_children(
    forks: list[Fork], options: list[str], tmp_path: Path
) -> None:
    deadline, kills = time.monotonic() + 2 * PATIENCE_SECONDS, 0
    # A child that lives on keeps its dead parent's connections, too: only time ends them.
    with (
        forking(forks, options, tmp_path) as server,
        Load(lambda: server.port, clients=6, timeout_seconds=2) as load,
    ):
        # A worker may be killed before its first fork.
        while kills < 2 or (forks != ENDING and not orphans(server)):
            load.wait_for(60)
            while not kill_who_ingests(server, tmp_path):
                assert time.monotonic() < deadline, "nobody ingests"
                load.wait_for(1)
            kills += 1
            answered = load.count
            assert answered <= late_summary(server.port)[0]
        load.wait_for(30)
        load.stop()
        reported = late_summary(server.port)[0]
        left = orphans(server)

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert bool(left) == (forks != ENDING)
    assert faults_in(server.log) == ""
    check(load, tmp_path, killed=True)
