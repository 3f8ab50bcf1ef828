"""Who asked: the client's address behind trusted proxies, and its keyed ``user_hash``.

Raw addresses go no further than what :class:`Visitors` decides to store.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from .errors import ConfigurationError, StorageError

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

UNIX = "unix"
RETRY_SECONDS = 1.0


class Visitors:
    """Turn peer address and headers into a client address and a ``user_hash``.

    ``secret`` is called until it returns the key of the hash; while it raises
    :exc:`StorageError`, so does :meth:`user_hash`, asking again once a second.
    """

    def __init__(self, secret: Callable[[], bytes], trusted_proxies: Iterable[str] = ()) -> None:
        self._fetch_secret = secret
        self._secret: bytes | None = None
        self._retry_at = 0.0
        self._trusts_unix, self._trusted = parse_proxies(trusted_proxies)

    @property
    def trusts_proxies(self) -> bool:
        """Whether forwarding headers are looked at, at all."""
        return self._trusts_unix or bool(self._trusted)

    def address(self, peer: str, forwarded_for: str | None, forwarded: str | None) -> str:
        """Return the client's address: the nearest hop that is not a trusted proxy.

        Hops are walked from the right, as each proxy appends the one it was asked by; what
        stands left of an untrusted hop is the client's own claim. A hop that is no address ends
        the walk at the last good one. ``X-Forwarded-For``, which proxies append to, goes before
        ``Forwarded``: a proxy that sets only ``Forwarded`` must drop the client's own
        ``X-Forwarded-For``, or the client names itself.
        """
        if not self._trusts(peer):
            return _normal(peer)
        client = peer
        for hop in reversed(list(_hops(forwarded_for, forwarded))):
            address = _address(hop)
            if address is None:
                break
            client = str(address)
            if not self._trusts(client):
                break
        return _normal(client)

    def _trusts(self, peer: str) -> bool:
        if not peer:
            return self._trusts_unix
        if not self._trusted:
            return False
        address = _address(peer)
        return address is not None and any(address in network for network in self._trusted)

    def user_hash(self, address: str, user_agent: str) -> str:
        """Return 32 hexadecimal digits: keyed BLAKE2b-128 (RFC 7693) of address and agent."""
        text = f"{address}\0{user_agent}".encode("utf-8", "replace")
        return hashlib.blake2b(text, digest_size=16, key=self._key()).hexdigest()

    def _key(self) -> bytes:
        if self._secret is None:
            now = time.monotonic()
            if now < self._retry_at:
                raise StorageError("the secret of user_hash is not known yet")
            self._retry_at = now + RETRY_SECONDS
            self._secret = self._fetch_secret()
        return self._secret


def parse_proxies(proxies: Iterable[str]) -> tuple[bool, tuple[Network, ...]]:
    """Return whether a Unix socket is trusted, and the trusted networks."""
    if isinstance(proxies, str) or not isinstance(proxies, Iterable):
        raise ConfigurationError(
            f"trusted_proxies is a list of addresses, as ('10.0.0.1',); given {proxies!r}"
        )
    unix, networks = False, []
    for proxy in proxies:
        if proxy == UNIX:
            unix = True
            continue
        try:
            if not isinstance(proxy, str):  # ip_network() takes numbers, too
                raise ValueError("no text")
            networks.append(ipaddress.ip_network(proxy))
        except ValueError as error:
            raise ConfigurationError(
                f"trusted_proxies takes addresses, networks such as '10.0.0.0/8' or 'unix', "
                f"given {proxy!r}: {error}"
            ) from error
    return unix, tuple(networks)


def _hops(forwarded_for: str | None, forwarded: str | None) -> Iterator[str]:
    if forwarded_for is not None:
        yield from (hop.strip() for hop in forwarded_for.split(","))
    elif forwarded is not None:
        yield from (_for_parameter(element) for element in forwarded.split(","))


def _for_parameter(element: str) -> str:
    """Return the ``for=`` parameter of one element of a Forwarded header (RFC 7239)."""
    for pair in element.split(";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value.strip().strip('"')
    return ""


def _address(text: str) -> Address | None:
    """Parse an address with an optional port; IPv6 in brackets when it has one."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _normal(peer: str) -> str:
    """Return one spelling for one address; what is no address stays as it is."""
    if ":" not in peer:
        return peer  # IPv4 has only one, and parsing takes 3.5 µs of a visitor's first request
    address = _address(peer)
    return peer if address is None else str(address)
