"""Segments, read: whole lines from where storage ends, in batches, until a file can be deleted.

A segment begins with a line that names it. Lines are visits, or counts of what never became one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .period import LAST_TIMESTAMP
from .storage import FINISHED, Batch, Positions

SUFFIX = ".ndjson"
ID_LENGTH = 32
REJECTED = "rejected.ndjson"
COUNTS = b'{"counts":'
MAX_COUNT = 1 << 48  # beyond this no process has counted
# A pipe in the place of a segment would wait for a writer for ever, a link may lead anywhere.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
CHUNK_BYTES = 1 << 20
TAIL_BYTES = 65536  # more than the longest line


class Segment:
    """One segment, opened to be read; ``close`` releases its lock.

    ``id`` is what its first line says, so that a copy under another name is known again.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._path = folder / name
        self._fd = os.open(self._path, READ_FLAGS)
        try:
            self.id, self.first = self._read_header()
        except BaseException:  # no file, but a pipe or a folder
            os.close(self._fd)
            raise
        self.orphaned = False

    def _read_header(self) -> tuple[str, int]:
        start = os.pread(self._fd, len(header("0" * ID_LENGTH)), 0)
        segment = start[12 : 12 + ID_LENGTH].decode("ascii", "replace")
        # No writer's id holds a NUL, behind which some SQLite lose the rest of a JSON string.
        if start == header(segment) and segment.isalnum():
            return segment, len(start)
        return "file:" + self.name, 0

    @property
    def is_copy_of_another(self) -> bool:
        """Whether the file that this one was copied from is there, too."""
        original = self.id + SUFFIX
        return bool(self.first) and original != self.name and (self._folder / original).exists()

    def lock(self) -> bool:
        """Try to take the segment from a writer that is gone; True from then on."""
        if not self.orphaned:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.orphaned = True
            # It may have been opened before its writer had written the first line.
            self.id, self.first = self._read_header()
        return self.orphaned

    def size(self) -> int:
        """Return the size in bytes; final only once the segment is locked."""
        return os.fstat(self._fd).st_size

    def read(self, position: int, limit: int) -> bytes:
        """Return at most ``limit`` bytes from ``position``."""
        return os.pread(self._fd, limit, position)

    def end_of_lines(self) -> int:
        """Return where the last whole line ends."""
        size = self.size()
        tail = self.read(max(0, size - TAIL_BYTES), TAIL_BYTES)
        return size - len(tail) + tail.rfind(b"\n") + 1

    def timestamp_at(self, position: int) -> int | None:
        """Return the timestamp of the visit whose line begins at ``position``, if one does."""
        try:
            timestamp = json.loads(self.read(position, TAIL_BYTES).partition(b"\n")[0])["timestamp"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if type(timestamp) is int and 0 <= timestamp <= LAST_TIMESTAMP:  # True is no time
            return timestamp
        return None

    def count_visits(self, start: int, end: int) -> int:
        """Return how many lines there are between two line ends, those of counts left out."""
        visits = 0
        while start < end:
            chunk = self.read(start, min(end - start, CHUNK_BYTES))
            if not chunk:
                break  # cut by somebody
            size = chunk.rfind(b"\n") + 1 or len(chunk)
            visits += chunk.count(b"\n", 0, size)
            visits -= chunk.startswith(COUNTS) + chunk.count(b"\n" + COUNTS, 0, size)
            start += size
        return visits

    def unlink(self) -> None:
        """Delete the file; the caller holds its lock, and knows every line stored."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def close(self) -> None:
        """Close the file, and so release the lock if it was ours."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def header(segment: str) -> bytes:
    """Return the first line of a segment."""
    return b'{"segment":"%s"}\n' % segment.encode()


def make_folder(folder: Path) -> None:
    """Create the spool's folder, readable by its owner alone."""
    folder.mkdir(mode=0o700, exist_ok=True)


def restore_segment(folder: Path, fd: int) -> None:
    """Put a segment that was deleted, but is still open, back under its name."""
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    first, end, _ = content.partition(b"\n")
    segment = first[12 : 12 + ID_LENGTH].decode("ascii", "replace")
    path = folder / (segment + SUFFIX)
    if first + end != header(segment) or path.exists():
        return
    temporary = path.with_suffix(".restoring")
    copy = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_whole(copy, content)
        os.fsync(copy)
    finally:
        os.close(copy)
    temporary.rename(path)


def write_whole(fd: int, data: bytes) -> None:
    """Write all of ``data``, or raise."""
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_folders(folder: Path) -> None:
    """Write the names of new files to the disk: of the folder's, and its own beside the database."""
    for path in (folder, folder.parent):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def segment_sizes(folder: Path) -> dict[str, int]:
    """Return the size of every segment by its file name."""
    return dict(_segment_sizes(folder))


def _segment_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # nothing was recorded yet
        return
    for entry in entries:
        is_named = entry.name.endswith(SUFFIX) and entry.name != REJECTED
        if is_named and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                yield entry.name, os.stat(entry.path).st_size


def open_segments(
    folder: Path, names: Iterable[str], refused: Callable[[str], None] = lambda name: None
) -> Iterator[Segment]:
    """Open those that are still there; the caller closes them.

    ``refused`` is told the name of one that is another user's, and not ours to read.
    """
    for name in names:
        try:
            segment = Segment(folder, name)
        except FileNotFoundError:  # another process has finished it
            continue
        except PermissionError:
            refused(name)
            continue
        yield segment


class BatchReader:
    """Read one batch; ``read`` runs within the transaction that stores it.

    ``ends`` says how far each file was read, by its name: half a line at its end included.
    """

    def __init__(self, segments: list[Segment], batch_bytes: int) -> None:
        self.segments = segments
        self._batch_bytes = batch_bytes
        self.finished: list[Segment] = []
        self.ends: dict[str, int] = {}
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
            size = segment.size()
            lines, end, self.ends[segment.name] = self._lines(segment, position, size, room)
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
        return batch

    def _lines(
        self, segment: Segment, position: int, size: int, room: int
    ) -> tuple[bytes, int, int]:
        """Return whole lines from ``position``, where they end, and where reading ended."""
        if size <= position:
            return b"", position, size
        chunk = segment.read(position, room) if room > 0 else b""
        whole, end = chunk.rfind(b"\n") + 1, position + len(chunk)
        if end < size:
            self.more = True
            endless = not whole and len(chunk) >= self._batch_bytes  # a line, but none of ours
        else:
            endless = segment.orphaned and whole < len(chunk)  # torn: nobody will complete it
            if endless:
                self._torn.append(chunk[whole:])
        if endless:
            return chunk + b"\n", end, end
        return chunk[:whole], position + whole, end


def counts_line(**counts: int) -> bytes:
    """Return the line that adds to storage's counts."""
    return b'{"counts":' + json.dumps(counts).encode() + b"}\n"


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
        if cut:
            visits.append(line[:cut] + b"\n")
            torn.append(line[:cut])
    return b"".join(visits), counts, torn


def _counts(line: bytes) -> dict[str, int] | None:
    try:
        counts = {str(name): int(count) for name, count in json.loads(line)["counts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return counts if all(0 <= count < MAX_COUNT for count in counts.values()) else None
