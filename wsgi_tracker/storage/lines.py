"""Load lines in bulk, whatever some of them are: all that can be read, each exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

# Cannot occur within a JSON string, where the quotes would be escaped: so it starts a line.
START = b'{"timestamp":'


@dataclass(slots=True)
class Unreadable:
    """What is no visit: whole lines, and what stood torn in front of a whole one."""

    lines: list[bytes] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)


def load_readable(data: bytes, load: Callable[[str, int], bool]) -> Unreadable:
    """Load all lines of ``data`` and return the pieces that are no visits.

    ``load(array, lines)`` stores a JSON array all or nothing; False means that it does not hold
    that many visits. Then halves are tried, so that one bad line among n costs about 2 n.
    """
    unreadable = Unreadable()
    if data and not _load(data, data.count(b"\n"), load):
        _load_halves(data.split(b"\n")[:-1], load, unreadable)
    return unreadable


def _load_halves(lines: list[bytes], load: Callable[[str, int], bool], out: Unreadable) -> None:
    if len(lines) == 1:
        _salvage(lines[0], load, out)
        return
    for half in (lines[: len(lines) // 2], lines[len(lines) // 2 :]):
        if not _load(b"\n".join(half) + b"\n", len(half), load):
            _load_halves(half, load, out)


def _salvage(line: bytes, load: Callable[[str, int], bool], out: Unreadable) -> None:
    """Load the whole line that stands behind a torn one, and note what is left over."""
    cut = line.rfind(START)
    if cut > 0 and _load(line[cut:] + b"\n", 1, load):
        out.torn.append(line[:cut])
    else:
        out.lines.append(line)


def _load(data: bytes, lines: int, load: Callable[[str, int], bool]) -> bool:
    # The line ends stay within the array: a string that runs over one is an error, and two
    # broken lines cannot join into a good one. At NUL, SQLite would take the text to be at its end.
    if b"\0" in data:
        return False
    try:
        array = "[" + data[:-1].replace(b"\n", b",\n").decode() + "]"
    except UnicodeDecodeError:
        return False
    return load(array, lines)
