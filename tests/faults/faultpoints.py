"""The application that dies by its own hand, at one point of the protocol, again and again."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import faultapp

import wsgi_tracker.storage.sqlite
from wsgi_tracker.own_segment import OwnSegment
from wsgi_tracker.segments import Segment
from wsgi_tracker.storage.sqlite import SQLiteStorage

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# point: whose function, its name, and whether to die before it is called or after it returned.
POINTS: dict[str, tuple[Any, str, bool]] = {
    "segment created": (fcntl, "flock", True),
    "segment locked": (fcntl, "flock", False),
    "segment named": (OwnSegment, "_adopt", True),
    "segment opened": (OwnSegment, "_adopt", False),
    "rotating": (os, "dup2", True),
    "rotated": (os, "dup2", False),
    "orphan locked": (Segment, "lock", False),
    "transaction begun": (wsgi_tracker.storage.sqlite, "store_batch", True),
    "visits inserted": (wsgi_tracker.storage.sqlite, "store_batch", False),
    "committed": (SQLiteStorage, "ingest", False),
    "unlinking": (Segment, "unlink", True),
    "unlinked": (Segment, "unlink", False),
}


def tracked() -> WSGIApplication:
    """Return the tracked application of :mod:`faultapp`, told by the environment where to die."""
    owner, name, before = POINTS[os.environ["FAULTS_POINT"]]
    reached: Callable[..., Any] = getattr(owner, name)

    def deadly(*args: Any, **options: Any) -> Any:
        if before:
            die()
        result = reached(*args, **options)
        if not before and result is not False:  # a lock that somebody else has is not taken
            die()
        return result

    setattr(owner, name, deadly)
    return faultapp.tracked()


def die() -> None:
    """Kill this process at once, unless enough have died; each leaves a byte in a file."""
    fd = os.open(os.environ["FAULTS_DEATHS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        if os.fstat(fd).st_size >= int(os.environ["FAULTS_DEATHS_WANTED"]):
            return
        os.write(fd, b"x")
    finally:
        os.close(fd)
    os.kill(os.getpid(), signal.SIGKILL)
