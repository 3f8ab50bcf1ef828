"""Values in statements of ClickHouse are read as what they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from clickhouses import Node
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse.client import Client
from wsgi_tracker.storage.clickhouse.literals import glob_pattern, literal


@pytest.fixture
def client(node: Node) -> Client:
    return Client(
        read_address(f"clickhouse://127.0.0.1:{node.port}/default"), query_timeout_seconds=9
    )


anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
@example(["'", "\\", "\\'", "\0", "\n{x}", "'; DROP TABLE visits; --", "%s", "\u2028"])
def test_literal_is_read_as_what_it_is(client: Client, texts: list[str]) -> None:
    assert client.rows(f"SELECT {literal(texts)}") == [texts]
    assert client.rows(f"SELECT {literal(len(texts))}, {literal(None)}") == [[len(texts), None]]


globs = st.text(st.sampled_from("ab/*?[]!^-\\.é日$'\n("), max_size=8)


@anything
@given(st.lists(st.tuples(globs, globs | st.just("")), min_size=1, max_size=50))
def test_glob_fits_what_it_fits_in_sqlite(client: Client, pairs: list[tuple[str, str]]) -> None:
    # Texts that a glob might fit are made of it.
    pairs += [(glob, glob.translate({ord(c): "a" for c in "*?[]!^-"})) for glob, _ in pairs]
    asked = ", ".join(f"match({literal(text)}, {literal(glob_pattern(g))})" for g, text in pairs)
    with closing(sqlite3.connect(":memory:")) as connection:
        expected = [
            connection.execute("SELECT ? GLOB ?", (text, glob.replace("[!", "[^"))).fetchone()[0]
            for glob, text in pairs
        ]

    assert client.rows(f"SELECT {asked}") == [expected]
