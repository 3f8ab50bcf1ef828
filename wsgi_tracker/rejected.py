"""Lines of the spool that are no visits, kept beside it for whoever wants to know what they were.

They are counted in storage whether they can be kept or not, and nothing waits for them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import Outage
from .segments import REJECTED, write_whole

MAX_BYTES = 64 << 20
# A pipe or link in its place must not stop the thread, nor lead elsewhere.
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW


class RejectedLines:
    """The file ``rejected.ndjson`` of a spool; it takes 64 MB."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / REJECTED
        self.outage = Outage("lines that are no visits are counted, but not kept")

    def keep(self, lines: Sequence[bytes]) -> None:
        """Append lines; where that fails, the log says so."""
        try:
            self._append(b"".join(line + b"\n" for line in lines))
        except OSError as error:
            self.outage.report(str(error))
        else:
            self.outage.over()

    def _append(self, data: bytes) -> None:
        fd = os.open(self._path, FLAGS, 0o600)
        try:
            if os.fstat(fd).st_size < MAX_BYTES:
                write_whole(fd, data)
        finally:
            os.close(fd)
