"""Segments, the files of a spool: made, named, found, and opened to be read.

A segment begins with a line that names it. Lines are visits, or counts of what never became one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from .period import LAST_TIMESTAMP

SUFFIX = ".ndjson"
ID_LENGTH = 32
HEADER_BYTES = len(b'{"segment":""}\n') + ID_LENGTH
REJECTED = "rejected.ndjson"
COUNTS = b'{"counts":'
# A pipe in the place of a segment would wait for a writer for ever, a link may lead anywhere.
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
CHUNK_BYTES = 1 << 20
TAIL_BYTES = 65536  # more than the longest line
WRITE_ADVICE = "make room on its disk, or give this process's user the right to write there"


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
            self.identify()
        except BaseException:  # no file, but a pipe or a folder
            os.close(self._fd)
            raise
        self.orphaned = False

    def identify(self) -> None:
        """Read ``id``, and ``first``, where the first line of visits begins."""
        self.id, self.first = self._read_header()

    def _read_header(self) -> tuple[str, int]:
        start = os.pread(self._fd, HEADER_BYTES, 0)
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
            if not self.first:  # opened before its writer had written the first line
                self.identify()
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
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if type(timestamp) is int and 0 <= timestamp <= LAST_TIMESTAMP:  # True is no time
            return timestamp
        return None

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Read what is between two line ends, in pieces of whole lines as far as that can be."""
        while start < end:
            chunk = self.read(start, min(end - start, CHUNK_BYTES))
            if not chunk:
                break  # cut by somebody
            size = chunk.rfind(b"\n") + 1 or len(chunk)
            yield chunk[:size]
            start += size

    def unlink(self) -> None:
        """Delete the file; the caller holds its lock, and knows every line stored."""
        if is_at(self._path, self._fd):
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


def counts_line(counts: Mapping[str, int]) -> bytes:
    """Return the line that adds to storage's counts."""
    return COUNTS + json.dumps(counts).encode() + b"}\n"


def make_folder(folder: Path) -> None:
    """Create the spool's folder, readable by its owner alone."""
    folder.mkdir(mode=0o700, exist_ok=True)


def create_segment(folder: Path, *, sync: bool) -> tuple[int, Path]:
    """Create a segment and hold it with ``flock``; return the descriptor to append to, and where.

    With ``sync``, the file and each write are on the disk when they return. Raises
    :exc:`OSError`.
    """
    # The kernel syncs within the write: another thread's rotation, which puts a new file on the
    # descriptor, cannot come between a line and its fdatasync().
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | (sync and os.O_DSYNC)
    while True:
        segment = os.urandom(ID_LENGTH // 2).hex()
        path = folder / (segment + SUFFIX)
        fd = os.open(path, flags, 0o600)
        try:
            if _claim(fd, segment):
                if sync:
                    sync_folders(folder)
                return fd, path
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)  # a full disk would gather one every second
            raise
        os.close(fd)


def _claim(fd: int, segment: str) -> bool:
    """Lock a new segment and name it; False if an ingester took it for an orphan."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if os.fstat(fd).st_nlink != 1:
        return False
    write_whole(fd, header(segment))
    return True


def write_whole(fd: int, data: bytes) -> None:
    """Write all of ``data``, or raise."""
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_folders(folder: Path) -> None:
    """Write names of new files to the disk: of the folder's, and its own beside the database."""
    for path in (folder, folder.parent):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def is_at(path: Path, fd: int) -> bool:
    """Return whether ``path`` still names an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except (FileNotFoundError, NotADirectoryError):
        return False


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
    folder: Path, names: Iterable[str], refused: Callable[[str, OSError], None]
) -> Iterator[Segment]:
    """Open those that are still there; the caller closes them.

    ``refused`` is told of one that cannot be opened. Raises :exc:`OSError` where none can be.
    """
    for name in names:
        try:
            segment = Segment(folder, name)
        except FileNotFoundError:  # another process has finished it
            continue
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            refused(name, error)
            continue
        yield segment


def look_at_segments(
    folder: Path, names: Iterable[str], refused: Callable[[str, OSError], None]
) -> Iterator[tuple[Segment, int]]:
    """Open one at a time, with where its last whole line ends; copies of others are left out."""
    for segment in open_segments(folder, names, refused):
        try:
            if segment.is_copy_of_another:
                continue
            try:
                end = segment.end_of_lines()
            except OSError as error:
                refused(segment.name, error)
                continue
            if not segment.first:  # its writer may have named it just now
                segment.identify()
            yield segment, end
        finally:
            segment.close()


def explain_refusal(folder: Path, name: str, error: OSError) -> str:
    """Return which segment cannot be read, and what to do about it."""
    if isinstance(error, PermissionError):
        return (
            f"no permission to read {name}; let all processes run as one user, or give the files in "
            f"{folder} to the one who ingests"
        )
    return (
        f"{name} in {folder} cannot be read: {error.strerror}; the system's log says why, and the "
        f"file may be moved away; all others go on"
    )
