"""Turn what was observed of a request into a line of the spool, unless it is no visit.

No fault in here reaches the application, and none goes uncounted.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .endpoints import Endpoints
from .errors import ConfigurationError, Outage, StorageError, logger
from .exclusions import Exclusions
from .period import DAY
from .process import watch_forks
from .spool import Spool
from .visit import Fragments, client_reader, text
from .visitors import ALL_HEADERS, Client, Visitors

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# What an application sets: False leaves its request out, True takes it in whatever a rule says.
RECORD = "wsgi_tracker.record"
FORGET_FAULT_SECONDS = 60.0
MAX_USER = 4096  # some are tokens, which begin alike
DAY_NS = DAY * 1000

UserFinder: TypeAlias = "Callable[[WSGIEnvironment], str | None]"


class Seen(Protocol):
    """What was observed, once the answer is complete or as complete as it will be."""

    environ: WSGIEnvironment
    timestamp_ns: int
    started_ns: int
    place: tuple[str | None, ...]
    client: tuple[str | None, ...]
    referer: str | None
    endpoint: str | None
    status: str
    first_byte_us: int | str


class Recorder:
    """Write visits to the spool.

    ``user`` names the user of a request; without ``None`` for it, and unless ``daily``, visitors
    are told apart by what was read before the application was called.
    """

    def __init__(
        self,
        spool: Spool,
        visitors: Visitors,
        exclusions: Exclusions,
        endpoints: Endpoints,
        *,
        user: UserFinder | None = None,
        daily: bool = False,
    ) -> None:
        self.find_endpoint = endpoints.find
        self._visitors = visitors
        self._excludes = exclusions.callables
        self._user = user
        self._daily = daily
        self._completes = user is not None or daily
        headers = ALL_HEADERS if self._completes else visitors.headers
        self.client_of, self.incomplete_client = client_reader(headers)
        self._fragments = fragments = Fragments(visitors, exclusions, endpoints)
        self._place = fragments.place
        self._client = fragments.client
        self._referer = fragments.referer
        self._append = spool.append
        self._spool = spool
        self._process_began = 0
        # That a visit was recorded again is nowhere noted: it would cost every request.
        self._outage = Outage("a visit was not recorded", forget_seconds=FORGET_FAULT_SECONDS)
        watch_forks(in_child=self._after_fork_in_child)

    def prepare(self) -> None:
        """Fetch the key of ``user_hash`` while somebody is there to read what is wrong with it."""
        try:
            self._visitors.user_hash(Client("", "", day=self._day()), "", "")
        except StorageError as error:
            logger.error("visits are dropped until the secret of user_hash can be read: %s", error)

    def _day(self) -> int:
        # Of the end of a request: the key of the day when it began may be gone.
        return time_ns() // DAY_NS if self._daily else 0

    def record(self, seen: Seen, bytes_sent: int | str, error: str = "") -> None:
        """Write the visit, once."""
        try:
            started = seen.started_ns
            # A forked child may go on with its parent's requests: those are the parent's.
            if started < self._process_began:
                return
            duration = str((perf_counter_ns() - started) // 1000)
            place_key = seen.place, seen.endpoint, seen.status
            client_key = self._completed(seen) if self._completes else seen.client
            place, client = self._place[place_key], self._client[client_key]
            if not (place and client) or self._excludes or RECORD in seen.environ:
                if self._ignores(seen.environ, excluded=not (place and client)):
                    self._spool.ignore()
                    return
                place = place or self._fragments.encode_place(place_key)
                client = client or self._fragments.encode_client(client_key)
            self._append(
                f'{{"timestamp":{seen.timestamp_ns // 1000},'
                f"{place},"
                f'"duration_us":{duration},"first_byte_us":{seen.first_byte_us or duration},'
                f'"bytes_sent":{bytes_sent},{client}'
                f"{self._referer[seen.referer]}{error}}}\n".encode()
            )
        except Exception as fault:
            self.fault(fault)

    def _ignores(self, environ: WSGIEnvironment, *, excluded: bool) -> bool:
        wanted = environ.get(RECORD)
        if wanted is not None:
            return not wanted
        try:
            return excluded or any(excludes(environ) for excludes in self._excludes)
        except Exception as fault:  # what nobody has excluded is recorded
            self.report(fault)
            return False

    def _completed(self, seen: Seen) -> tuple[Any, ...]:
        """Add whom the application names, which it knows only now, and the day of the key."""
        user = None
        if self._user is not None:
            try:
                user = self._user(seen.environ)
            except Exception as fault:  # the visitor counts as one who is not named
                self.report(fault)
        return (*seen.client, user and text(str(user), MAX_USER), self._day())

    def fault(self, fault: Exception) -> None:
        """Count a visit that could not be recorded, and log why."""
        self._spool.drop()
        self.report(fault)

    def report(self, fault: Exception) -> None:
        """Log a fault, the first of its kind, and again after a minute without it."""
        self._outage.report_bug(fault)

    def _after_fork_in_child(self) -> None:
        """Remember which requests are the parent's."""
        self._process_began = perf_counter_ns()


def user_finder(user: str | UserFinder | None) -> UserFinder | None:
    """Return the function that names a request's user: as given, or by a key of environ."""
    if user is None or callable(user):
        return user
    if not isinstance(user, str) or not user:
        raise ConfigurationError(f"user is a key of environ or a callable on it, given {user!r}")
    return lambda environ: environ.get(user)
