"""What waits in the spool, read by a report itself: so it waits for nobody who ingests.

Segments are opened before storage shows its moment, and read behind the positions of that moment.
What is ingested meanwhile is in the file all the same, also where that is deleted; what is recorded
meanwhile may be in the report or not. What cannot be read so is left to ingest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .batches import BatchReader
from .ingest import Ingester
from .process import watch_forks
from .segments import Segment
from .storage import Batch, NotIngestedError, Positions

# Some 800 visits, 10 ms: to ingest more at once is cheaper than to read it again and again.
UNREAD_BYTES = 256 << 10


class UnreadLines:
    """Lines of these segments that storage lacks, for one report.

    ``oldest_timestamp`` is that of the first one, known once they are read.
    """

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self.segments = [segment.id for segment in segments]
        self.oldest_timestamp: int | None = None
        watch_forks(in_child=self.close)  # a child keeps no file that may be deleted

    def read(self, positions: Positions) -> Batch:
        """Return them; :exc:`NotIngestedError` if they are too many, or cannot be read."""
        # Only who locks a segment knows whether its writer is about to name it.
        if any(not segment.first and segment.size() for segment in self._segments):
            raise NotIngestedError("a segment has no name")
        reader = BatchReader(self._segments, UNREAD_BYTES)
        batch = reader.read(positions)
        if reader.more or reader.refused:
            raise NotIngestedError("much waits in the spool, or cannot be read")
        starts = (
            segment.timestamp_at(max(positions.get(segment.id, 0), segment.first))
            for segment in self._segments
            if segment.id in batch.positions
        )
        self.oldest_timestamp = min((t for t in starts if t is not None), default=None)
        return batch

    def close(self) -> None:
        """Close the segments; may be called twice."""
        for segment in self._segments:
            segment.close()


@contextmanager
def open_unread(ingester: Ingester) -> Iterator[UnreadLines | None]:
    """Open what waits; ``None`` where that cannot be read, or is in too many files."""
    segments = ingester.open_grown()
    if segments is None:
        yield None
        return
    unread = UnreadLines(segments)
    try:
        yield unread
    finally:
        unread.close()
