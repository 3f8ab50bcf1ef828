"""A log is read as whole lines from where it was left, whatever it is packed in, as it grows."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from wsgi_tracker import logfile
from wsgi_tracker.errors import ConfigurationError
from wsgi_tracker.logfile import LONGEST_LINE, LogFile, follow_log, open_log

PATIENCE_SECONDS = 30
LINES = [b"first", b"second", b"third"]
CONTENT = b"first\nsecond\nthird\n"


def lines_of(log: LogFile) -> list[bytes]:
    return [line for block in log.blocks() for line in block.lines]


def zstd(content: bytes) -> bytes:
    """Compress as the program of this name does, with a checksum."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError:
        module = pytest.importorskip("backports.zstd")
    options = {module.CompressionParameter.checksum_flag: 1}
    return bytes(module.compress(content, options=options))


PACKED = [
    pytest.param(gzip.compress, id="gzip"),
    pytest.param(bz2.compress, id="bzip2"),
    pytest.param(zstd, id="zstd"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.mark.parametrize("pack", [pytest.param(bytes, id="plain"), *PACKED])
def test_lines_are_those_that_were_written(pack: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(pack(CONTENT))

    with closing(open_log(str(path))) as log:
        (block,) = log.blocks()

    assert (block.lines, block.first_line, block.position) == (LINES, 1, len(CONTENT))


def test_gzip_that_was_appended_to_is_read_to_its_end(path: Path) -> None:
    path.write_bytes(gzip.compress(b"first\nsec") + gzip.compress(b"ond\nthird\n"))

    with closing(open_log(str(path))) as log:
        assert lines_of(log) == LINES


@pytest.mark.parametrize("pack", [pytest.param(bytes, id="plain"), *PACKED])
@pytest.mark.parametrize("bytes_read", [1, 7, 12, 1 << 20])
def test_blocks_are_of_whole_lines_however_it_is_read(
    pack: Callable[[bytes], bytes], bytes_read: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(pack(CONTENT))
    monkeypatch.setattr(logfile, "BLOCK_BYTES", bytes_read)

    with closing(open_log(str(path))) as log:
        blocks = list(log.blocks())

    assert [line for block in blocks for line in block.lines] == LINES
    end, number = 0, 1
    for block in blocks:
        end += sum(len(line) + 1 for line in block.lines)
        digest = hashlib.blake2b(CONTENT[:end], digest_size=16).hexdigest()
        assert (block.first_line, block.position) == (number, end)
        assert block.proof == f"log-content-{digest}"
        number += len(block.lines)


@pytest.mark.parametrize("pack", [pytest.param(bytes, id="plain"), *PACKED])
def test_what_was_skipped_is_not_read_but_counted(
    pack: Callable[[bytes], bytes], path: Path
) -> None:
    path.write_bytes(pack(CONTENT))

    with closing(open_log(str(path))) as log:
        assert log.first_line() == b"first"
        log.rewind()
        assert log.skip(len(b"first\nsecond\n"))
        (block,) = log.blocks()

    assert (block.lines, block.first_line, block.position) == ([b"third"], 3, len(CONTENT))
    digest = hashlib.blake2b(CONTENT, digest_size=16).hexdigest()
    assert block.proof == f"log-content-{digest}"


@pytest.mark.parametrize("pack", [pytest.param(bytes, id="plain"), *PACKED])
def test_more_than_there_is_cannot_be_skipped(pack: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(pack(CONTENT))

    with closing(open_log(str(path))) as log:
        assert not log.skip(len(CONTENT) + 1)


def test_half_a_last_line_of_a_plain_log_waits(path: Path) -> None:
    path.write_bytes(CONTENT + b"fou")
    with closing(open_log(str(path))) as log:
        before = list(log.blocks())

    with path.open("ab") as file:
        file.write(b"rth\n")
    with closing(open_log(str(path))) as log:
        log.skip(before[-1].position)
        behind = lines_of(log)

    assert before[-1].position == len(CONTENT)
    assert behind == [b"fourth"]


@pytest.mark.parametrize("pack", PACKED)
def test_half_a_last_line_of_a_packed_log_is_a_line(
    pack: Callable[[bytes], bytes], path: Path
) -> None:
    path.write_bytes(pack(CONTENT + b"fourth"))

    with closing(open_log(str(path))) as log:
        blocks = list(log.blocks())

    assert [line for block in blocks for line in block.lines] == [*LINES, b"fourth"]
    assert blocks[-1].position == len(CONTENT + b"fourth")


@pytest.mark.parametrize("bytes_read", [1000, 1 << 22])
def test_line_that_is_too_long_is_one_line_of_which_little_is_kept(
    bytes_read: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What followed its first 4 MB was taken for a line of its own, and later numbers were wrong."""
    content = CONTENT + b"x" * (2 * LONGEST_LINE) + b"end\n" + CONTENT
    path.write_bytes(content)
    monkeypatch.setattr(logfile, "BLOCK_BYTES", bytes_read)

    with closing(open_log(str(path))) as log:
        blocks = list(log.blocks())

    lines = [line for block in blocks for line in block.lines]
    assert [line for line in lines if b"x" not in line] == LINES + LINES
    (long,) = [line for line in lines if b"x" in line]
    assert len(long) > LONGEST_LINE
    assert blocks[-1].position == len(content)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    assert blocks[-1].proof == f"log-content-{digest}"


def test_long_first_line_is_the_same_however_much_of_it_is_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "FIRST_BYTES", 5000)
    found = []
    for size in (LONGEST_LINE, LONGEST_LINE + 1, 3 * LONGEST_LINE):
        path.write_bytes(b"x" * size)
        with closing(open_log(str(path))) as log:
            found.append(log.first_line())

    assert len(set(found)) == 1


@pytest.mark.parametrize("pack", PACKED)
def test_truncated_file_says_so(pack: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(pack(os.urandom(100_000))[:50_000])

    with closing(open_log(str(path))) as log, pytest.raises(ConfigurationError, match=path.name):
        lines_of(log)


@pytest.mark.parametrize("pack", PACKED)
@pytest.mark.parametrize("begin", [12, 5000])
def test_damaged_file_says_so(pack: Callable[[bytes], bytes], begin: int, path: Path) -> None:
    """Damage within a gzip was a zlib.error, with its traceback."""
    text = b"".join(b"%d is one of the lines\n" % number for number in range(50_000))
    packed = bytearray(pack(text))
    packed[begin : begin + 500] = b"\xff" * 500
    path.write_bytes(packed)

    with closing(open_log(str(path))) as log, pytest.raises(ConfigurationError, match="end: "):
        lines_of(log)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_refused_with_advice(encoding: str, path: Path) -> None:
    path.write_bytes(("\ufeff" * (encoding != "utf-16") + "first\n").encode(encoding))

    with pytest.raises(ConfigurationError, match="iconv -f UTF-16"):
        open_log(str(path))


@pytest.mark.parametrize("open_named", [open_log, follow_log])
def test_what_is_no_readable_file_says_so(
    open_named: Callable[[str], LogFile], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        open_named(str(tmp_path))
    with pytest.raises(ConfigurationError, match="No such file"):
        open_named(str(tmp_path / "missing.log"))


@pytest.mark.parametrize("pack", [pytest.param(bytes, id="plain"), *PACKED])
def test_pipe_is_a_stream(pack: Callable[[bytes], bytes], path: Path) -> None:
    """As of ``import <(zcat access.log.gz)``: its beginning was asked for by its place."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[pack(CONTENT + b"fourth")])
    writer.start()

    with closing(open_log(str(path))) as log:
        found = lines_of(log)
    writer.join(PATIENCE_SECONDS)

    assert (found, log.is_stream) == ([*LINES, b"fourth"], True)


class Writer:
    """What happens to a log that is followed, one step at each pause of who waits for more."""

    def __init__(self, path: Path, *steps: Callable[[], object]) -> None:
        self._steps = iter(steps)
        self.log = follow_log(str(path), self._pause)
        self.pauses = 0

    def _pause(self, seconds: float) -> None:
        self.pauses += 1
        assert self.pauses < 100, "it waits for ever"
        next(self._steps, lambda: None)()


def append(path: Path, data: bytes) -> Callable[[], object]:
    def write() -> None:
        with path.open("ab") as file:
            file.write(data)

    return write


@pytest.fixture
def followed(path: Path) -> Iterator[Callable[..., Writer]]:
    """Follow a log; what is done to it stands in ``steps``."""
    writers = []

    def follow(*steps: Callable[[], object]) -> Writer:
        writers.append(Writer(path, *steps))
        return writers[-1]

    yield follow
    for writer in writers:
        writer.log.close()


def test_followed_log_yields_lines_as_they_come(
    path: Path, followed: Callable[..., Writer]
) -> None:
    path.write_bytes(b"first\n")
    writer = followed(append(path, b"second\n"), append(path, b"third\n"))

    blocks = writer.log.blocks()
    found = [(next(blocks).lines, writer.pauses) for _ in range(3)]

    assert found == [([b"first"], 0), ([b"second"], 1), ([b"third"], 2)]


def test_half_a_line_of_a_followed_log_waits(path: Path, followed: Callable[..., Writer]) -> None:
    path.write_bytes(b"first\nsec")
    writer = followed(append(path, b"on"), append(path, b"d\nthi"), append(path, b"rd\n"))

    blocks = writer.log.blocks()
    found = [(next(blocks).lines, writer.pauses) for _ in range(3)]

    assert found == [([b"first"], 0), ([b"second"], 2), ([b"third"], 3)]


def test_followed_log_waits_for_its_first_line(path: Path, followed: Callable[..., Writer]) -> None:
    path.touch()
    writer = followed(append(path, b"fi"), append(path, b"rst\n"))

    assert writer.log.first_line() == b"first"


def test_lines_behind_a_rotation_are_read_until_no_more_come(
    path: Path, followed: Callable[..., Writer]
) -> None:
    """A server writes to a log that was renamed until it is told to open the new one."""
    path.write_bytes(b"first\n")
    rotated = path.with_name("access.log.1")

    writer = followed(
        lambda: path.rename(rotated),
        append(rotated, b"second\n"),
        lambda: path.write_bytes(b"new\n"),
        lambda: None,
        append(rotated, b"third\nhalf"),
    )

    assert lines_of(writer.log) == LINES


def test_followed_log_ends_where_it_is_cut(path: Path, followed: Callable[..., Writer]) -> None:
    """Half a line stayed, though the copy has all of it."""
    path.write_bytes(b"first\nsecond\nhal")
    writer = followed(lambda: path.write_bytes(b"new\n"))

    assert lines_of(writer.log) == LINES[:2]


def test_log_that_is_shorter_than_what_was_imported_is_not_waited_for(
    path: Path, followed: Callable[..., Writer]
) -> None:
    path.write_bytes(b"first\n")
    writer = followed()

    assert not writer.log.skip(1000)
    assert writer.pauses == 0


def test_rewound_log_is_the_same_file_whatever_has_its_name(
    path: Path, followed: Callable[..., Writer]
) -> None:
    path.write_bytes(CONTENT)
    writer = followed()
    writer.log.first_line()
    path.rename(path.with_name("access.log.1"))
    path.write_bytes(b"new\n")

    writer.log.rewind()

    assert lines_of(writer.log) == LINES
