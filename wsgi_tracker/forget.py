"""Forget one visitor: in storage, and in what the spool still holds of lines that are stored."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import ConfigurationError, StorageError
from .ingest import Ingester, spool_errors
from .segments import COUNTS, REJECTED, Segment, open_segments, segment_sizes
from .storage import FINISHED, Storage

DRAIN_SECONDS = 30.0
# What stands for a line that is blanked: it counts nothing, wherever it is read again.
NOTHING = COUNTS + b"{}}"


def forget(storage: Storage, ingester: Ingester, folder: Path, user_hash: str) -> int:
    """Delete all that is known of ``user_hash``; return how many visits that were.

    First what waits in the spool is stored, as it may be that user's. Raises
    :exc:`StorageError` where that cannot be done; then nothing was deleted.
    """
    require_user_hash(user_hash)
    queue = ingester.catch_up(DRAIN_SECONDS)
    if queue.size_bytes:
        raise StorageError(f"{queue.size_bytes} bytes wait in the spool: nobody is forgotten yet")
    visits = storage.forget(user_hash)
    with spool_errors():
        _blank_spool(storage, folder, user_hash)
    return visits


def require_user_hash(user_hash: str) -> None:
    """Raise :exc:`ConfigurationError` for what is no whole ``user_hash``."""
    if not isinstance(user_hash, str) or not re.fullmatch("[0-9a-f]{32}", user_hash):
        raise ConfigurationError(f"a user_hash has 32 hexadecimal digits, given {user_hash!r}")


def _blank_spool(storage: Storage, folder: Path, user_hash: str) -> None:
    """Overwrite that user's lines, where a segment is stored and its writer still has it."""
    needle = f'"{user_hash}"'.encode()
    for segment in open_segments(folder, segment_sizes(folder), _refuse):
        try:
            _blank(folder / segment.name, _stored_end(storage, segment), needle)
        finally:
            segment.close()
    rejected = folder / REJECTED
    if rejected.exists():
        _blank(rejected, rejected.stat().st_size, needle)


def _refuse(name: str, error: OSError) -> None:
    raise error


def _stored_end(storage: Storage, segment: Segment) -> int:
    position = storage.positions([segment.id]).get(segment.id, 0)
    return segment.size() if position == FINISHED else position


def _blank(path: Path, end: int, needle: bytes) -> None:
    """Overwrite in place: the writer goes on at the end, and positions stay what they are."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # finished meanwhile
        return
    with open(fd, "r+b", buffering=0) as file:
        content = file.read(end)
        start = 0
        for line in content.splitlines(keepends=True):
            if needle in line:
                os.pwrite(fd, NOTHING.ljust(len(line) - 1), start)
            start += len(line)
        os.fsync(fd)
