"""A proxy that hides its clients: every visit seems to come from it.

Told from the newest visits in storage, so it costs no request anything. Health warns of it, and
the log says it once.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable
from contextlib import suppress

from .addresses import TRUNCATED_BITS, TrustedProxies
from .errors import StorageError, logger
from .storage import Storage, StorageFacts

# Two user agents behind one address are suspicious, and so is one that comes so often.
MANY_VISITS = 50
LOOK_SECONDS = 60.0


class ProxyCheck:
    """Tell whether one proxy stands for everybody, and what to configure then.

    ``ip_addresses`` is what this process stores of them. ``clock()`` is seconds that only grow.
    """

    def __init__(
        self,
        storage: Storage,
        proxies: TrustedProxies,
        ip_addresses: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._proxies = proxies
        self._ip_addresses = ip_addresses
        self._clock = clock
        self._look_at = -math.inf
        self._is_told = False

    def look(self) -> None:
        """Log the warning, once in a process; asks storage at most once a minute."""
        now = self._clock()
        if self._is_told or now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        with suppress(StorageError):  # whoever needs storage says so
            warning = self.warning(self._storage.facts([]))
            if warning:
                self._is_told = True
                logger.warning("%s", warning)

    def warning(self, facts: StorageFacts) -> str:
        """Return what seems to be wrong, and what to do; empty where nothing does."""
        source = self._source(facts)
        if source is None:
            return ""
        if facts.newest_user_agents < 2 and facts.newest_visits < MANY_VISITS:
            return ""
        found = f"the newest {facts.newest_visits} visits all come from "
        found += source or "a socket without address"
        if self._proxies.trust_some_of(source):
            return f"{found}, which is trusted, but names no client: let it send X-Forwarded-For"
        return (
            f"{found}: if that is a proxy, trusted_proxies=({source or 'unix'!r},) finds the "
            f"clients that it names in X-Forwarded-For"
        )

    def _source(self, facts: StorageFacts) -> str | None:
        """Return the private network all visits came from; empty where there was no address."""
        address = facts.only_address
        if address is None or self._ip_addresses == "none":
            return None
        if not address:
            return ""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return None
        if parsed.is_global:
            return None
        bits = f"/{TRUNCATED_BITS[parsed.version]}" if self._ip_addresses == "truncated" else ""
        return address + bits
