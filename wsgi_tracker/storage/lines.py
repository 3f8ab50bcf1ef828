"""Load lines in bulk, whatever some of them are: all that can be read, each exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from . import HardBatchError

# Cannot occur within a JSON string, where the quotes would be escaped: so it starts a line.
START = b'{"timestamp":'
NAMES = (b'"timestamp"', b'"method"', b'"endpoint"')  # of fields that no visit lacks


@dataclass(slots=True)
class Unreadable:
    """What is no visit: whole lines, and what stood torn in front of a whole one."""

    lines: list[bytes] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)


def load_readable(
    data: bytes, load: Callable[[bytes, int], bool], patience: float = math.inf
) -> Unreadable:
    """Load all lines of ``data`` and return the pieces that are no visits.

    ``load(data, lines)`` stores lines all or nothing; False means that they are not all visits. Then
    halves are tried, so that one bad line among n costs about 2 n. What cannot be a visit is left out
    before. Raises :exc:`HardBatchError` after ``patience`` refusals.
    """
    loading = _Loading(load, patience)
    if data and not loading.load(data, data.count(b"\n")):
        likely: list[bytes] = []
        for line in data.split(b"\n")[:-1]:
            may_be_one = all(name in line for name in NAMES)
            (likely if may_be_one else loading.unreadable.lines).append(line)
        loading.load_lines(likely)
    return loading.unreadable


class _Loading:
    """Load the lines of one batch, and gather what is left over."""

    def __init__(self, load: Callable[[bytes, int], bool], patience: float) -> None:
        self._load = load
        self._patience = patience
        self.unreadable = Unreadable()

    def load_lines(self, lines: list[bytes]) -> None:
        """Load all that can be, half by half."""
        if not lines or self.load(b"\n".join(lines) + b"\n", len(lines)):
            return
        if len(lines) == 1:
            self._salvage(lines[0])
            return
        self.load_lines(lines[: len(lines) // 2])
        self.load_lines(lines[len(lines) // 2 :])

    def _salvage(self, line: bytes) -> None:
        """Load the whole line that stands behind a torn one, and note what is left over."""
        cut = line.rfind(START)
        if cut > 0 and self.load(line[cut:] + b"\n", 1):
            self.unreadable.torn.append(line[:cut])
        else:
            self.unreadable.lines.append(line)

    def load(self, data: bytes, lines: int) -> bool:
        """Load all of ``data`` or nothing."""
        if self._load(data, lines):
            return True
        self._patience -= 1
        if self._patience < 0:
            raise HardBatchError("most of what waits in the spool is no visit")
        return False
