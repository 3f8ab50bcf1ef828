"""Processes hash visitors alike, also while the database cannot be asked."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import webtest

from wsgi_tracker import Tracker
from wsgi_tracker.errors import StorageError
from wsgi_tracker.secret import Secret


class Storage:
    """A secret that may be out of reach."""

    def __init__(self, secret: bytes | None) -> None:
        self.secret = secret

    def __call__(self) -> bytes:
        if self.secret is None:
            raise StorageError("database is locked")
        return self.secret


def test_copy_answers_while_storage_does_not(tmp_path: Path) -> None:
    Secret(tmp_path).ask(Storage(b"a" * 32))

    assert Secret(tmp_path).ask(Storage(None)) == b"a" * 32


def test_storage_decides_where_the_copy_differs(tmp_path: Path) -> None:
    Secret(tmp_path).ask(Storage(b"a" * 32))

    assert Secret(tmp_path).ask(Storage(b"b" * 32)) == b"b" * 32
    assert Secret(tmp_path).ask(Storage(None)) == b"b" * 32


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda copy: copy.unlink(), id="deleted"),
        pytest.param(lambda copy: copy.write_bytes(b"a" * 31), id="short"),
        pytest.param(lambda copy: copy.write_bytes(b""), id="empty"),
    ],
)
def test_damaged_copy_is_no_secret(damage: object, tmp_path: Path) -> None:
    Secret(tmp_path).ask(Storage(b"a" * 32))
    damage(tmp_path / "secret")  # type: ignore[operator]

    with pytest.raises(StorageError, match="locked"):
        Secret(tmp_path).ask(Storage(None))


def test_only_the_owner_reads_the_copy(tmp_path: Path) -> None:
    Secret(tmp_path).ask(Storage(b"a" * 32))

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name", [pytest.param("missing", id="missing"), pytest.param("x" * 300, id="out of reach")]
)
def test_folder_that_cannot_be_used_costs_only_the_copy(name: str, tmp_path: Path) -> None:
    secret = Secret(tmp_path / name)

    assert secret.ask(Storage(b"a" * 32)) == b"a" * 32
    secret.keep()


@pytest.mark.parametrize("spool_too", [False, True])
def test_database_that_is_made_anew_hashes_as_the_one_before(
    spool_too: bool, tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    """A running process went on with the old secret, and new ones took another."""
    running = webtest.TestApp(tracked())
    running.get("/")
    running.get("/api/tracking/summary")
    for path in tmp_path.glob("visits.db*"):
        if path.is_file():
            path.unlink()
        elif spool_too:
            shutil.rmtree(path)
    running.get("/")
    running.get("/api/tracking/summary")
    assert (tmp_path / "visits.db-spool" / "secret").exists()

    started = webtest.TestApp(tracked())
    started.get("/")
    summary = started.get("/api/tracking/summary").json

    assert (summary["total_hits"], summary["total_unique_users"]) == (3, 1)


def test_full_disk_gathers_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)

    assert Secret(tmp_path).ask(Storage(b"a" * 32)) == b"a" * 32
    assert list(tmp_path.iterdir()) == []
