from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import webtest
from hypothesis import HealthCheck, settings

from wsgi_tracker import Tracker

# Helpers stand beside the tests; importlib mode puts nothing on the path by itself.
sys.path[:0] = [
    str(Path(__file__).parent / folder) for folder in ("", "faults", "browser", "clickhouse")
]


from engines import ENGINES, choose, running  # noqa: E402 - found by that path


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer 404 below /missing, else say hello."""
    found = not environ["PATH_INFO"].startswith("/missing")
    start_response("200 OK" if found else "404 Not Found", [("Content-Type", "text/plain")])
    return [b"hello"]


# A shell that starts tests in the background has them ignore SIGINT, and so would all servers that
# are started here; what has a handler has the default again in a new program.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes on a busy machine says nothing of the code.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", default="sqlite", choices=ENGINES, help="what keeps visits")


def pytest_configure(config: pytest.Config) -> None:
    choose(config.getoption("--engine"))


@pytest.fixture(autouse=True, scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the engine that was asked for, as long as there are tests."""
    with running(tmp_path_factory.mktemp("engine")):
        yield


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSGI_TRACKER_TOKEN", raising=False)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "visits.db"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Any]:
    from hosts import Host

    host = Host(tmp_path)
    yield host
    host.storage.close()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Any]:
    from counting import Counted

    db = Counted(tmp_path)
    yield db
    db.storage.close()


@pytest.fixture
def spool_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the monotonic clock of spools; tests set its only item."""
    now = [1000.0]
    monkeypatch.setattr("wsgi_tracker.spool.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Callable[..., Tracker]]:
    """Make trackers over one database; reports ingest, so no thread is needed."""
    trackers = []

    def make(app: Any = hello, **options: Any) -> Tracker:
        tracker = Tracker(app, tmp_path / "visits.db", **{"ingest": False, **options})
        trackers.append(tracker)
        return tracker

    yield make
    for tracker in trackers:
        tracker.close()


@pytest.fixture
def asked(tracked: Callable[..., Tracker], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Send one request to a tracked application, and return its visit."""
    from calls import environ, lines, serve

    def ask(
        app: Any, path: str, method: str = "GET", *, collapse_ids: bool = False, **more: Any
    ) -> dict[str, Any]:
        with suppress(ZeroDivisionError):  # what broken views raise
            serve(tracked(app, collapse_ids=collapse_ids), environ(path, method, **more))
        return lines(tmp_path)[-1]

    return ask


@pytest.fixture(params=[pytest.param("", id="root"), pytest.param("/mounted", id="mounted")])
def client(
    request: pytest.FixtureRequest, tracked: Callable[..., Tracker]
) -> Callable[..., webtest.TestApp]:
    """Make a linted client of a tracked application, at the root and under a prefix."""

    def make(app: Any = hello, **options: Any) -> webtest.TestApp:
        return webtest.TestApp(
            tracked(app, **options), extra_environ={"SCRIPT_NAME": request.param}
        )

    return make
