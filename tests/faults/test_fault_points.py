"""A process that dies within the protocol, wherever that is, loses nothing and repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from checks import check, faults_in
from faultpoints import POINTS
from load import Load
from servers import gunicorn, report

DEATHS = 6


@pytest.mark.parametrize("point", POINTS)
def test_death_at_any_point_loses_nothing_and_counts_nothing_twice(
    point: str, tmp_path: Path
) -> None:
    deaths = tmp_path / "deaths"
    server = gunicorn(
        "faultpoints:tracked()",
        folder=tmp_path,
        workers=2,
        options=["--worker-class", "gthread", "--threads", "2"],
        python_path=[Path(__file__).parent],
        environ={
            "FAULTS_DATABASE": str(tmp_path / "visits.db"),
            "FAULTS_POINT": point,
            "FAULTS_SPOOL_BYTES": str(4 << 20),  # small segments, which rotate
            "FAULTS_DEATHS": str(deaths),
            "FAULTS_DEATHS_WANTED": str(DEATHS),
            "PYTHONDEVMODE": "",
        },
    )
    with server, Load(lambda: server.port, clients=4) as load:
        while not deaths.exists() or deaths.stat().st_size < DEATHS:
            load.wait_for(1)
        load.wait_for(50)
        load.stop()
        reported = report(server.port, "summary")["total_hits"]

    assert len(load.answered) <= reported <= len(load.answered) + len(load.unanswered)
    assert faults_in(server.log) == ""
    check(load, tmp_path, killed=True)
