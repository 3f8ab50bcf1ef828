"""When visits are counted: behind the batches they come in, many at once.

A visit takes 25 µs in a thousand, and three times as long in a batch of forty, as most of the pages
that change are the same. So some wait, and reports look at them; whoever ingests counts them between
two batches. Where there is nobody to do so, as only reports ingest, the batch does that would leave
too many.

A class never changes once it is counted, but by reclassification: so no visit is counted before its
user agent has one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...errors import Outage, StorageError
from .calendar import is_current
from .classes import Decisions
from .counters import fold, read_state
from .faults import is_passing
from .schema import transaction
from .settings import note_change

MANY = 1 << 13  # with a batch that comes on top, no more than FEW_UNCOUNTED


class Counting:
    """Decide the classes of user agents, and count visits."""

    def __init__(self) -> None:
        self._decisions = Decisions()
        self._has_current_calendar = False
        self._outage = Outage("reports are slow, as visits are not counted")

    def within(self, connection: sqlite3.Connection) -> None:
        """Decide in the batch's own transaction, if it takes no longer than that may."""
        self._decisions.within(connection)

    def after(self, connection: sqlite3.Connection, *, is_import: bool = False) -> None:
        """Do what cannot wait; the batch is stored, whatever happens here.

        Nobody waits for an import, so all its user agents get a class, however many they are.
        """
        with suppress(sqlite3.Error, StorageError):
            if is_import and self._decisions.are_due(connection) and self._decisions.load():
                self._decisions.after(connection, all_of_them=True)
            if self.is_due(connection, MANY):
                self.step(connection)

    def is_due(self, connection: sqlite3.Connection, enough: int) -> bool:
        """Return whether user agents lack a class, or so many visits, or all, are to be counted."""
        state = read_state(connection)
        is_enough = not state.is_sound or state.uncounted >= enough
        return is_enough or self._decisions.are_due(connection)

    def load_classifier(self) -> bool:
        """Load what a step missed; True if one did."""
        return self._decisions.is_missed and self._decisions.load()

    def step(self, connection: sqlite3.Connection) -> bool:
        """Decide and count some, in short transactions; True if more waits.

        Where it has something to :meth:`load_classifier` first, all waits for that, and it is False.
        """
        if self._decisions.are_due(connection):
            self._decisions.after(connection)
        if self._decisions.are_due(connection):
            return not self._decisions.is_missed
        with transaction(connection):
            return self._fold(connection)

    def _fold(self, connection: sqlite3.Connection) -> bool:
        """Count some; where that fails, visits are stored all the same and reports still exact."""
        try:
            with _savepoint(connection):
                if not self._has_current_calendar and not is_current(connection):
                    note_change(connection)
                more = fold(connection)
        except (sqlite3.Error, StorageError) as error:
            if is_passing(error):
                raise
            self._outage.report(f"{error}; Storage.rebuild() counts anew")
            return False
        except Exception as error:  # a fault of ours must not keep visits in the spool
            self._outage.report_bug(error)
            return False
        self._has_current_calendar = True  # time zones change with another process alone
        self._outage.over()
        return more


@contextmanager
def _savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """Undo what fails within, and nothing else of the transaction."""
    connection.execute("SAVEPOINT counting")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO counting")
        raise
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE counting")
