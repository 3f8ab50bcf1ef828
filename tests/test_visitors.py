"""What stands for a person, and how much of an address is kept."""

from __future__ import annotations

from typing import Any

import pytest

from wsgi_tracker.addresses import TrustedProxies
from wsgi_tracker.errors import ConfigurationError, StorageError
from wsgi_tracker.visitors import Client, Visitors, check_ip_addresses

SOMEBODY = Client("192.0.2.1", "a")


def visitors(key: bytes = b"key", **options: Any) -> Visitors:
    return Visitors(lambda day: key + bytes([day]), TrustedProxies(), **options)


def hash_of(
    client: Client, address: str = "192.0.2.1", user_agent: str = "a", **options: Any
) -> str | None:
    return visitors(**options).user_hash(client, address, user_agent)


def test_user_hash_is_keyed_and_stable() -> None:
    first = hash_of(SOMEBODY)
    assert first is not None
    assert len(first) == 32
    assert int(first, 16)
    assert hash_of(SOMEBODY) == first

    others = {
        hash_of(SOMEBODY, key=b"other"),
        hash_of(SOMEBODY, user_agent="b"),
        hash_of(SOMEBODY, "192.0.2.2"),
        hash_of(SOMEBODY, "192.0.2.1a", ""),
        hash_of(SOMEBODY._replace(day=1)),
        hash_of(SOMEBODY._replace(user="192.0.2.1\0a")),
    }
    assert len(others - {first}) == 6


def test_named_user_is_one_wherever_it_comes_from() -> None:
    named = SOMEBODY._replace(user="ada")

    assert hash_of(named) == hash_of(named, "198.51.100.9", "other")
    assert hash_of(named) != hash_of(named._replace(user="bob"))


@pytest.mark.parametrize(
    ("mode", "stored"), [("full", "192.0.2.1"), ("truncated", "192.0.2.0"), ("none", None)]
)
def test_as_much_of_an_address_is_stored_as_was_asked_for(mode: str, stored: str | None) -> None:
    """It counts whole, or neighbours would be one person."""
    known = visitors(ip_addresses=mode)

    assert known.stored_address(SOMEBODY, "192.0.2.1") == stored
    assert known.user_hash(SOMEBODY, "192.0.2.1", "a") == hash_of(SOMEBODY)
    assert known.stored_address(SOMEBODY, "") is None


@pytest.mark.parametrize(("gpc", "dnt"), [("1", None), (None, "1"), ("1", "0")])
def test_privacy_signal_keeps_a_person_unknown_where_it_is_honored(
    gpc: str | None, dnt: str | None
) -> None:
    client = SOMEBODY._replace(gpc=gpc, dnt=dnt, user="ada")

    for honors in (True, False):
        known = visitors(honor_privacy_signals=honors)
        assert (known.user_hash(client, "192.0.2.1", "a") is None) == honors
        assert (known.stored_address(client, "192.0.2.1") is None) == honors


@pytest.mark.parametrize("signal", ["0", "", "null", "11", None])
def test_other_values_are_no_signal(signal: str | None) -> None:
    client = SOMEBODY._replace(gpc=signal, dnt=signal)

    assert hash_of(client, honor_privacy_signals=True) == hash_of(SOMEBODY)


def test_unknown_address_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ip_addresses is one of full, truncated, none"):
        check_ip_addresses("half")


def test_key_is_asked_for_again_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], []

    def key(day: int) -> bytes:
        asked.append(now[0])
        if now[0] < 101:
            raise StorageError("locked")
        return b"key"

    monkeypatch.setattr("wsgi_tracker.visitors.time.monotonic", lambda: now[0])
    known = Visitors(key, TrustedProxies())
    for _ in range(3):
        with pytest.raises(StorageError):
            known.user_hash(SOMEBODY, "", "")
    now[0] = 101.0

    assert known.user_hash(SOMEBODY, "", "") == known.user_hash(SOMEBODY, "", "")
    assert asked == [100.0, 101.0]
