"""A proxy that is not trusted hides its clients: health warns of it, and the log says it once."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from hosts import Host, thread_of
from servers import PATIENCE_SECONDS, Server, gunicorn, report
from waiting import wait_until

from wsgi_tracker import Tracker, Visit
from wsgi_tracker.addresses import TrustedProxies
from wsgi_tracker.errors import StorageError
from wsgi_tracker.process import new_lock
from wsgi_tracker.proxies import ProxyCheck

HEALTH = "/api/tracking/health"
NOBODY = {"Sec-GPC": "1"}
Tracked = Callable[..., Tracker]


@pytest.fixture
def app(tracked: Tracked) -> webtest.TestApp:
    return webtest.TestApp(tracked())


def visit(
    app: webtest.TestApp, count: int, address: str | None, agents: int = 1, **headers: str
) -> None:
    for number in range(count):
        environ = {} if address is None else {"REMOTE_ADDR": address}
        agent = {"User-Agent": f"agent {number % agents}"}
        app.get("/", headers={**agent, **headers}, extra_environ=environ)


def warnings(app: webtest.TestApp) -> list[str]:
    app.get("/api/tracking/summary")
    found: list[str] = app.get(HEALTH).json["warnings"]
    return found


def line(number: int, address: str | None = "10.0.0.1", user: str | None = "a" * 32) -> bytes:
    return Visit(number, user, "GET", "/", ip_address=address, user_agent=f"{number % 3}").line()


@pytest.mark.parametrize(
    ("visits", "source"),
    [
        pytest.param([(2, "10.0.0.1", 2)], "10.0.0.1", id="two agents"),
        pytest.param([(49, "10.0.0.1", 1)], None, id="49 visits"),
        pytest.param([(50, "10.0.0.1", 1)], "10.0.0.1", id="50 visits"),
        pytest.param([(50, "127.0.0.1", 3)], "127.0.0.1", id="loopback"),
        pytest.param([(50, "::1", 3)], "::1", id="IPv6 loopback"),
        pytest.param([(50, "fd00::1", 3)], "fd00::1", id="IPv6 private"),
        pytest.param([(50, "100.64.0.1", 3)], "100.64.0.1", id="shared by carriers"),
        pytest.param([(50, "8.8.8.8", 3)], None, id="public"),
        pytest.param([(50, "", 3)], "unix", id="gunicorn's socket"),
        pytest.param([(50, "localhost", 3)], "unix", id="waitress's socket"),
        pytest.param([(2, None, 2)], "unix", id="no address"),
        pytest.param([(49, "", 1)], None, id="49 visits over a socket"),
        pytest.param([(50, "nonsense", 3)], None, id="nonsense"),
        pytest.param([(50, "10.0.0.1", 3), (1, "10.0.0.2", 1)], None, id="two addresses"),
        pytest.param([(50, "10.0.0.1", 3), (1, None, 1)], None, id="one without"),
        pytest.param([], None, id="no visits"),
    ],
)
def test_one_private_address_or_socket_for_everybody_is_suspicious(
    visits: list[tuple[int, str | None, int]], source: str | None, app: webtest.TestApp
) -> None:
    for count, address, agents in visits:
        visit(app, count, address, agents)

    found = warnings(app)

    if source is None:
        assert found == []
    else:
        (warning,) = found
        place = "a socket without address" if source == "unix" else source
        assert f"the newest {visits[0][0]} visits all come from {place}:" in warning
        assert f"trusted_proxies=('{source}',)" in warning
    assert app.get(HEALTH).json["status"] == "ok"


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        pytest.param("10.0.0.7", ["10.0.0.0/8"], id="network"),
        pytest.param("::1", ["10.0.0.0/8", "::1"], id="address"),
        pytest.param("", ["unix"], id="socket"),
    ],
)
def test_trusted_proxy_that_names_nobody_is_told_to(
    address: str, trusted: list[str], tracked: Tracked
) -> None:
    app = webtest.TestApp(tracked(trusted_proxies=trusted))
    visit(app, 2, address, 2)

    (warning,) = warnings(app)

    assert "which is trusted, but names no client: let it send X-Forwarded-For" in warning


@pytest.mark.parametrize("address", ["10.0.0.1", ""])
def test_trusted_proxy_ends_the_warning(address: str, tracked: Tracked) -> None:
    app = webtest.TestApp(tracked(trusted_proxies=["10.0.0.1", "unix"]))
    for number in range(60):
        visit(app, 1, address, **{"X-Forwarded-For": f"198.18.0.{number}"})

    assert warnings(app) == []


@pytest.mark.parametrize(
    ("address", "network"),
    [pytest.param("10.0.0.7", "10.0.0.0/24", id="v4"), pytest.param("::1", "::/48", id="v6")],
)
def test_network_is_named_where_only_that_is_stored(
    address: str, network: str, tracked: Tracked
) -> None:
    app = webtest.TestApp(tracked(ip_addresses="truncated"))
    visit(app, 2, address, 2)

    (warning,) = warnings(app)

    assert f"trusted_proxies=('{network}',)" in warning
    assert tracked(ip_addresses="truncated", trusted_proxies=[network])


def test_addresses_that_are_not_to_be_stored_say_nothing_of_a_socket(tracked: Tracked) -> None:
    app = webtest.TestApp(tracked(ip_addresses="none"))
    visit(app, 50, "10.0.0.1", 3)

    assert warnings(app) == []


@pytest.mark.parametrize(
    ("hidden", "warned"),
    [pytest.param(50, False, id="all"), pytest.param(48, True, id="all but two")],
)
def test_who_wants_to_stay_unknown_says_nothing_of_a_proxy(
    hidden: int, warned: bool, tracked: Tracked
) -> None:
    app = webtest.TestApp(tracked(honor_privacy_signals=True))
    visit(app, 50 - hidden, "10.0.0.1", 2)
    visit(app, hidden, "10.0.0.1", 3, **NOBODY)

    assert bool(warnings(app)) is warned


def test_purged_visits_are_not_suspicious(app: webtest.TestApp) -> None:
    storage = app.app._backend.storage
    visit(app, 50, "10.0.0.1")
    app.get("/api/tracking/summary")

    next(storage.purge(before=time.time_ns()))  # the floor is set, nothing is deleted yet

    assert storage.facts([]).newest_visits == 0
    assert app.get(HEALTH).json["warnings"] == []


def test_only_the_newest_visits_are_suspicious(host: Host) -> None:
    check = check_of(host)
    host.segment(line(1, "10.0.0.9") + b"".join(line(2 + n) for n in range(999)))
    host.ingest()
    before = check.warning(host.storage.facts([]))

    host.segment(line(2000))
    host.ingest()

    assert before == ""
    assert "the newest 1000 visits" in check.warning(host.storage.facts([]))


# --- the log -------------------------------------------------------------------------------------


def check_of(host: Host, clock: Callable[[], float] = time.monotonic) -> ProxyCheck:
    return ProxyCheck(host.storage, TrustedProxies(), "full", clock=clock)


class Thread:
    """An ingest thread that works when it is told to, and a clock that it looks at."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.now = 0.0
        check = check_of(host, lambda: self.now)
        self._thread = thread_of(host, host.ingester, on_ingest=check.look)

    def ingest(self, lines: bytes = b"") -> None:
        """Wake up, after a minute of rest."""
        if lines:
            self._host.segment(lines)
        self._host.ingester.look_again()
        self._thread._ingest(0.05, new_lock())


@pytest.fixture
def thread(host: Host) -> Thread:
    return Thread(host)


def test_log_says_once_what_to_configure(thread: Thread, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        thread.now += 61
        thread.ingest(line(number) + line(number + 1))

    (message,) = caplog.messages
    assert "all come from 10.0.0.1:" in message
    assert "trusted_proxies=('10.0.0.1',)" in message


def test_thread_looks_once_a_minute_while_visits_come(
    thread: Thread, caplog: pytest.LogCaptureFixture
) -> None:
    thread.ingest(line(1))
    thread.now = 59
    thread.ingest(line(2))
    within_a_minute = list(caplog.messages)
    thread.now = 61
    thread.ingest()
    without_visits = list(caplog.messages)
    thread.ingest(line(3))

    assert within_a_minute == without_visits == []
    assert len(caplog.messages) == 1


def test_storage_that_does_not_answer_is_asked_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    class Storage:
        def facts(self, segments: Any) -> Any:
            now[0] += 61
            if now[0] == 61:
                raise StorageError("locked")
            return host.storage.facts(segments)

    now = [0.0]
    host.segment(line(1) + line(2))
    host.ingest()
    check = ProxyCheck(Storage(), TrustedProxies(), "full", clock=lambda: now[0])  # type: ignore[arg-type]

    check.look()
    before = list(caplog.messages)
    now[0] += 61
    check.look()

    assert before == []
    assert len(caplog.messages) == 1


def test_thread_goes_on_whatever_looking_does(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    thread = thread_of(host, host.ingester, on_ingest=lambda: [][0])
    host.segment(line(1))

    pause = thread._ingest(0.05, new_lock())

    assert 0 < pause <= 1
    assert "nobody looks at what was ingested: list index out of range" in caplog.messages


def test_tracker_has_its_ingest_thread_look(
    tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracked()
    visit(webtest.TestApp(tracker), 2, "10.0.0.1", 2)

    tracker._backend.ingest_thread._ingest(0.05, new_lock())

    assert any("trusted_proxies=('10.0.0.1',)" in message for message in caplog.messages)


# --- a real socket -------------------------------------------------------------------------------

SHOP = """
from wsgi_tracker import Tracker, proxies

proxies.LOOK_SECONDS = 0.0


def shop(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


app = Tracker(shop, trusted_proxies={trusted})
"""


def serve_over(path: Path, trusted: list[str]) -> Server:
    """Return a gunicorn that also listens on a Unix socket."""
    (path.parent / "shop.py").write_text(SHOP.format(trusted=trusted))
    return gunicorn("shop:app", folder=path.parent, options=["--bind", f"unix:{path}"])


def get_over(path: Path, agent: str, forwarded_for: str) -> bytes:
    """Send one request through a Unix socket, as a proxy does."""
    connection = http.client.HTTPConnection("shop.example", timeout=PATIENCE_SECONDS)
    with closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(path))
        headers = {"User-Agent": agent, "X-Forwarded-For": forwarded_for}
        connection.request("GET", "/", headers=headers)
        return connection.getresponse().read()


def test_gunicorn_behind_a_socket_says_what_to_configure(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    told = "all come from a socket without address: if that is a proxy, trusted_proxies=('unix',)"
    with serve_over(path, []) as server:
        for number in range(3):
            get_over(path, f"agent {number}", f"198.18.0.{number}")
        wait_until(lambda: told in server.log)
        (warning,) = [text for text in report(server.port, "health")["warnings"] if told in text]
        visits = report(server.port, "visits")["visits"]

    assert server.log.count(told) == 1
    assert warning.startswith("the newest")
    assert {visit["ip_address"] for visit in visits} == {None}


def test_gunicorn_behind_a_socket_that_is_trusted_finds_the_clients(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serve_over(path, ["unix"]) as server:
        for number in range(3):
            get_over(path, f"agent {number}", f"203.0.113.9, 198.18.0.{number}")
        visits = report(server.port, "visits")["visits"]
        warnings = report(server.port, "health")["warnings"]

    assert {visit["ip_address"] for visit in visits} == {f"198.18.0.{n}" for n in range(3)}
    assert not any("proxy" in warning for warning in warnings)
    assert "trusted_proxies" not in server.log
