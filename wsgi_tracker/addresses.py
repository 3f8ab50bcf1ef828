"""Client addresses: read, compared with networks, shortened, and found behind trusted proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from .errors import ConfigurationError

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

UNIX = "unix"
# What stands for the address of a Unix socket: with gunicorn, waitress, Werkzeug's server.
SOCKETS = ("", "localhost", "<local>")
TRUNCATED_BITS = {4: 24, 6: 48}  # what is left of an address: a provider's street, no house


class TrustedProxies:
    """The peers whose word is taken for whom they forward: addresses, networks, ``"unix"``."""

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        if isinstance(proxies, str) or not isinstance(proxies, Iterable):
            raise ConfigurationError(
                f"trusted_proxies is a list of addresses, as ('10.0.0.1',); given {proxies!r}"
            )
        proxies = tuple(proxies)
        self._unix = UNIX in proxies  # a socket without address
        self._networks = tuple(_trusted(proxy) for proxy in proxies if proxy != UNIX)

    def __bool__(self) -> bool:
        """Whether forwarding headers are looked at, at all."""
        return self._unix or bool(self._networks)

    def client(self, peer: str, forwarded_for: str | None, forwarded: str | None) -> str:
        """Return the client's address: the nearest hop that is not a trusted proxy.

        Hops are walked from the right, as each proxy appends the one it was asked by; what
        stands left of an untrusted hop is the client's own claim. A hop that is no address ends
        the walk at the last good one. ``X-Forwarded-For``, which proxies append to, goes before
        ``Forwarded``: a proxy that sets only ``Forwarded`` must drop the client's own
        ``X-Forwarded-For``, or the client names itself.
        """
        if peer in SOCKETS:
            peer = ""
        if not self._trusts(peer):
            return _normal(peer)
        client = peer
        for hop in _hops(forwarded_for, forwarded):
            address = parse_address(hop)
            if address is None:
                break
            client = str(address)
            if not self._trusts(client):
                break
        return _normal(client)

    def trust_some_of(self, network: str) -> bool:
        """Return whether an address of this network, or of a socket if it is empty, is trusted."""
        if not network:
            return self._unix
        given = ipaddress.ip_network(network)
        return any(
            given.version == known.version and given.overlaps(known) for known in self._networks
        )

    def _trusts(self, peer: str) -> bool:
        if not peer:
            return self._unix
        return bool(self._networks) and is_within(peer, self._networks)


def _trusted(proxy: str) -> Network:
    try:
        if not isinstance(proxy, str):  # ip_network() takes numbers, too
            raise ValueError("no text")
        return ipaddress.ip_network(proxy)
    except ValueError as error:
        raise ConfigurationError(
            f"trusted_proxies takes addresses, networks such as '10.0.0.0/8' or 'unix', "
            f"given {proxy!r}: {error}"
        ) from error


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Return whether one of the networks holds the address; what is no address is nowhere."""
    parsed = parse_address(address)
    return parsed is not None and any(parsed in network for network in networks)


def truncated(address: str) -> str | None:
    """Return the network of an address: its first 24 bits of 32, 48 of 128; else nothing."""
    parsed = parse_address(address)
    if parsed is None:
        return None
    bits = TRUNCATED_BITS[parsed.version]
    return str(ipaddress.ip_network((parsed, bits), strict=False).network_address)


def parse_address(text: str) -> Address | None:
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
    address = parse_address(peer)
    return peer if address is None else str(address)


def _hops(forwarded_for: str | None, forwarded: str | None) -> Iterator[str]:
    """Return who asked whom, the nearest first."""
    if forwarded_for is not None:
        yield from map(str.strip, reversed(forwarded_for.split(",")))
    elif forwarded is not None:
        yield from map(_for_parameter, _split(forwarded, ","))


def _for_parameter(element: str) -> str:
    """Return the ``for=`` parameter of one element of a Forwarded header (RFC 7239)."""
    for pair in _split(element, ";"):
        name, _, value = pair.partition("=")
        if name.strip().lower() == "for":
            return value.strip().strip('"')
    return ""


def _split(text: str, separator: str) -> Iterator[str]:
    """Split from the right, but not within quotes.

    What a proxy appended has its quotes in pairs, though the client chose what they hold, its
    ``Host`` for one; what the client sent may have one too many.
    """
    is_quoted, end = False, len(text)
    for place in range(len(text) - 1, -1, -1):
        if text[place] == '"' and not _is_escaped(text, place):
            is_quoted = not is_quoted
        elif text[place] == separator and not is_quoted:
            yield text[place + 1 : end]
            end = place
    yield text[:end]


def _is_escaped(text: str, place: int) -> bool:
    start = place
    while start and text[start - 1] == "\\":
        start -= 1
    return (place - start) % 2 == 1
