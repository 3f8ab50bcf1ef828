"""What stands behind one database, put together: spool, storage, ingest, and what answers.

Tracker sets an application before it; the command line asks it, serves it, or lets it ingest alone.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path

from .addresses import TrustedProxies
from .agreement import agree
from .answers import Answers
from .api import Api
from .asked import Report
from .auth import Auth
from .errors import ConfigurationError, logger
from .forget import forget
from .fresh import FreshAnswers
from .health import HealthCheck
from .identity import Identity
from .ingest import Ingester
from .ingest_thread import IngestThread
from .insights import INSIGHTS
from .mounts import prepare_folder
from .process import threads_run
from .proxies import ProxyCheck
from .retention import Retention
from .secret import Secret
from .spool import Spool
from .storage import BUSY_SECONDS, QUERY_TIMEOUT_SECONDS, open_storage
from .storage.address import Address, spool_folder
from .unread import UnreadLines, open_unread

MAX_ENDPOINTS = 10_000
MAX_SPOOL_BYTES = 2**30


class Backend:
    """Spool, storage and ingest of the database at ``place``, opened as options say.

    Nothing is left open, so that the process may fork; each opens again what it needs. ``settings``
    are those that all applications of the database must agree on. The ingest thread starts with the
    first visit that is recorded, if this process is to ``ingest``, or by ``ingest_thread.start()``.
    Raises :exc:`ConfigurationError` for what can never work.
    """

    def __init__(
        self,
        place: Path | Address,
        *,
        settings: Mapping[str, str],
        retention_days: int | None = None,
        proxies: TrustedProxies | None = None,
        ip_addresses: str = "none",
        ingest: bool = True,
        max_endpoints: int = MAX_ENDPOINTS,
        max_spool_bytes: int = MAX_SPOOL_BYTES,
        fsync: bool = False,
        query_timeout_seconds: float = QUERY_TIMEOUT_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        folder = spool_folder(place)
        used_before = os.path.isdir(folder)
        self._ingests = ingest
        self._has_ingest_thread = ingest and _threads_run()
        self._closing_pid = 0  # of the process that closes it when it ends
        self._secret = Secret(folder)
        self.storage = open_storage(
            place,
            max_endpoints=max_endpoints,
            make_secret=self._secret.make,
            used_before=used_before,
            busy_seconds=busy_seconds,
            query_timeout_seconds=query_timeout_seconds,
        )
        self.spool = Spool(
            folder, max_bytes=max_spool_bytes, fsync=fsync, on_open=self._recording_began
        )
        self._prepare_spool(used_before)
        logger.info("visits go to %s, and wait for it in %s", place, folder)
        self._not_compared = {} if agree(self.storage, settings) else settings
        self._proxy_check = ProxyCheck(self.storage, proxies or TrustedProxies(()), ip_addresses)
        retention = Retention(self.storage, retention_days, time.time_ns)
        retention.declare()
        self.ingester = Ingester(self.storage, folder, durable=fsync, on_wake=self.spool.tend)
        self.ingest_thread = IngestThread(
            self.ingester, retention, folder, max_spool_bytes, on_ingest=self._look
        )
        self.storage.close()

    def _prepare_spool(self, used_before: bool) -> None:
        """Find out what is wrong with it, while somebody is there to read it."""
        try:
            prepare_folder(self.spool.folder)
        except OSError as error:
            if not used_before:
                raise ConfigurationError(
                    f"the spool {self.spool.folder} cannot be used: {error}; choose a database in "
                    f"a folder that this process may write to"
                ) from error
            self.spool.refuse(error)

    def _look(self) -> None:
        """Look at what was ingested, and at what could not be looked at when this process began."""
        self._proxy_check.look()
        if self._not_compared:
            try:
                if agree(self.storage, self._not_compared):
                    self._not_compared = {}
            except ConfigurationError as error:
                logger.error("visits of this process count as those of others: %s", error)
                self._not_compared = {}

    def _recording_began(self) -> None:
        """See to what this process needs besides the segment that it has just opened."""
        self._secret.keep()
        if self._has_ingest_thread:
            self.ingest_thread.start()
        # Once: atexit keeps a place for whatever was unregistered, and looks at all of them. A
        # child may have been forked without what its parent registered.
        if self._closing_pid != os.getpid():
            self._closing_pid = os.getpid()
            atexit.unregister(self.close)
            atexit.register(self.close)

    def key_finder(self, identity: Identity) -> Callable[[int], bytes]:
        """Return the function that returns the key of ``user_hash`` for a day."""
        return identity.key_finder(self.storage, self.spool.folder, self._secret)

    def forget(self, user_hash: str) -> int:
        """Delete all that is stored of a visitor; return how many visits that were."""
        return forget(self.storage, self.ingester, self.spool.folder, user_hash)

    @cached_property
    def answers(self) -> FreshAnswers:
        """What answers questions, as of the moment when they are asked."""
        return FreshAnswers(self.storage, self._open_unread, self.ingester.catch_up, time.time_ns)

    def _open_unread(self) -> AbstractContextManager[UnreadLines | None]:
        """Open what waits in the spool, to be read by a report, if this process ingests by itself."""
        self.ingest_thread.note_report()
        return open_unread(self.ingester) if self.ingest_thread.is_running else nullcontext()

    @cached_property
    def health_check(self) -> HealthCheck:
        """What tells how all of it is."""
        return HealthCheck(self.storage, self.spool, self.ingest_thread, self._proxy_check)

    def reports(self, unique_users_basis: str | None) -> dict[str, Report]:
        """Return the reports by their names; the basis is named where unique users are no people."""
        return Answers(self.health_check, unique_users_basis).reports | INSIGHTS

    def api(self, auth: Auth, unique_users_basis: str | None, *, has_dashboard: bool = True) -> Api:
        """Return what answers over HTTP."""
        reports = self.reports(unique_users_basis)
        return Api(self.answers, reports, auth, self.health_check, has_dashboard=has_dashboard)

    def close(self) -> None:
        """Ingest what is left and close everything; may be called twice, and used again."""
        atexit.unregister(self.close)
        self._closing_pid = 0
        self.spool.close()
        if self._ingests:
            self.ingest_thread.finish()
        self.storage.close()


def _threads_run() -> bool:
    if threads_run():
        return True
    logger.warning(
        "uWSGI runs no threads: visits wait in the spool for a report, or for a worker's end; "
        "set enable-threads = true"
    )
    return False
