"""Batches: whole lines of many segments, from where storage ends, in one piece.

Lines of counts are taken out of them, and so is what a line that was torn leaves behind.
"""

from __future__ import annotations

import json
from collections import Counter

from .segments import COUNTS, HEADER_BYTES, SUFFIX, Segment
from .storage import FINISHED, Batch, Positions

MAX_COUNT = 1 << 48  # beyond this no process has counted
MAX_LINES = 1 << 14  # of our own, 2 MB have half as many
# A batch with much that is no visit is tried again in pieces of which none can take long.
PATIENCE = 400
SMALL_BATCH_BYTES = 64 << 10


class BatchReader:
    """Read one batch; ``read`` runs within the transaction that stores it.

    ``ends`` says how far each file was read, by its name: half a line at its end included.
    ``refused`` are those whose disk does not give them.
    """

    def __init__(self, segments: list[Segment], batch_bytes: int) -> None:
        self.segments = segments
        self._batch_bytes = batch_bytes
        self._room_lines = MAX_LINES
        self.finished: list[Segment] = []
        self.ends: dict[str, int] = {}
        self.refused: dict[str, OSError] = {}
        self.size_bytes = 0
        self.more = False
        self._torn: list[bytes] = []

    def read(self, positions: Positions) -> Batch:
        """Return whole lines from all segments, at most about one batch."""
        batch, chunks, room = Batch(), [], self._batch_bytes
        for segment in self.segments:
            if not segment.first and not segment.orphaned:
                continue  # its writer is about to name it
            position = positions.get(segment.id, 0)
            if position == FINISHED:
                # Its file outlived a crash, or is a copy: never read again.
                if segment.orphaned:
                    self.finished.append(segment)
                continue
            if segment.id in batch.positions or segment.is_copy_of_another:
                continue  # a copy waits until the original is finished
            position = max(position, segment.first)
            try:
                size = segment.size()
                lines, end, self.ends[segment.name] = self._lines(segment, position, size, room)
            except OSError as error:
                self.refused[segment.name] = error
                continue
            if lines:
                chunks.append(lines)
                room -= len(lines)
                position = batch.positions[segment.id] = end
            if segment.orphaned and position >= size:
                self.finished.append(segment)
                if position > segment.first:
                    batch.finished.append(segment.id)
        self.size_bytes = sum(map(len, chunks))
        batch.data, batch.counts, glued = _without_counts(b"".join(chunks))
        batch.torn = self._torn + glued
        if self._batch_bytes > SMALL_BATCH_BYTES:
            batch.patience = PATIENCE
        return batch

    def _lines(
        self, segment: Segment, position: int, size: int, room: int
    ) -> tuple[bytes, int, int]:
        """Return whole lines from ``position``, where they end, and where reading ended."""
        if size <= position:
            return b"", position, size
        chunk = self._cut(segment.read(position, room) if room > 0 else b"")
        whole, end = chunk.rfind(b"\n") + 1, position + len(chunk)
        if end < size:
            self.more = True
            endless = not whole and len(chunk) >= self._batch_bytes  # a line, but none of ours
        else:
            endless = segment.orphaned and whole < len(chunk)  # torn: nobody will complete it
            if endless and _is_of_counts(chunk[whole:]):
                return chunk[:whole], end, end
            if endless:
                self._torn.append(chunk[whole:])
        if endless:
            return chunk + b"\n", end, end
        return chunk[:whole], position + whole, end

    def _cut(self, chunk: bytes) -> bytes:
        """Cut what is more lines than a batch may have."""
        lines = chunk.count(b"\n")
        if lines > self._room_lines:
            rest = chunk.split(b"\n", self._room_lines)[-1]
            chunk, lines = chunk[: len(chunk) - len(rest)], self._room_lines
        self._room_lines -= lines
        return chunk


def count_lines(segment: Segment, start: int, end: int) -> Counter[str]:
    """Return how many visits are between two line ends, as ``queued``, and what was counted."""
    found: Counter[str] = Counter()
    for chunk in segment.chunks(start, end):
        visits, counts, _ = _without_counts(chunk)
        found += counts
        found["queued"] += visits.count(b"\n")
    return found


def _without_counts(data: bytes) -> tuple[bytes, Counter[str], list[bytes]]:
    """Take the lines of counts out of the lines of visits; return what they were glued to, too."""
    counts: Counter[str] = Counter()
    if COUNTS not in data:
        return data, counts, []
    visits, torn = [], []
    for line in data.split(b"\n")[:-1]:
        cut = line.rfind(COUNTS)  # not 0 behind a torn line
        added = _counts(line[cut:]) if cut >= 0 else None
        if added is None:
            visits.append(line + b"\n")
            continue
        counts.update(added)
        if cut and not _is_of_counts(line[:cut]):
            visits.append(line[:cut] + b"\n")
            torn.append(line[:cut])
    return b"".join(visits), counts, torn


def _is_of_counts(piece: bytes) -> bool:
    """Return whether a torn line was to hold counts: no visit, and its writer has them still."""
    return piece.startswith(COUNTS[:3])


def unread_bytes(name: str, size: int, stored: Positions) -> int:
    """Return how much storage lacks of a segment that cannot be opened; most are named by id."""
    position = stored.get(name.removesuffix(SUFFIX), 0)
    return 0 if position == FINISHED else max(0, size - max(position, HEADER_BYTES))


def _counts(line: bytes) -> dict[str, int] | None:
    try:
        counts = {str(name): int(count) for name, count in json.loads(line)["counts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return counts if all(0 <= count < MAX_COUNT for count in counts.values()) else None
