"""All visits of a selection, oldest or first stored first, as lines or CSV: a page at a time.

Each page is read in a short transaction of its own, so that a slow client holds nothing up, and
nothing is held in memory but it. What came before the export was asked for is in it, once.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .errors import PoolTimeoutError
from .period import SECOND, iso_timestamp
from .selection import Selection
from .storage import Storage
from .visit import FIELDS, Visit

VISITS_PER_PAGE = 1000
ATTEMPTS = 30
# What a spreadsheet would take for a formula, or for the end of a cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Export:
    """Visits of ``selection`` behind a timestamp and id, or from the first."""

    storage: Storage
    selection: Selection
    format: str
    by_arrival: bool = False
    behind: tuple[int, int] | None = None

    def blocks(self) -> Iterator[bytes]:
        """Yield it in blocks; what is wrong with the question is raised at the first one."""
        with self.storage.snapshot(long=True) as snapshot:
            upto = snapshot.newest_id()
        behind, encode = self.behind, _ENCODERS[self.format]
        header = _csv_header() if self.format == "csv" and behind is None else b""
        while True:
            page = self._page(behind, upto)
            yield header + encode(page)
            if len(page) < VISITS_PER_PAGE:
                return
            last, visit = page[-1]
            header, behind = b"", (visit.timestamp, last)

    def _page(self, behind: tuple[int, int] | None, upto: int) -> list[tuple[int, Visit]]:
        """Return one page; others may be busy, and what has begun is not cut short for that."""
        attempts = 0
        while True:
            try:
                return self._read(behind, upto)
            except PoolTimeoutError:  # after a second
                attempts += 1
                if attempts > ATTEMPTS or behind == self.behind:
                    raise

    def _read(self, behind: tuple[int, int] | None, upto: int) -> list[tuple[int, Visit]]:
        with self.storage.snapshot(long=True) as snapshot:
            if self.by_arrival:
                last = None if behind is None else behind[1]
                return snapshot.arrived_visits(self.selection, VISITS_PER_PAGE, last, upto)
            return snapshot.oldest_visits(self.selection, VISITS_PER_PAGE, behind, upto)


def _as_lines(page: Iterable[tuple[int, Visit]]) -> bytes:
    lines = [
        json.dumps({**asdict(visit), "cursor": _cursor(id, visit)}, separators=(",", ":"))
        for id, visit in page
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _as_csv(page: Iterable[tuple[int, Visit]]) -> bytes:
    text = io.StringIO(newline="")
    write = csv.writer(text).writerow
    for id, visit in page:
        write([*(_cell(name, getattr(visit, name)) for name in FIELDS), _cursor(id, visit)])
    return text.getvalue().encode()


def _csv_header() -> bytes:
    """Return the first line of CSV."""
    return ",".join([*FIELDS, "cursor"]).encode() + b"\r\n"


def _cursor(id: int, visit: Visit) -> str:
    return f"{visit.timestamp}-{id}"


def _cell(name: str, value: Any) -> Any:
    if name == "timestamp":
        return f"{iso_timestamp(value)[:-1]}.{value % SECOND:06}Z"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


_ENCODERS = {"ndjson": _as_lines, "csv": _as_csv}
