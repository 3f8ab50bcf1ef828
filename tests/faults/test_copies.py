"""Copies of database and spool, taken under load: whatever was answered before is there, once."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from checks import recorded
from load import Load
from servers import Server
from watched import files_of, paused, server, wait_until

COPIES = 4
# Segments are a sixteenth: they fill up, and are deleted, while they are copied. But stored ones
# stay for two seconds, and a spool of half a megabyte was full by then.
SPOOL_BYTES = 4 << 20
SPOOL = "visits.db-spool"


def segments(folder: Path) -> set[str]:
    return {path.name for path in (folder / SPOOL).glob("*.ndjson")}


def copy_spool(source: Path, target: Path) -> None:
    """Copy what is there, as ``cp -r`` does: a segment may be stored and deleted meanwhile."""
    (target / SPOOL).mkdir(mode=0o700, parents=True)
    for path in (source / SPOOL).iterdir():
        with suppress(FileNotFoundError):
            shutil.copy2(path, target / SPOOL)


def back_up(running: Server, load: Load, source: Path, target: Path) -> None:
    """Copy the spool first, then the database: what leaves the one is in the other by then."""
    before = segments(source)
    copy_spool(source, target)
    wait_until(load, lambda: not before & segments(source), "no segment is stored and deleted")
    with (
        closing(sqlite3.connect(source / "visits.db")) as live,
        closing(sqlite3.connect(target / "visits.db")) as copy,
    ):
        live.backup(copy)


def cut_power(running: Server, load: Load, source: Path, target: Path) -> None:
    """Copy all as it is at one moment, transactions under way included."""
    with paused(running):
        copy_spool(source, target)
        for path in files_of(source / "visits.db"):
            if not path.name.endswith("-shm"):  # memory
                shutil.copy2(path, target)


@pytest.mark.parametrize(
    "copy", [pytest.param(back_up, id="backup"), pytest.param(cut_power, id="power cut")]
)
def test_copy_holds_what_was_answered_before_it_once(
    copy: Callable[[Server, Load, Path, Path], None], tmp_path: Path
) -> None:
    chance, copies = random.Random(), []
    live = tmp_path / "live"
    live.mkdir()
    with (
        server(live / "visits.db", spool_bytes=SPOOL_BYTES) as running,
        Load(lambda: running.port, clients=6) as load,
    ):
        for number in range(COPIES):
            load.wait_for(chance.randrange(40, 300))
            before = set(load.answered)
            copy(running, load, live, tmp_path / str(number))
            copies.append((tmp_path / str(number), before))
        load.stop()

    assert "dropped" not in running.log
    for folder, before in copies:
        counted, counts = recorded(folder / "visits.db")
        assert set(counted.values()) == {1}
        assert before <= counted.keys() <= load.answered
        # A line that was being written, at most one of each client.
        assert counts.pop("torn", 0) <= 6
        assert counts == {"recorded": len(counted)}


def test_segments_of_a_backup_count_nothing_twice(tmp_path: Path) -> None:
    live, backup = tmp_path / "live", tmp_path / "backup"
    live.mkdir()
    with (
        server(live / "visits.db", spool_bytes=SPOOL_BYTES) as running,
        Load(lambda: running.port, clients=6) as load,
    ):
        load.wait_for(300)
        back_up(running, load, live, backup)
        load.wait_for(300)
        load.stop()
    shutil.copytree(backup, tmp_path / "again")

    first = recorded(backup / "visits.db")
    for folder in (live, backup):
        copy_segments(tmp_path / "again", folder)
    second = recorded(backup / "visits.db")
    counted = recorded(live / "visits.db")[0]

    assert first == second
    assert counted == dict.fromkeys(load.answered, 1)


def copy_segments(source: Path, target: Path) -> None:
    for path in (source / SPOOL).glob("*.ndjson"):
        shutil.copy2(path, target / SPOOL)
