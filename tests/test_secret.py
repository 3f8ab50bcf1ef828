"""Processes hash visitors alike, also while the database cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    Secret(Storage(b"a" * 32), tmp_path)()

    assert Secret(Storage(None), tmp_path)() == b"a" * 32


def test_storage_decides_where_the_copy_differs(tmp_path: Path) -> None:
    Secret(Storage(b"a" * 32), tmp_path)()

    assert Secret(Storage(b"b" * 32), tmp_path)() == b"b" * 32
    assert Secret(Storage(None), tmp_path)() == b"b" * 32


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda copy: copy.unlink(), id="deleted"),
        pytest.param(lambda copy: copy.write_bytes(b"a" * 31), id="short"),
        pytest.param(lambda copy: copy.write_bytes(b""), id="empty"),
    ],
)
def test_damaged_copy_is_no_secret(damage: object, tmp_path: Path) -> None:
    Secret(Storage(b"a" * 32), tmp_path)()
    damage(tmp_path / "secret")  # type: ignore[operator]

    with pytest.raises(StorageError, match="locked"):
        Secret(Storage(None), tmp_path)()


def test_only_the_owner_reads_the_copy(tmp_path: Path) -> None:
    Secret(Storage(b"a" * 32), tmp_path)()

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_folder_that_is_missing_costs_only_the_copy(tmp_path: Path) -> None:
    assert Secret(Storage(b"a" * 32), tmp_path / "missing")() == b"a" * 32
