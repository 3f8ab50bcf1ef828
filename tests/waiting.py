"""Waiting for what another thread or process does: until a deadline, never for a fixed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_SECONDS = 60
PAUSE_SECONDS = 0.01


def wait_until(happened: Callable[[], bool], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something has happened; fail where it does not."""
    deadline, pause = time.monotonic() + patience_seconds, threading.Event()
    while not happened():
        assert time.monotonic() < deadline
        pause.wait(PAUSE_SECONDS)
