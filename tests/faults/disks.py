"""Small file systems of a test's own: mounted for real, so that they are full for real."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MEGABYTE = 1 << 20


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a memory file system of that size on ``folder``."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607


@contextmanager
def immutable(files: list[Path]) -> Iterator[None]:
    """Let nobody write to these files, the superuser and those who have them open included."""
    names = [str(path) for path in files if path.exists()]
    _run("chattr", "+i", *names)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *names], check=True)  # noqa: S607


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no byte free on the disk that ``folder`` is on."""
    filler = folder / "filler"
    try:
        fill(filler)
        yield
    finally:
        filler.unlink()


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        for size in (65536, 512, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"{' '.join(command)}: {getattr(error, 'stderr', error)}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"the superuser's rights are needed: {reason}")
        pytest.skip(f"the superuser's rights are needed: {reason}")
