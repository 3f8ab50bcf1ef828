"""Visits that are followed: each once, as it comes, whatever becomes of who answers."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commands import PATIENCE_SECONDS, Running, command
from counting import Counted, visit
from shops import Shop, serving

from wsgi_tracker.cli.reports import followed
from wsgi_tracker.cli.source import Source, UrlSource, open_source
from wsgi_tracker.period import SECOND

pytestmark = pytest.mark.once


@pytest.fixture
def visited(tmp_path: Path) -> Iterator[Shop]:
    """Return a shop of the test's own."""
    with serving(tmp_path) as shop:
        yield shop


each_source = pytest.mark.parametrize("kind", ["database", "url"])


@each_source
def test_follow_shows_each_visit_once_as_it_comes(kind: str, visited: Shop) -> None:
    slow = threading.Thread(target=visited.visit, args=("/slow",))
    with Running("visits", "--follow", "--json", *visited.source(kind)) as following:
        seen = [json.loads(following.line())["endpoint"] for _ in range(4)]
        slow.start()
        visited.visit("/new")
        seen.append(json.loads(following.line())["endpoint"])
        (visited.folder / "slow.fifo").write_text("go on")  # it began first, and ends now
        slow.join(PATIENCE_SECONDS)
        seen.append(json.loads(following.line())["endpoint"])
        visited.visit("/last")
        seen.append(json.loads(following.line())["endpoint"])
        code = following.stop(signal.SIGINT)

        assert seen == ["/", "/boxes", "/boxes", "(unmatched)", "/new", "/slow", "/last"]
        assert (following.rest(), following.errors, code) == ([], "", 0)


def test_follow_without_json_shows_lines_of_a_log(visited: Shop) -> None:
    with Running("visits", "-f", "--status", "404", *visited.source("database")) as following:
        line = following.line()

    assert re.fullmatch(r"\S+ \S+  \S+  GET  /missing  404  [\d.]+ (ms|µs)  curl/8\n", line)


class EndedError(Exception):
    """Nothing else is to come."""


def follow(source: Source, *steps: Callable[[], object]) -> list[str]:
    """Return the endpoints that are seen while one step is taken in each pause."""
    left = iter(steps)
    seen = []

    def pause(seconds: float) -> None:
        if (step := next(left, None)) is None:
            raise EndedError
        step()

    with suppress(EndedError):
        for line in followed(source, [], pause):
            seen.append(json.loads(line)["endpoint"])
    return seen


def test_follow_shows_what_began_long_before(db: Counted) -> None:
    now = time.time_ns() // 1000

    def arrive(endpoint: str, seconds_ago: int) -> None:
        db.ingest([visit(now - seconds_ago * SECOND, "a" * 32, endpoint=endpoint)])

    arrive("/before", 1800)
    with open_source(str(db.database), None, None) as source:
        seen = follow(source, partial(arrive, "/long", 600), partial(arrive, "/longer", 7200))

    assert seen == ["/long", "/longer"]


def test_follow_goes_on_when_the_server_is_there_again(
    db: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive = partial(db.ingest, [visit(time.time_ns() // 1000, "a" * 32)])
    with ExitStack() as running:
        first = running.enter_context(Running("serve", "--port", "0", "-d", db.database))
        url = first.line().split()[-1].removesuffix("/dashboard")
        again = Running("serve", "--port", str(urlsplit(url).port), "-d", db.database)

        def restart() -> None:
            running.enter_context(again).line()

        seen = follow(UrlSource(url, None), partial(first.stop, signal.SIGTERM), arrive, restart)

    assert len(seen) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].endswith("Connection refused; asking again")


@pytest.mark.parametrize("option", ["--period=day", "--limit=3", "--start=2020-01-01"])
def test_follow_goes_on_from_now(option: str, db: Counted) -> None:
    assert command("visits", "--follow", option, "-d", db.database).exit_code == 2
