"""What a host knows of its deliveries to ClickHouse: one file, in the spool's folder, always whole.

No transaction spans a host's spool and a server, so what is sent is written down before, with its
bytes, and what was taken in behind. Only who holds the host's ingest lock writes it; others may
read it at any time.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import StorageError
from .. import FINISHED, Positions

# Of segments whose file should be gone: one that comes back is not taken in again. All of it is
# written with each batch.
MOST_FINISHED = 2_000


@dataclass(frozen=True, slots=True)
class Sending:
    """A batch that is on its way: its number, its lines, and what holds once it is there.

    ``layout`` is that of the cluster that it is split for; its visits are of timestamps from
    ``first`` to ``last``.
    """

    batch: int = 0
    lines: int = 0
    first: int = 0
    last: int = 0
    layout: str = ""
    positions: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def with_counts(self, more: Mapping[str, int]) -> Sending:
        """Return it with these added."""
        return replace(self, counts=dict(Counter(self.counts) + Counter(more)))


@dataclass(frozen=True, slots=True)
class Entry:
    """What holds: how far segments were taken in, when others were finished, and counts.

    Times are in seconds since the epoch, ``last_ingest`` in microseconds. ``id`` is the ledger's own,
    by which its database knows it, in hexadecimal digits; ``batch`` is the number of the last one.
    """

    id: str = ""
    batch: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    last_ingest: int | None = None
    pid: int | None = None
    sending: Sending | None = None

    def positions_of(self, segments: Sequence[str]) -> Positions:
        """Return how far these segments were taken in, of those of which anything was."""
        known = {id: self.positions[id] for id in segments if id in self.positions}
        return known | {id: FINISHED for id in segments if id in self.finished}

    def with_taken(self, now_us: int) -> Entry:
        """Return what holds once what is on its way is there."""
        taken = self.sending or Sending()
        counts = Counter(self.counts) + Counter({**taken.counts, "recorded": taken.lines})
        finished = dict(self.finished)
        for id in taken.finished:
            finished.pop(id, None)
            finished[id] = now_us // 1_000_000
        positions = {
            id: position
            for id, position in (self.positions | taken.positions).items()
            if id not in finished
        }
        return replace(
            self,
            positions=positions,
            finished=dict(list(finished.items())[-MOST_FINISHED:]),
            counts=dict(counts),
            last_ingest=now_us,
            pid=os.getpid(),
            sending=None,
        )


class Ledger:
    """The file, in a spool's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "deliveries"

    def read(self) -> tuple[Entry, bytes]:
        """Return the entry, and the bytes that are on their way. Raises :exc:`StorageError`."""
        try:
            header, _, data = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return Entry(), b""
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error}") from error
        return self._entry(header), data

    def entry(self) -> Entry:
        """Return the entry alone."""
        try:
            with self.path.open("rb") as file:
                header = file.readline()
        except FileNotFoundError:
            return Entry()
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error}") from error
        return self._entry(header)

    def _entry(self, header: bytes) -> Entry:
        try:
            found: dict[str, Any] = json.loads(header)
            sending = found.pop("sending")
            return Entry(**found, sending=sending and Sending(**sending))
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self.path} is damaged: what of the spool is stored is not known; restore the "
                f"file, or stop all processes, delete it and accept that visits may count twice"
            ) from error

    def write(self, entry: Entry, data: bytes = b"") -> None:
        """Put it in place, whole, so that it survives a power cut. Raises :exc:`StorageError`."""
        temporary = self.path.with_name(f".{self.path.name}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as file:
                file.write(json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n" + data)
                file.flush()
                os.fsync(fd)
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise StorageError(f"{self.path} cannot be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
