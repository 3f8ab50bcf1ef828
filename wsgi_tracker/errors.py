"""What can go wrong, as types, and how a lasting fault is logged: once, not once per request."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable

logger = logging.getLogger("wsgi_tracker")
SAME_SECONDS = 60.0
NUMBER = re.compile(r"\d+")


class TrackerError(Exception):
    """Base of every error this package raises."""


class ConfigurationError(TrackerError, ValueError):
    """An argument, or the place it points to, cannot work; the message says what to change."""


class QueryError(TrackerError, ValueError):
    """A question to the API that has no answer; becomes HTTP 400.

    ``parameter`` names the query parameter at fault.
    """

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class NotFoundError(TrackerError):
    """What is asked for is not there; becomes HTTP 404."""


class StorageError(TrackerError):
    """Storage cannot answer now; becomes HTTP 503. Visits wait in the spool meanwhile."""


class PoolTimeoutError(StorageError):
    """Every connection stayed in use until the deadline."""


class TooManyQuestionsError(PoolTimeoutError):
    """As many long questions as may be asked at a time are being answered; no fault of storage."""


class QueryTimeoutError(StorageError):
    """A report was interrupted, as it took too long; no fault of storage."""


class Outage:
    """Log a fault when it begins and when it is over, not each time it is met.

    Where nothing tells that it is over, it counts as over once it was not met for
    ``forget_seconds``. Each kind of fault is logged by itself; of kinds that come thick, only the
    first ``MAX_KINDS``, the rest together: no client can fill the log or the memory.
    Safe without a lock: two threads that meet a fault at once may both log it.
    """

    MAX_KINDS = 32

    def __init__(
        self,
        what: str,
        *,
        forget_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._forget_seconds = forget_seconds
        self._clock = clock
        self._met: dict[str, float] = {}  # kind of fault -> when it was last met
        self._logged_at = -math.inf
        self.known = ""  # the last fault, as it was logged; empty when there is none

    def report(self, problem: str) -> None:
        """Log ``problem`` unless it is known; its text without numbers tells it apart.

        Within a minute of the last line it is taken for the same outage: a disk that is full or
        read-only fails in more ways than one.
        """
        kind = NUMBER.sub("#", problem)
        if not self._goes_on(kind) and self._begins(kind):
            self._log(problem)

    def _goes_on(self, kind: str) -> bool:
        another = bool(self._met) and kind not in self._met
        return another and self._clock() - self._logged_at < SAME_SECONDS

    def report_bug(self, error: BaseException) -> None:
        """Log ``error`` unless it is known, and where it comes from unless it is one of ours.

        Its type and the line that raised it tell it apart, as its text may be a client's.
        """
        if self._begins(_kind(error)):
            self._log(_text(error), error)

    def _log(self, problem: str, error: BaseException | None = None) -> None:
        self.known = f"{self._what}: {problem}"
        self._logged_at = self._clock()
        # Where ours was raised says nothing: its text does.
        bug = None if isinstance(error, TrackerError) else error
        logger.error("%s: %s", self._what, problem, exc_info=bug)

    def _begins(self, kind: str) -> bool:
        """Note that a fault was met; return whether it is a new one."""
        now = self._clock()
        if kind not in self._met and len(self._met) >= self.MAX_KINDS:
            self._forget(now)
            if len(self._met) >= self.MAX_KINDS:
                kind = "(other)"
        met = self._met.get(kind)
        self._met[kind] = now
        return met is None or now - met >= self._forget_seconds

    def _forget(self, now: float) -> None:
        for kind, met in list(self._met.items()):
            if now - met >= self._forget_seconds:
                self._met.pop(kind, None)

    def over(self) -> None:
        """Log that the fault is gone, if one was logged."""
        if self._met:
            self._met, self.known = {}, ""
            logger.warning("%s: works again", self._what)


def _kind(error: BaseException) -> str:
    name = type(error).__qualname__
    place = error.__traceback__
    # Ours say what is out of order, and one outage is met in several places.
    if place is None or isinstance(error, TrackerError):
        return name
    while place.tb_next is not None:
        place = place.tb_next
    return f"{name} {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an application's own exception, with a fault in its __str__
        return type(error).__name__
