"""Whose address counts behind proxies, and what is left of one that is shortened."""

from __future__ import annotations

from typing import Any

import pytest

from wsgi_tracker.addresses import TrustedProxies, truncated
from wsgi_tracker.errors import ConfigurationError

PROXIES = ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix")


def address(peer: str, forwarded_for: str | None, forwarded: str | None = None) -> str:
    return TrustedProxies(PROXIES).client(peer, forwarded_for, forwarded)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param("203.0.113.5", "198.51.100.1", "203.0.113.5", id="untrusted peer"),
        pytest.param("10.1.1.1", None, "10.1.1.1", id="nothing forwarded"),
        pytest.param("10.1.1.1", "203.0.113.5", "203.0.113.5", id="one proxy"),
        pytest.param("10.1.1.1", "203.0.113.5, 10.2.2.2, 192.0.2.1", "203.0.113.5", id="three"),
        pytest.param("10.1.1.1", "1.1.1.1, 203.0.113.5", "203.0.113.5", id="spoofed on the left"),
        pytest.param("10.1.1.1", "10.9.9.9,203.0.113.5", "203.0.113.5", id="spoofed as proxy"),
        pytest.param("10.1.1.1", "10.2.2.2", "10.2.2.2", id="only proxies"),
        pytest.param("10.1.1.1", "203.0.113.5:4711", "203.0.113.5", id="port"),
        pytest.param("10.1.1.1", "[2001:DB9::1]:443", "2001:db9::1", id="IPv6 with port"),
        pytest.param("10.1.1.1", "2001:DB9:0::1", "2001:db9::1", id="IPv6, one spelling"),
        pytest.param("10.1.1.1", "::ffff:203.0.113.5", "203.0.113.5", id="IPv4 in IPv6"),
        pytest.param("::ffff:10.1.1.1", "203.0.113.5", "203.0.113.5", id="proxy in IPv6"),
        pytest.param("", "203.0.113.5", "203.0.113.5", id="gunicorn's socket"),
        pytest.param("localhost", "203.0.113.5", "203.0.113.5", id="waitress's socket"),
        pytest.param("<local>", "203.0.113.5", "203.0.113.5", id="Werkzeug's socket"),
        pytest.param("localhost", None, "", id="socket, nothing forwarded"),
        pytest.param("10.1.1.1", "localhost", "10.1.1.1", id="socket's word forwarded"),
        pytest.param("10.1.1.1", "", "10.1.1.1", id="empty"),
        pytest.param("10.1.1.1", "unknown", "10.1.1.1", id="unknown"),
        pytest.param("10.1.1.1", "203.0.113.5, unknown", "10.1.1.1", id="unknown on the right"),
        pytest.param("10.1.1.1", "203.0.113.5, unknown, 10.3.3.3", "10.3.3.3", id="in the middle"),
        pytest.param("10.1.1.1", ",,\0,<script>,", "10.1.1.1", id="garbage"),
        pytest.param("10.1.1.1", "9" * 10_000, "10.1.1.1", id="long"),
        pytest.param("not an address", "203.0.113.5", "not an address", id="peer is no address"),
    ],
)
def test_nearest_hop_that_is_no_trusted_proxy(
    peer: str, forwarded_for: str | None, client: str
) -> None:
    assert address(peer, forwarded_for) == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("for=203.0.113.5", "203.0.113.5"),
        ('for="[2001:db9::1]:4711";proto=https', "2001:db9::1"),
        ("proto=http; For=203.0.113.5 ;by=10.1.1.1, for=10.2.2.2", "203.0.113.5"),
        ("for=1.1.1.1, for=203.0.113.5", "203.0.113.5"),
        ("for=_hidden, for=203.0.113.5", "203.0.113.5"),
        ("for=_hidden", "10.1.1.1"),
        ("proto=https", "10.1.1.1"),
        ('for="', "10.1.1.1"),
        ('for=1.1.1.1;x=", for=203.0.113.5', "203.0.113.5"),
        ('for=203.0.113.5;host="a,for=1.1.1.1"', "203.0.113.5"),
        ('host="a;for=1.1.1.1";for=203.0.113.5', "203.0.113.5"),
        (r'for=203.0.113.5;host="a\",for=1.1.1.1;x=\""', "203.0.113.5"),
        (r'for=203.0.113.5;host="a,for=1.1.1.1\\"', "203.0.113.5"),
        (r'x=", for=203.0.113.5;host="a\",for=1.1.1.1"', "203.0.113.5"),
    ],
)
def test_forwarded_header_is_read(forwarded: str, client: str) -> None:
    assert address("10.1.1.1", None, forwarded) == client


def test_forwarded_does_not_override_x_forwarded_for() -> None:
    assert address("10.1.1.1", "203.0.113.5", "for=1.1.1.1") == "203.0.113.5"


def test_nobody_is_trusted_by_default() -> None:
    nobody = TrustedProxies()

    assert not nobody
    assert nobody.client("127.0.0.1", "203.0.113.5", None) == "127.0.0.1"
    assert nobody.client("", "203.0.113.5", None) == ""


@pytest.mark.parametrize(
    "proxies", ["10.0.0.1", ["10.0.0.0/33"], ["10.0.0.1/8"], ["proxy.example"], [""], [None]]
)
def test_what_is_no_network_is_refused(proxies: Any) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        TrustedProxies(proxies)


@pytest.mark.parametrize(
    ("address", "left"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("203.0.113.77:4711", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("::1", "::"),
        ("client.example", None),
        ("", None),
    ],
)
def test_truncated_address_is_a_network(address: str, left: str | None) -> None:
    assert truncated(address) == left
