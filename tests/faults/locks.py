"""Who holds the right to ingest, as Linux knows it."""

from __future__ import annotations

from pathlib import Path


def ingesting(folder: Path) -> int | None:
    """Return the process that holds the ingest lock at this moment, if one does."""
    lock = folder / "visits.db-spool" / "ingest.lock"
    if not lock.exists():
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "POSIX" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None
