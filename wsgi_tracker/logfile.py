"""An access log as whole lines, from where an import of it ended: plain, compressed, growing.

A log is known by what it holds, whatever its name is now: rotated, compressed or copied, it is the
same log. What it is known by stands among the positions of segments, in the same transaction as
its visits, so that no line is stored twice.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from .errors import ConfigurationError

BLOCK_BYTES = 4 << 20  # some 17,000 lines: others may write after a quarter of a second
FIRST_BYTES = 1 << 12
LONGEST_LINE = 1 << 20
FOLLOW_SECONDS = 0.5
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines, and where they end.

    ``position`` is in bytes of the log's content; ``proof`` is what says that a log has the content
    up to there. ``first_line`` counts from 1.
    """

    lines: list[bytes]
    first_line: int
    position: int
    proof: str


class LogFile:
    """Read a log, in order.

    ``raw`` is the file itself where ``source`` is its content: the same if it is not compressed.
    What stands behind the last line end is a line, too, if the log ``is_final``.
    """

    def __init__(
        self, name: str, raw: IO[bytes], source: IO[bytes], *, is_final: bool = True
    ) -> None:
        self.name = name
        self._raw = raw
        self._source = source
        self._is_final = is_final
        self._digest = hashlib.blake2b(digest_size=16)
        self._rest = b""
        self.position = 0
        self.lines = 0  # that were read or passed over

    @property
    def proof(self) -> str:
        """What says that a log has the content that was read."""
        return f"log-content-{self._digest.hexdigest()}"

    def first_line(self) -> bytes:
        """Return the first line, or so much of it as is there; nothing else can be read then."""
        data = b""
        while b"\n" not in data and len(data) <= LONGEST_LINE and (more := self._read(FIRST_BYTES)):
            data += more
        return data.partition(b"\n")[0]

    def skip(self, size: int) -> bool:
        """Pass over so many bytes, the end of a line; False if it has no more."""
        while size:
            data = self._read(min(size, BLOCK_BYTES))
            if not data:
                return False
            self._pass(data)
            size -= len(data)
        return True

    def blocks(self) -> Iterator[Block]:
        """Yield whole lines until the log's end."""
        while data := self._read(BLOCK_BYTES):
            data = self._rest + data
            end = data.rfind(b"\n") + 1
            self._rest = data[end:]
            if not end and len(data) <= LONGEST_LINE:
                continue
            yield self._block(data[:end] if end else data)
            if not end:
                self._rest = b""
        if self._rest and self._is_final:
            yield self._block(self._rest)
            self._rest = b""

    @property
    def is_cut(self) -> bool:
        """Whether there is half a line at its end, that may still be written."""
        return bool(self._rest)

    @property
    def share(self) -> float | None:
        """How much of the file was read; ``None`` where it is no file."""
        try:
            return self._raw.tell() / (os.fstat(self._raw.fileno()).st_size or 1)
        except OSError:  # a pipe
            return None

    def _block(self, data: bytes) -> Block:
        first = self.lines + 1
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        self._digest.update(data)
        self.position += len(data)
        self.lines += len(lines)
        return Block(lines, first, self.position, self.proof)

    def _pass(self, data: bytes) -> None:
        self._digest.update(data)
        self.position += len(data)
        self.lines += data.count(b"\n")

    def _read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except (OSError, EOFError) as error:  # a truncated or damaged file, a disk
            raise ConfigurationError(f"{self.name} cannot be read to its end: {error}") from error

    def close(self) -> None:
        """Close it; may be called twice."""
        self._source.close()
        self._raw.close()


def open_log(name: str) -> LogFile:
    """Open a log by its path, or standard input as ``-``; raises :exc:`ConfigurationError`."""
    if name == STDIN:
        raw = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
        return LogFile("standard input", raw, _decompressed(raw, raw.peek(len(_ZSTD))[:4]))
    raw = _open(name)
    beginning = os.pread(raw.fileno(), len(_ZSTD), 0)
    source = _decompressed(raw, beginning)
    return LogFile(name, raw, source, is_final=source is not raw)


def follow_log(name: str, pause: Callable[[float], None] = time.sleep) -> LogFile:
    """Open a log that is being written; it ends where another file takes its name, or it is cut."""
    return LogFile(name, raw := _Growing(name, pause), raw)


def _open(name: str) -> io.BufferedReader:
    try:
        return open(name, "rb")
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from error


class _Growing(io.FileIO):
    """A file that waits for more at its end, until nothing can come any more."""

    def __init__(self, name: str, pause: Callable[[float], None]) -> None:
        super().__init__(_open(name).detach().fileno())
        self._path = name
        self._pause = pause

    def read(self, size: int | None = -1, /) -> bytes:
        while True:
            is_over = self._is_over()
            if (data := super().read(size)) or is_over:
                return data or b""
            self._pause(FOLLOW_SECONDS)

    def _is_over(self) -> bool:
        own = os.fstat(self.fileno())
        if own.st_size < self.tell():
            return True
        try:
            return not os.path.samestat(own, os.stat(self._path))
        except FileNotFoundError:  # moved away, and the new one is not there yet
            return False


_GZIP, _BZIP2, _ZSTD = b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"


def _decompressed(raw: io.BufferedReader, beginning: bytes) -> IO[bytes]:
    """Return the content of a file, by how it begins: names of rotated logs say little."""
    if beginning.startswith(_GZIP):
        return gzip.open(raw)  # type: ignore[return-value]
    if beginning.startswith(_BZIP2):
        return bz2.BZ2File(raw)
    if beginning == _ZSTD:
        return _zstd(raw)
    return raw


def _zstd(raw: io.BufferedReader) -> IO[bytes]:
    with suppress(ImportError):
        content: IO[bytes] = importlib.import_module("compression.zstd").open(raw)  # 3.14 on
        return content
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise ConfigurationError("zstd is read with: pip install zstandard") from error
    content = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return content
