"""Wait for servers that do in a moment what nobody can be told the end of."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...errors import StorageError

LOOK_SECONDS = 0.02


def wait_while(problem: Callable[[], str], seconds: float) -> None:
    """Return once ``problem()`` is empty. Raises it as :exc:`StorageError` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while found := problem():
        if time.monotonic() > deadline:
            raise StorageError(found)
        time.sleep(LOOK_SECONDS)
