"""Who a visitor is taken for: the keyed ``user_hash``, and as much of the address as is stored.

Raw addresses go no further than what :class:`Visitors` decides to store.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

from .addresses import TrustedProxies, truncated
from .errors import ConfigurationError, StorageError

RETRY_SECONDS = 1.0
ALL_HEADERS = 4  # of a Client
ADDRESSES: dict[str, Callable[[str], str | None]] = {
    "full": lambda address: address or None,
    "truncated": truncated,
    "none": lambda address: None,
}


class Client(NamedTuple):
    """What is known of who sent a request.

    ``gpc`` and ``dnt`` are its privacy signals, ``user`` is whom the application names, ``day``
    that of the hash's key: in days since the epoch, 0 where the key stays.
    """

    peer: str | None
    user_agent: str | None
    forwarded_for: str | None = None
    forwarded: str | None = None
    gpc: str | None = None
    dnt: str | None = None
    user: str | None = None
    day: int = 0


def check_ip_addresses(ip_addresses: str) -> None:
    """Refuse what says nothing of what is stored of an address."""
    if ip_addresses not in ADDRESSES:
        raise ConfigurationError(
            f"ip_addresses is one of {', '.join(ADDRESSES)}; given {ip_addresses!r}"
        )


class Visitors:
    """Turn what a request says of its sender into what is stored of it.

    ``key(day)`` is called until it returns the key of the hash; while it raises
    :exc:`StorageError`, so does :meth:`user_hash`, asking again once a second.
    """

    def __init__(
        self,
        key: Callable[[int], bytes],
        proxies: TrustedProxies,
        *,
        ip_addresses: str = "full",
        honor_privacy_signals: bool = False,
    ) -> None:
        self._fetch_key = key
        self._proxies = proxies
        self._stored_part = ADDRESSES[ip_addresses]
        self._honors = honor_privacy_signals
        self._known: tuple[int, bytes] | None = None
        self._retry_at = 0.0

    @property
    def headers(self) -> int:
        """How many headers are to be read for a :class:`Client`, beside address and agent."""
        return ALL_HEADERS if self._honors else 2 if self._proxies else 0

    def address(self, client: Client) -> str:
        """Return the client's address, behind trusted proxies; empty where there is none."""
        return self._proxies.client(client.peer or "", client.forwarded_for, client.forwarded)

    def stays_unknown(self, client: Client) -> bool:
        """Return whether only the hit is to be counted: Global Privacy Control, Do Not Track."""
        return self._honors and "1" in (client.gpc, client.dnt)

    def stored_address(self, client: Client, address: str) -> str | None:
        """Return what is kept of an address."""
        return None if self.stays_unknown(client) else self._stored_part(address)

    def user_hash(self, client: Client, address: str, user_agent: str) -> str | None:
        """Return 32 hexadecimal digits: keyed BLAKE2b-128 (RFC 7693) of who it is.

        That is the user whom the application names, else address and agent.
        """
        if self.stays_unknown(client):
            return None
        text, person = f"{address}\0{user_agent}", b""
        if client.user:
            text, person = client.user, b"user"  # which no address can be mistaken for
        data = text.encode("utf-8", "replace")
        key = self._key(client.day)
        return hashlib.blake2b(data, digest_size=16, key=key, person=person).hexdigest()

    def _key(self, day: int) -> bytes:
        known = self._known
        if known is None or known[0] != day:
            known = self._known = day, self._ask(day)
        return known[1]

    def _ask(self, day: int) -> bytes:
        now = time.monotonic()
        if now < self._retry_at:
            raise StorageError("the secret of user_hash is not known yet")
        try:
            return self._fetch_key(day)
        except BaseException:
            self._retry_at = now + RETRY_SECONDS
            raise
