"""Where a database is, read from what names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsgi_tracker import ConfigurationError, Tracker
from wsgi_tracker.storage.address import read_address


def test_address_is_read_and_its_password_is_shown_nowhere() -> None:
    address = read_address("clickhouses://shop:p%40ss@db.example/visits?cluster=main&spool=/tmp/s")

    assert (address.origin, address.database) == ("https://db.example:8443", "visits")
    assert (address.user, address.password) == ("shop", "p@ss")
    assert (address.cluster, address.spool) == ("main", Path("/tmp/s"))  # noqa: S108
    assert "p@ss" not in repr(address)
    assert str(address) == "clickhouses://db.example:8443/visits"


def test_address_without_port_or_tls_is_read() -> None:
    address = read_address("clickhouse://[::1]:9/v")

    assert address.origin == "http://[::1]:9"
    assert str(address) == "clickhouse://[::1]:9/v"
    assert read_address("clickhouse://db.example/v").origin == "http://db.example:8123"


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://",
        "clickhouse:///visits",
        "clickhouse://secret-host",
        "clickhouse://h:secret/visits",
        "clickhouse://h/visits-secret",
        "clickhouse://h/visits?secret=1",
        "clickhouse://h/visits?cluster=secret-1",
        "clickhouse://h/visits#secret",
        "clickhouse://u:secret%0a@h/visits",
    ],
)
def test_address_that_cannot_be_read_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="clickhouse://user:password@host") as refused:
        read_address(url)

    assert "secret" not in str(refused.value)


def test_hosts_need_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="give secret="):
        Tracker(lambda *_: [], "clickhouse://127.0.0.1/visits")
