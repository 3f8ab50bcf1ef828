"""Answers that hold every request answered before, whichever process recorded it.

A report takes along what waits in the spool, or is made once that is ingested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace

from .asked import Answer, Asked, Report, selection_of, span_of
from .errors import Outage, QueryTimeoutError, StorageError, TooManyQuestionsError
from .export import Export
from .health import waits_long
from .ingest import Queue
from .query import ARRIVAL, Question
from .reports import Outcomes
from .storage import NotIngestedError, Storage
from .unread import UnreadLines

CATCH_UP_SECONDS = 1.0


class FreshAnswers:
    """Answer questions about now.

    ``open_unread()`` opens what waits in the spool to be taken along, where this process ingests by
    itself; ``catch_up(seconds)`` makes storage hold every request answered before now, if it can.
    ``clock()`` is nanoseconds since the epoch.
    """

    def __init__(
        self,
        storage: Storage,
        open_unread: Callable[[], AbstractContextManager[UnreadLines | None]],
        catch_up: Callable[[float], Queue],
        clock: Callable[[], int],
    ) -> None:
        self._storage = storage
        self._open_unread = open_unread
        self._catch_up = catch_up
        self._clock = clock
        self._outage = Outage("reports answer 503")

    def ask(self, report: Report, question: Question, name: str = "") -> tuple[Answer, Queue]:
        """Return the answer, and what could not be taken along; ``name`` is of whom it asks."""
        asked = Asked(question, self.now(), name=name)
        if _is_quick(report, question):
            with self._open_unread() as unread:
                if unread is not None:
                    with suppress(NotIngestedError):
                        return self._take_along(report, replace(asked, unread=unread))
        return self._answer_behind(report, asked)

    def export(self, question: Question) -> tuple[Export, Queue]:
        """Return all visits that were recorded before now, and what could not be ingested."""
        queue = self.catch_up()
        with self._logging(), self._storage.snapshot() as snapshot:
            asked = Asked(question, self.now())
            selection = selection_of(asked, span_of(asked, snapshot))
        export = Export(
            self._storage,
            selection,
            question["format"],
            by_arrival=question["order"] == ARRIVAL,
            behind=question["cursor"],
        )
        return export, queue

    def outcomes_ever(self) -> Outcomes | None:
        """Return how all visits went that were ever counted, if storage answers."""
        with suppress(StorageError), self._storage.snapshot() as snapshot:
            return snapshot.outcomes_ever()
        return None

    def now(self) -> int:
        """Return the time in microseconds since the epoch."""
        return self._clock() // 1000

    def catch_up(self) -> Queue:
        """Ingest what waits; return what still does."""
        return self._catch_up(CATCH_UP_SECONDS)  # it logs what stops it

    def _take_along(self, report: Report, asked: Asked) -> tuple[Answer, Queue]:
        answer = self._answer(report, asked)
        oldest = None if asked.unread is None else asked.unread.oldest_timestamp
        if oldest is None or not waits_long(oldest, asked.now):
            return answer, Queue()
        # A request that took long is as old, and is ingested if anything is.
        with suppress(StorageError):
            return self._answer_behind(report, asked)
        asked = replace(asked, queue=Queue(oldest_timestamp=oldest))
        return self._answer(report, asked), asked.queue

    def _answer_behind(self, report: Report, asked: Asked) -> tuple[Answer, Queue]:
        """Answer behind the ingest of what waits."""
        queue = self.catch_up()
        return self._answer(report, replace(asked, now=self.now(), unread=None, queue=queue)), queue

    def _answer(self, report: Report, asked: Asked) -> Answer:
        long = not _is_quick(report, asked.question)
        with self._logging(), self._storage.snapshot(asked.unread, long=long) as snapshot:
            return report.answer(asked, snapshot)

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """Log what keeps storage from answering, once, and when it is over."""
        try:
            yield
        except (QueryTimeoutError, TooManyQuestionsError):
            raise
        except StorageError as error:
            self._outage.report(str(error))
            raise
        self._outage.over()


def _is_quick(report: Report, question: Question) -> bool:
    return report.is_quick and question.is_simple
