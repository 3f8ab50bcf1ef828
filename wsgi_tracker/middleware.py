"""Tracker, the WSGI wrapper: pass every request on, observe it, and answer our own prefix."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .addresses import TrustedProxies
from .auth import Auth
from .backend import MAX_ENDPOINTS, MAX_SPOOL_BYTES, Backend
from .endpoints import EndpointFinder, endpoints_by
from .errors import ConfigurationError
from .exclusions import Exclusions, Rule
from .identity import DAILY, Identity
from .observation import Observation
from .options import (
    check_application,
    check_flags,
    check_positive,
    check_prefix,
    check_retention,
    check_seconds,
    check_spool_size,
    check_timezone,
)
from .recorder import Recorder, UserFinder, user_finder
from .storage import QUERY_TIMEOUT_SECONDS
from .storage.address import locate
from .visitors import Visitors, check_ip_addresses

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MARK = "wsgi_tracker.observed"


class Tracker:
    """Record every request of a WSGI application as a visit, and answer reports about them.

        app = Tracker(app)

    Safe under threads, greenlets, forks and any number of processes that share ``database``: a
    path, or ``sqlite:///path``. A visit is recorded when its response is finished, in a file that
    outlives this process, and moves to the database by itself. Raises
    :exc:`ConfigurationError` where an argument, or the place ``database`` names, cannot work;
    whatever fails later is logged, counted, and never noticed by the application.

    ``token`` is what ``Authorization: Bearer`` must carry, one or several; by default those in
    ``$WSGI_TRACKER_TOKEN``. ``endpoint`` is ``"route"``, ``"path"`` or a callable on environ; with
    ``collapse_ids``, an endpoint that is a path has ``<int>``, ``<uuid>``, ``<hex>`` for its ids.
    ``user`` is a key of environ, or a callable on it, that names who asks. ``exclude`` holds path
    globs, methods, addresses, networks and callables. ``trusted_proxies`` are addresses, networks,
    or ``"unix"``. ``ip_addresses`` is ``"full"``, ``"truncated"`` or ``"none"``. Hours, days, weeks
    and months are those of ``timezone``, as ``Europe/Berlin``, or where none is given of the
    database's, at first UTC. ``identity`` is ``"permanent"`` or ``"daily"``, under a random secret
    or one that ``secret`` derives; with ``honor_privacy_signals``, who sends one is counted as a
    hit alone. Visits older than ``retention_days`` are deleted, hourly, by a process that ingests;
    0 keeps all, and the value given last, by any process, holds until another is given. With
    ``ingest=False`` this process only records, and another, or the next report, moves visits to
    the database. With ``fsync`` a response ends only when its visit would survive a power cut, too.
    A report that takes longer than ``query_timeout_seconds`` is given up. ``dashboard=False``
    leaves the page out that shows them.
    """

    def __init__(
        self,
        app: WSGIApplication,
        database: str | Path = "visits.db",
        *,
        token: str | Iterable[str] | None = None,
        require_token: bool | None = None,
        prefix: str = "/api/tracking",
        endpoint: str | EndpointFinder = "route",
        collapse_ids: bool = False,
        user: str | UserFinder | None = None,
        exclude: Iterable[Rule] = (),
        trusted_proxies: Iterable[str] = (),
        ip_addresses: str = "full",
        timezone: str | None = None,
        identity: str = "permanent",
        secret: str | bytes | None = None,
        honor_privacy_signals: bool = False,
        max_endpoints: int = MAX_ENDPOINTS,
        retention_days: int | None = None,
        ingest: bool = True,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
        fsync: bool = False,
        query_timeout_seconds: float = QUERY_TIMEOUT_SECONDS,
        dashboard: bool = True,
    ) -> None:
        check_application(app)
        check_prefix(prefix)
        check_ip_addresses(ip_addresses)
        check_positive("max_endpoints", max_endpoints)
        check_retention(retention_days)
        check_timezone(timezone)
        check_spool_size(max_spool_bytes)
        check_seconds("query_timeout_seconds", query_timeout_seconds)
        check_flags(
            collapse_ids=collapse_ids,
            honor_privacy_signals=honor_privacy_signals,
            ingest=ingest,
            fsync=fsync,
            dashboard=dashboard,
        )
        auth = Auth(token, require_token)
        endpoints = endpoints_by(endpoint, collapse_ids=collapse_ids)
        find_user = user_finder(user)
        exclusions = Exclusions(exclude)
        proxies = TrustedProxies(trusted_proxies)
        who = Identity(identity, secret)
        place = locate(database)
        who.check_for(place)

        self._app = app
        self._prefix = prefix.encode().decode("latin-1")  # as PATH_INFO spells it (PEP 3333)
        zone = {} if timezone is None else {"timezone": timezone}
        self._backend = Backend(
            place,
            settings=who.settings | zone,
            retention_days=retention_days,
            proxies=proxies,
            ip_addresses=ip_addresses,
            ingest=ingest,
            max_endpoints=max_endpoints,
            max_spool_bytes=max_spool_bytes,
            fsync=fsync,
            query_timeout_seconds=query_timeout_seconds,
        )
        visitors = Visitors(
            self._backend.key_finder(who),
            proxies,
            ip_addresses=ip_addresses,
            honor_privacy_signals=honor_privacy_signals,
        )
        self._recorder = Recorder(
            self._backend.spool,
            visitors,
            exclusions,
            endpoints,
            user=find_user,
            daily=who.is_daily,
        )
        self._api = self._backend.api(
            auth, DAILY if who.is_daily else None, has_dashboard=dashboard
        )
        self._recorder.prepare()
        self._backend.storage.close()  # a fork that follows finds nothing open

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request: the WSGI interface."""
        report = observation = None
        try:
            path = environ.get("PATH_INFO", "")
            if self._prefix in path:
                report = self._report_name(path)
            if report is None and MARK not in environ:
                observation = Observation(self._recorder, environ, start_response)
                environ[MARK] = True
        except Exception as fault:
            self._recorder.fault(fault)
        if report is not None:
            return self._api(environ, start_response, report)
        if observation is None:
            return self._app(environ, start_response)
        try:
            body = self._app(environ, observation.start_response)
        except BaseException as error:
            observation.fail(error)
            raise
        try:
            return observation.watch(body)
        except Exception as fault:
            self._recorder.fault(fault)
            return body

    def _report_name(self, path: str) -> str | None:
        """Return what follows the prefix, or ``None`` for a path that is not under it."""
        if not path.startswith(self._prefix):
            return None
        rest = path[len(self._prefix) :]
        return rest[1:] if not rest or rest[0] == "/" else None

    def forget(self, user_hash: str) -> int:
        """Delete all that is stored of a visitor; return how many visits that were.

        The spool is emptied first, and nothing is left in it or in the database's log. Raises
        :exc:`StorageError` where the database is out of order.
        """
        return self._backend.forget(user_hash)

    def close(self) -> None:
        """Ingest what is left and close everything; may be called twice, and used again."""
        self._backend.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def wrap(name: str, database: str | Path = "visits.db", **options: Any) -> Tracker:
    """Import an application and wrap it, as in ``gunicorn "wsgi_tracker:wrap('shop:app')"``.

    ``name`` is ``package.module:application``; parentheses behind it call a factory, as in
    ``shop:create_app()``. Options are those of :class:`Tracker`.
    """
    module_name, separator, attribute = name.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigurationError(f"an application is named 'package.module:app', given {name!r}")
    target = _imported(module_name)
    for part in attribute.removesuffix("()").split("."):
        try:
            target = getattr(target, part)
        except AttributeError as error:
            raise ConfigurationError(f"{module_name} has no {attribute!r}: {error}") from error
    return Tracker(target() if attribute.endswith("()") else target, database, **options)


def _imported(name: str) -> Any:
    """Import a module; a missing one is a mistake of who named it, not a fault of its code."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {error.name!r} in {os.getcwd()} or where else Python looks"
        ) from error
