"""The process around us: it may fork at any moment, and gevent may have replaced its threads.

Not here: what each thing does about it. A thing that holds descriptors, locks or connections
registers with :func:`watch_forks` and says so itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeAlias

Hook: TypeAlias = "Callable[[], None]"
TURN_PATIENCE_SECONDS = 10.0
FORK_PATIENCE_SECONDS = 5.0


class _Hooks:
    """Methods to call, kept only as long as their objects live."""

    def __init__(self) -> None:
        self._methods: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []

    def add(self, hook: Hook | None) -> None:
        self._methods = [pair for pair in self._methods if pair[0]() is not None]
        if isinstance(hook, MethodType):
            self._methods.append((weakref.ref(hook.__self__), hook.__func__))

    def call(self, *, newest_first: bool = False) -> None:
        for reference, method in self._methods[:: -1 if newest_first else 1]:
            thing = reference()
            if thing is not None:
                method(thing)


_before, _in_parent, _in_child = _Hooks(), _Hooks(), _Hooks()


def watch_forks(
    *, before: Hook | None = None, in_parent: Hook | None = None, in_child: Hook | None = None
) -> None:
    """Call these bound methods around forks, for as long as their objects live.

    ``before`` comes to rest: no statement runs, no other thread holds a lock. ``in_child`` lets
    go of what belongs to the parent, without unlocking or closing the parent's state.
    """
    _before.add(before)
    _in_parent.add(in_parent)
    _in_child.add(in_child)


def threads_run() -> bool:
    """Return whether threads run while no request does.

    Not on a uWSGI that was not told to: a thread that lets go of the GIL, so that SQLite may work,
    gets it back with its process's next request, perhaps never; and what it holds, it keeps.
    """
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if options is None or "threads" in options or "gevent" in options:
        return True
    return options.get("enable-threads", b"0") not in (b"0", b"false", b"off", b"no")


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


class ForkLock:
    """What one thread at a time does, and what no fork is to come in the middle of.

    A fork waits for it, though not for ever; in a child nobody is at it.
    """

    def __init__(self) -> None:
        self._reset()
        watch_forks(
            before=self._before_fork, in_parent=self._after_fork_in_parent, in_child=self._reset
        )

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = new_lock()
        self._held_for_forks: list[bool] = []

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # a fork that ran no Python hooks
            self._reset()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Try, without waiting; yields whether it is ours."""
        self._check_process()
        lock = self._lock
        if not lock.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _before_fork(self) -> None:
        self._check_process()
        # One entry per fork: two at once, each with its own result, must not forget one.
        self._held_for_forks.append(self._lock.acquire(timeout=FORK_PATIENCE_SECONDS))

    def _after_fork_in_parent(self) -> None:
        if self._held_for_forks and self._held_for_forks.pop():
            self._lock.release()


class _Forks:
    """Run the hooks around one fork after another: two at once would wait for each other.

    Who does not get its turn in time forks all the same; each hook bears that. A fork inside a
    hook, or of another greenlet while one waits in a hook, finds all done that can be done.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._turn = new_lock()
        self._thread = 0  # whose turn it is
        self._inner = 0  # its forks within that fork

    def before(self) -> None:
        if self._pid != os.getpid():  # a fork that ran no Python hooks
            self._reset()
        thread = unpatched("_thread", "get_ident")()
        if self._thread == thread:
            self._inner += 1
            return
        if self._turn.acquire(timeout=TURN_PATIENCE_SECONDS):
            self._thread = thread
        # Newest first: an ingester comes to rest before the connections that it uses are closed.
        _before.call(newest_first=True)

    def in_parent(self) -> None:
        """Go on; also where the fork has failed, or a hook before it."""
        has_turn = self._thread == unpatched("_thread", "get_ident")()
        if has_turn and self._inner:
            self._inner -= 1
            return
        try:
            _in_parent.call()
        finally:
            if has_turn:
                self._thread = 0
                self._turn.release()

    def in_child(self) -> None:
        self._reset()
        _in_child.call()


_forks = _Forks()
os.register_at_fork(
    before=_forks.before,
    after_in_parent=_forks.in_parent,
    after_in_child=_forks.in_child,
)
