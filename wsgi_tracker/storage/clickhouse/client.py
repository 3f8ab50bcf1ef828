"""Ask a ClickHouse over HTTP: statements out, rows or an error back."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ...errors import ConfigurationError, QueryTimeoutError, StorageError
from ..address import Address

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

CONNECT_SECONDS = 3.0
RUN_SECONDS = 60.0
CLUSTER_SECONDS = 50  # of these, for the servers of a cluster to tell that they have done it
SEND_SECONDS = 10.0  # a report may be behind it; what takes longer goes on, and is not stored again
CONNECTIONS = 8
# A connection that was quiet for longer may have been ended, by old servers after 3 seconds, or lost
# by a firewall, which says so to who uses it.
QUIET_SECONDS = 2.0
# Rows as arrays, whole numbers as such; nothing is sent before it is known whether all goes well.
READING: dict[str, str | int] = {
    "default_format": "JSONCompact",
    "output_format_json_quote_64bit_integers": "0",
    "wait_end_of_query": "1",
}
# All ask, and send to, the same replica of a shard, as the others have what it took in a moment
# later; where it is down, or comes back and lacks much, another one.
LONGEST_DELAY_SECONDS = 5
REPLICAS: dict[str, str | int] = {
    "load_balancing": "in_order",
    "prefer_localhost_replica": 0,
    "max_replica_delay_for_distributed_queries": LONGEST_DELAY_SECONDS,
}
# What answers and deliveries depend on, whatever a profile says; of these, what a server knows.
PINNED: dict[str, str | int] = {
    "skip_unavailable_shards": 0,
    **dict.fromkeys(
        [
            f"{limit}_overflow_mode"
            for limit in ("distinct", "group_by", "join", "read", "result", "set", "sort")
        ],
        "throw",
    ),
    "timeout_overflow_mode": "throw",
    "join_use_nulls": 0,
    "transform_null_in": 0,
    "async_insert": 0,
    "mutations_sync": 0,
    **dict.fromkeys(["alter_sync", "replication_alter_partitions_sync"], 1),  # its two names
    "distributed_ddl_output_mode": "throw",
    "insert_deduplicate": 1,
    "max_partitions_per_insert_block": 0,
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
    "input_format_null_as_default": 0,
    "input_format_parallel_parsing": 0,
    **dict.fromkeys(
        [
            f"input_format_json_read_{kind}_as_strings"
            for kind in ("arrays", "bools", "numbers", "objects")
        ],
        0,
    ),
}
TIMEOUT_EXCEEDED = 159
REFUSED = {192, 193, 194, 516}  # unknown user, wrong or required password
SYNTAX_ERROR = 62
OF_CLICKHOUSE = "x-clickhouse-"  # how some of its headers begin
CODE = re.compile(r"Code: (\d+)")
Settings = Mapping[str, "str | int | float"]


class ClickHouseError(StorageError):
    """What the server says is wrong, and its number for that."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """The connections of this process to one server; safe to share between threads."""

    def __init__(self, address: Address, *, query_timeout_seconds: float) -> None:
        try:
            import urllib3  # noqa: F401 - said now, not with the first visit
        except ImportError as error:
            raise ConfigurationError(
                "ClickHouse needs urllib3: pip install 'wsgi-tracker[clickhouse]'"
            ) from error
        self.address = address
        self._query_timeout_seconds = query_timeout_seconds
        self._pinned: dict[str, str | int] = {}
        self._pool: PoolManager | None = None
        self._pid = 0
        self._used_at = 0.0  # in seconds that only grow

    def pin(self) -> None:
        """From now on say with every statement what must not be otherwise."""
        known = {name for (name,) in self.rows("SELECT name FROM system.settings")}
        self._pinned = {name: value for name, value in PINNED.items() if name in known}

    def rows(
        self, statement: str, *, seconds: float = math.inf, **settings: str | int | float
    ) -> list[Any]:
        """Return the rows of a question, each a list, within ``seconds`` if it is to be soon.

        Raises :exc:`StorageError`.
        """
        seconds = min(seconds, self._query_timeout_seconds)
        # Old servers take whole seconds, and 0 for none.
        limits = {"max_execution_time": math.ceil(seconds)}
        try:
            body = self._post(
                statement.encode(),
                {**READING, **limits, **settings},
                seconds=seconds + CONNECT_SECONDS,
                attempts=2,
            )
        except ClickHouseError as error:
            if error.code != TIMEOUT_EXCEEDED:
                raise
            raise QueryTimeoutError(
                f"this takes longer than query_timeout_seconds, {self._query_timeout_seconds:g}: "
                f"ask about a shorter time, or fewer filters at once"
            ) from error
        try:
            found: list[Any] = json.loads(body)["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._stranger() from error
        return found

    def run(
        self,
        statement: str,
        *,
        told_within: int = CLUSTER_SECONDS,
        **settings: str | int | float,
    ) -> None:
        """Run a statement that changes what there is.

        A cluster's servers are to tell within so many seconds that they have done it. Where one
        does not, :exc:`ClickHouseError` has the code of :data:`TIMEOUT_EXCEEDED`, and each goes on
        to do it when it can.
        """
        cluster = {"distributed_ddl_task_timeout": told_within} if self.address.cluster else {}
        self._post(statement.encode(), {**cluster, **settings}, seconds=RUN_SECONDS)

    def add(self, statement: str) -> None:
        """Run a statement that adds the rows it holds."""
        self._post(statement.encode(), {}, seconds=SEND_SECONDS)

    def insert(self, statement: str, data: bytes, **settings: str | int | float) -> None:
        """Send data, which is compressed by gzip, behind the statement that takes it."""
        self._post(
            data,
            {"query": statement, **settings},
            seconds=SEND_SECONDS,
            headers={"Content-Encoding": "gzip"},
        )

    def _post(
        self,
        body: bytes,
        settings: Settings,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        attempts: int = 1,
    ) -> bytes:
        replicas = REPLICAS if self.address.cluster else {}
        options = {
            "database": self.address.database,
            **replicas,
            **self._pinned,
            **settings,
        }
        url = f"{self.address.origin}/?{urlencode(options)}"
        headers = {**self.address.headers, **(headers or {})}
        response = self._request(url, body, seconds, headers, attempts)
        if response.status != 200:
            raise self._error(response.status, response.data)
        if not any(name.lower().startswith(OF_CLICKHOUSE) for name in response.headers):
            raise self._stranger()
        data: bytes = response.data
        return data

    def _request(
        self, url: str, body: bytes, seconds: float, headers: Mapping[str, str], attempts: int
    ) -> BaseHTTPResponse:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError, ProtocolError

        while True:
            attempts -= 1
            try:
                return self._connections().request(
                    "POST",
                    url,
                    headers=headers,
                    body=body,
                    timeout=Timeout(connect=CONNECT_SECONDS, read=seconds),
                    retries=False,
                    redirect=False,
                )
            except HTTPError as error:
                if not attempts or not isinstance(error, ProtocolError):
                    reason = f"{self.address} does not answer: {_reason(error)}"
                    raise StorageError(reason) from error
                self._pool = None  # what befell this connection may have befallen all

    def _connections(self) -> PoolManager:
        """Return this process's connections: a child must not share those of its parent."""
        from urllib3 import PoolManager

        now = time.monotonic()
        is_quiet = now - self._used_at > QUIET_SECONDS
        self._used_at = now
        pool = self._pool
        if pool is None or is_quiet or self._pid != os.getpid():
            # The one before ends with the last who uses it.
            self._pool = pool = PoolManager(maxsize=CONNECTIONS, block=False)
            self._pid = os.getpid()
        return pool

    def _error(self, status: int, body: bytes) -> StorageError:
        text = " ".join(body[:2000].decode("utf-8", "replace").split())
        found = CODE.search(text)
        code = int(found[1]) if found else 0
        if code in REFUSED:
            # Its text may name the user, and says no more.
            return ClickHouseError(f"{self.address} refuses user or password", code)
        if code == SYNTAX_ERROR:
            text = "it does not understand a statement"  # which may hold what clients sent
        return ClickHouseError(f"{self.address} answers {status}: {text[:300]}", code)

    def _stranger(self) -> StorageError:
        return StorageError(f"{self.address} answers what is no ClickHouse's answer")

    def close(self) -> None:
        """Close all connections; may be called twice, and used again afterwards."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.clear()


def _reason(error: Exception) -> str:
    """Say what went wrong without the URL, which changes with each statement."""
    while error.__cause__ is not None or error.__context__ is not None:
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, Exception):
            break
        error = cause
    return str(error) or type(error).__name__
