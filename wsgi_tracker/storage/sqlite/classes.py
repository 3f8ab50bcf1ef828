"""The classes of user agents in SQLite: decided once, in steps too small to hold anybody up.

A new user agent has no class, and shows as unknown, until it is decided: in the transaction that
takes in its first visit, or in short ones behind it. What it takes to decide is loaded when it is
missed, and but for an import while others may ingest; who does so meanwhile misses it, too. Where there
are more than fit into the time for that, the rest is unknown for good, or until all are classified anew.
So whoever sends a new user agent with every request costs the ingester some of its time, and no visit.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ...agents import Classify, data_version, load_classifier
from ...process import ForkLock
from .schema import transaction

REST_SECONDS = 1.0  # for those beyond what a batch's transaction has time for
DECIDE_SECONDS = 0.05  # of a transaction; one user agent takes 0.1 to 2 ms, a malicious one 20
AGENTS_PER_STEP = 500

Decision: TypeAlias = "tuple[str | int | None, ...]"  # what STORE takes

# Whoever writes into the table by hand may leave what is no text.
AGENTS = "SELECT id, CAST(user_agent AS TEXT) FROM user_agents"
IS_UNDECIDED = "SELECT EXISTS (SELECT 1 FROM user_agents WHERE class IS NULL)"
# Those that were counted before there was anything to decide by are decided all the same.
GIVE_UP = """
UPDATE user_agents SET class = 'unknown', rule = 'too many at once' WHERE class IS NULL
AND id > coalesce((SELECT value FROM settings WHERE name = 'counted_agent_id'), 0)"""
UNDECIDED = f"{AGENTS} WHERE class IS NULL ORDER BY id DESC LIMIT ?"
FOLLOWING = f"{AGENTS} WHERE id > ? ORDER BY id LIMIT ?"
STORE = """
UPDATE user_agents SET class = ?, rule = ?, browser = ?, system = ?, device = ? WHERE id = ?"""
DATA = "SELECT value FROM settings WHERE name = 'agents_data'"
CLASS_OF_VISIT = """
CASE WHEN user_agent_id IS NULL THEN 'empty' ELSE coalesce(
    (SELECT class FROM user_agents WHERE user_agents.id = user_agent_id), 'unknown') END"""


def class_condition(agent_class: str | None) -> str:
    """Return what visits of a class fulfil, with the class as ``:only``; of all, anything."""
    return "true" if agent_class is None else f"{CLASS_OF_VISIT} = :only"


def read_data_version(connection: sqlite3.Connection) -> str | None:
    """Return which data the classes here are of; ``None`` before the first."""
    row = connection.execute(DATA).fetchone()
    return None if row is None else str(row[0])


def read_undecided(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """Return ids of the newest user agents without a class, and the user agents."""
    return connection.execute(UNDECIDED, (AGENTS_PER_STEP,)).fetchall()


def decide(agents: Iterable[tuple[int, str]], classify: Classify) -> list[Decision]:
    """Classify as many as there is time for, and at least one."""
    deadline = time.monotonic() + DECIDE_SECONDS
    decided: list[Decision] = []
    for id, user_agent in agents:
        agent = classify(user_agent)
        decided.append(
            (agent.agent_class, agent.rule, agent.browser, agent.system, agent.device, id)
        )
        if time.monotonic() > deadline:
            break
    return decided


def store(connection: sqlite3.Connection, decided: Sequence[Decision], data: str) -> None:
    """Store what was decided by ``data``, within the caller's transaction.

    The only place where a class changes.
    """
    if decided:
        connection.executemany(STORE, decided)
        connection.execute(
            "INSERT OR IGNORE INTO settings (name, value) VALUES ('agents_data', ?)", (data,)
        )


class Decisions:
    """Decide the class of new user agents around each batch that is stored."""

    def __init__(self) -> None:
        self._classify: Classify | None = None
        self._is_loaded = False
        self.is_missed = False  # whether there was something to decide, and nothing to do so by
        self._loading = ForkLock()  # a child could never import what its parent was about to

    def are_due(self, connection: sqlite3.Connection) -> bool:
        """Return whether a user agent has no class that could have one."""
        if (self._is_loaded and self._classify is None) or data_version() is None:
            return False
        return bool(connection.execute(IS_UNDECIDED).fetchone()[0])

    def load(self) -> bool:
        """Load what to decide by, which takes a while; False where another thread does."""
        with self._loading.held() as ours:
            if ours:
                self._classify, self._is_loaded, self.is_missed = load_classifier(), True, False
        return ours

    def within(self, connection: sqlite3.Connection) -> None:
        """Decide some in the batch's transaction, once there is something to decide by."""
        if self._classify is not None:
            decided = decide(read_undecided(connection), self._classify)
            store(connection, decided, data_version() or "")

    def after(self, connection: sqlite3.Connection, *, all_of_them: bool = False) -> None:
        """Decide what there was no time for, or nothing to decide by, if there is now.

        Others may write meanwhile. What is still left then came too fast: it stays unknown, unless
        all have to be decided.
        """
        if self._classify is None:
            self.is_missed = True
            return
        deadline = math.inf if all_of_them else time.monotonic() + REST_SECONDS
        while time.monotonic() < deadline:
            decided = decide(read_undecided(connection), self._classify)
            if not decided:
                return
            with transaction(connection):
                store(connection, decided, data_version() or "")
        with transaction(connection):
            connection.execute(GIVE_UP)


class Reclassification:
    """Give every user agent the class that it has by other data; the old one shows until then."""

    def __init__(self, classify: Classify, data: str) -> None:
        self._classify = classify
        self._data = data
        self._done_upto = -(2**63)

    def __call__(self, connection: sqlite3.Connection) -> bool:
        """Take on some more; False once there are none."""
        with transaction(connection):
            rows = connection.execute(FOLLOWING, (self._done_upto, AGENTS_PER_STEP)).fetchall()
            if rows:
                decided = decide(rows, self._classify)
                store(connection, decided, self._data)
                self._done_upto = rows[len(decided) - 1][0]
                return True
            connection.execute(
                "INSERT OR REPLACE INTO settings (name, value) VALUES ('agents_data', ?)",
                (self._data,),
            )
        return False
