"""What can go wrong, as types, and how a lasting fault is logged: once, not once per request."""

from __future__ import annotations

import logging

logger = logging.getLogger("wsgi_tracker")


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


class StorageError(TrackerError):
    """Storage cannot answer now; becomes HTTP 503. Visits wait in the spool meanwhile."""


class PoolTimeoutError(StorageError):
    """Every connection stayed in use until the deadline."""


class Outage:
    """Log a fault when it begins and when it is over, not each time it is met.

    Safe without a lock: two threads that meet a fault at once may both log it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.known = ""  # the fault as it was logged; empty when there is none

    def report(self, problem: str, error: BaseException | None = None) -> None:
        """Log ``problem`` unless it is the one already logged.

        With ``error``, a fault that is no outage but a bug: told apart by its type alone, as its
        text may be a client's.
        """
        known = problem if error is None else type(error).__name__
        if known != self.known:
            self.known = known
            logger.error("%s: %s", self._what, problem, exc_info=error)

    def over(self) -> None:
        """Log that the fault is gone, if one was logged."""
        if self.known:
            self.known = ""
            logger.warning("%s: works again", self._what)
