"""The process around us: it may fork at any moment, and gevent may have replaced its threads.

Not here: what each thing does about it. A thing that holds descriptors, locks or connections
registers with :func:`watch_forks` and says so itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol


class ForkAware(Protocol):
    """Something that a fork would break if nobody told it."""

    def before_fork(self) -> None:
        """Come to rest: no statement running, no lock held by another thread."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent, without unlocking or closing its state."""


_watched: list[weakref.ref[ForkAware]] = []


def watch_forks(thing: ForkAware) -> None:
    """Tell ``thing`` about forks for as long as it lives."""
    _watched.append(weakref.ref(thing, _watched.remove))


def _living() -> list[ForkAware]:
    return [thing for reference in list(_watched) if (thing := reference()) is not None]


def _before_fork() -> None:
    # Newest first: an ingester comes to rest before the connections that it uses are closed.
    for thing in reversed(_living()):
        thing.before_fork()


def _after_fork_in_parent() -> None:
    for thing in _living():
        thing.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for thing in _living():
        thing.after_fork_in_child()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def unpatched(module: str, name: str) -> Callable[..., Any]:
    """Return the standard library's own function, also where gevent has replaced it.

    A thread that runs SQLite must be a real one: a greenlet would stop every request meanwhile.
    """
    monkey = sys.modules.get("gevent.monkey")
    original: Callable[..., Any]
    if monkey is not None:
        original = monkey.get_original(module, name)
    else:
        original = getattr(importlib.import_module(module), name)
    return original


def new_lock() -> Any:
    """Return a real lock that threads and greenlets may share; hold it for moments only."""
    return unpatched("_thread", "allocate_lock")()
