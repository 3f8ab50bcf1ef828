"""An access log as whole lines, from where an import of it ended: plain, compressed, growing.

A log is known by what it holds, whatever its name is now: rotated, compressed or copied, it is the
same log. What it is known by stands among the positions of segments, in the same transaction as
its visits, so that no line is stored twice.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import importlib
import io
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import IO, Any

from .errors import ConfigurationError

BLOCK_BYTES = 4 << 20  # some 17,000 lines: others may write after a quarter of a second
FIRST_BYTES = 1 << 12
FIRST_LINES = 200
LONGEST_LINE = 1 << 20
FOLLOW_SECONDS = 0.5
# A server goes on in a log that was renamed until it is told of the new one.
PAUSES_BEHIND_LAST_LINE = 4
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines, and where they end; of one that is too long, only so much that it is seen.

    ``position`` is in bytes of the log's content; ``proof`` is what says that a log has the content
    up to there. ``first_line`` counts from 1.
    """

    lines: list[bytes]
    first_line: int
    position: int
    proof: str


class LogFile:
    """Read a log, in order.

    ``content`` returns what stands in ``raw``, the file itself: the same if it is not compressed.
    What stands behind the last line end is a line, too, unless it may still be written, as
    ``has_open_line`` says at the log's end; an import of a stream cannot be resumed.
    """

    def __init__(
        self,
        name: str,
        raw: io.BufferedReader | _Growing,
        content: Callable[[Any], IO[bytes]] = lambda raw: raw,
        *,
        is_stream: bool = False,
    ) -> None:
        self.name = name
        self.is_stream = is_stream
        self._raw = raw
        self._content = content
        self._begin()

    def _begin(self) -> None:
        self._source = self._content(self._raw)
        self._digest = hashlib.blake2b(digest_size=16)
        self.position = 0
        self._line_ends = 0
        self._is_within_line = False
        self.first_lines: list[bytes] = []  # of these, blank ones left out
        self.has_open_line = False

    def rewind(self) -> None:
        """Go back to the beginning, of the same file, whatever has its name now."""
        self._raw.seek(0)
        self._begin()

    @property
    def lines(self) -> int:
        """How many lines were read or passed over."""
        return self._line_ends + self._is_within_line

    @property
    def proof(self) -> str:
        """What says that a log has the content that was read."""
        return f"log-content-{self._digest.hexdigest()}"

    def first_line(self) -> bytes:
        """Return the beginning of the first line, or so much as is there; :meth:`rewind` then."""
        data = b""
        while b"\n" not in data and len(data) < LONGEST_LINE and (more := self._read(FIRST_BYTES)):
            data += more
        return data.partition(b"\n")[0][:LONGEST_LINE]

    def skip(self, size: int) -> bool:
        """Pass over so many bytes, the end of a line; False if it has no more."""
        if self._source is self._raw and os.fstat(self._raw.fileno()).st_size < size:
            return False  # at once, also of a log whose end is waited for
        while size:
            data = self._read(min(size, BLOCK_BYTES))
            if not data:
                return False
            self._digest.update(data)
            self._pass(data.split(b"\n"), len(data))
            size -= len(data)
        return True

    def blocks(self) -> Iterator[Block]:
        """Yield whole lines until the log's end."""
        rest = b""
        rest_size = 0
        while data := self._read(BLOCK_BYTES):
            end = data.rfind(b"\n") + 1
            if end:
                self._digest.update(data[:end])
                yield self._block(rest + data[:end], rest_size + end)
                rest, rest_size = b"", 0
            self._digest.update(data[end:])
            rest = (rest + data[end:])[: LONGEST_LINE + 1]
            rest_size += len(data) - end
        if rest and (self.is_stream or self._source is not self._raw):
            yield self._block(rest, rest_size)
        else:
            self.has_open_line = bool(rest)

    @property
    def share(self) -> float | None:
        """How much of the file was read; ``None`` where it is no file."""
        if self.is_stream:
            return None
        return self._raw.tell() / (os.fstat(self._raw.fileno()).st_size or 1)

    def _block(self, data: bytes, size: int) -> Block:
        """Return lines of ``size`` bytes, of which ``data`` is what is kept."""
        lines = data.split(b"\n")
        first = self._line_ends + 1
        self._pass(lines, size)
        if not self._is_within_line:
            lines.pop()
        return Block(lines, first, self.position, self.proof)

    def _pass(self, lines: list[bytes], size: int) -> None:
        """Note that so many bytes were read, which are these lines, the last one without its end."""
        if not self.position:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        self.position += size
        self._line_ends += len(lines) - 1
        self._is_within_line = bool(lines[-1])
        if not self.first_lines:
            self.first_lines = list(islice((line for line in lines if line.strip()), FIRST_LINES))

    def _read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except _read_errors() as error:
            raise ConfigurationError(f"{self.name} cannot be read to its end: {error}") from error

    def close(self) -> None:
        """Close it; may be called twice."""
        self._source.close()
        self._raw.close()


def open_log(name: str) -> LogFile:
    """Open a log by its path, or standard input as ``-``; raises :exc:`ConfigurationError`."""
    is_stdin = name == STDIN
    name = "standard input" if is_stdin else name
    with _readable(name):
        raw = open(0, "rb", closefd=False) if is_stdin else open(name, "rb")  # noqa: SIM115
    try:
        is_stream = is_stdin or not raw.seekable()
        return LogFile(name, raw, partial(_decompressed, name), is_stream=is_stream)
    except BaseException:
        raw.close()
        raise


def follow_log(name: str, pause: Callable[[float], None] = time.sleep) -> LogFile:
    """Open a log that is being written; it ends where another file takes its name, or it is cut."""
    with _readable(name):
        return LogFile(name, _Growing(name, pause))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from error


class _Growing(io.FileIO):
    """A file that waits for more at its end, until nothing can come any more."""

    def __init__(self, name: str, pause: Callable[[float], None]) -> None:
        super().__init__(name)
        self._path = name
        self._pause = pause

    def read(self, size: int | None = -1, /) -> bytes:
        pauses = 0
        while True:
            own = os.fstat(self.fileno())
            if own.st_size < self.tell():
                return b""
            is_replaced = self._is_replaced(own)
            if data := super().read(size):
                return data
            if is_replaced and pauses >= PAUSES_BEHIND_LAST_LINE:
                return b""
            self._pause(FOLLOW_SECONDS)
            pauses += is_replaced

    def _is_replaced(self, own: os.stat_result) -> bool:
        try:
            return not os.path.samestat(own, os.stat(self._path))
        except FileNotFoundError:  # moved away, and the new one is not there yet
            return False


_GZIP, _BZIP2, _ZSTD = b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")  # the first one from Python 3.14 on


def _decompressed(name: str, raw: io.BufferedReader) -> IO[bytes]:
    """Return the content of a file, by how it begins: names of rotated logs say little."""
    with _readable(name):
        beginning = raw.peek(len(_ZSTD))
    if beginning.startswith(_GZIP):
        return gzip.open(raw)  # type: ignore[return-value]
    if beginning.startswith(_BZIP2):
        return bz2.BZ2File(raw)
    if beginning.startswith(_ZSTD):
        return _zstd(raw)
    if beginning.startswith(_UTF_16):
        raise ConfigurationError(f"{name} is UTF-16: iconv -f UTF-16 -t UTF-8 makes a log of it")
    return raw


def _zstd(raw: io.BufferedReader) -> IO[bytes]:
    for name in _ZSTD_MODULES:
        with suppress(ImportError):
            content: IO[bytes] = importlib.import_module(name).open(raw)
            return content
    raise ConfigurationError("zstd is read with: pip install backports.zstd")


def _read_errors() -> tuple[type[Exception], ...]:
    """Return what is raised where a file, or its disk, is damaged."""
    zstd = [sys.modules[name].ZstdError for name in _ZSTD_MODULES if name in sys.modules]
    return (OSError, EOFError, zlib.error, *zstd)
