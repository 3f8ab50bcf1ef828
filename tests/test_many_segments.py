"""However many segments there are, a few are open at a time, and none waits for ever."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hosts import GOOD, OTHER, Host

from wsgi_tracker.spool import Spool

WITH_FEW_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from wsgi_tracker import open_storage
from wsgi_tracker.ingest import Ingester

def allow(descriptors):
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, 256))

storage = open_storage(sys.argv[1])
ingester = Ingester(storage, Path(sys.argv[1] + "-spool"))
with storage.snapshot() as snapshot:
    snapshot.summary()
with ingester._host_lock.held():
    pass
before = len(os.listdir("/dev/fd"))
for descriptors in map(int, sys.argv[2:]):
    allow(descriptors)
    ingester._look_at = 0.0
    ingester.wake()
    storage.close()
    allow(256)
    with storage.snapshot() as snapshot:
        hits = snapshot.summary().total_hits
    print(hits, len(os.listdir("/dev/fd")) <= before)
storage.close()
"""


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(["256"], ["300 True"], id="a common limit"),
        pytest.param(["40", "256"], ["0 True", "300 True"], id="too few, then enough"),
    ],
)
def test_more_segments_than_descriptors_are_all_ingested(
    limits: list[str], expected: list[str], host: Host
) -> None:
    for _ in range(300):
        host.segment(GOOD)
    script = [sys.executable, "-c", WITH_FEW_DESCRIPTORS, str(host.database), *limits]
    host.storage.close()
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=60)

    assert output.splitlines() == expected
    assert host.segments() == []


@pytest.fixture
def writers(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Spool]]:
    """Writers of more segments than are opened at once."""
    monkeypatch.setattr("wsgi_tracker.ingest.MAX_OPEN", 2)
    writers = [Spool(host.folder) for _ in range(7)]
    yield writers
    for writer in writers:
        writer.close()


def test_live_segments_with_half_a_line_keep_no_place(writers: list[Spool], host: Host) -> None:
    for writer in writers:
        writer.append(GOOD[:50])
    host.ingest()
    host.segment(OTHER)

    host.ingester.wake()
    before = host.hits()
    for writer in writers:
        writer.append(GOOD[50:])
    host.ingester.wake()

    assert (before, host.hits()) == (1, 8)


def test_quiet_segments_are_all_tested_for_a_writer_that_is_gone(
    writers: list[Spool], host: Host
) -> None:
    for writer in writers:
        writer.append(GOOD)
    host.ingester.wake()
    for writer in writers:
        writer.close()

    host.ingest()

    assert (host.hits(), host.segments()) == (7, [])


def test_segments_that_grow_all_the_time_leave_a_place(writers: list[Spool], host: Host) -> None:
    host.segment(OTHER, segment="f" * 32, name="zzz.ndjson")
    for _ in range(6):
        for writer in writers:
            writer.append(GOOD)
        host.ingester.run_once()

    assert not (host.folder / "zzz.ndjson").exists()
