"""What real servers log of real requests is read as what was sent."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from needs import require
from servers import PATIENCE_SECONDS, free_port, gunicorn
from waiting import wait_until

from wsgi_tracker.logs import detect, log_format
from wsgi_tracker.logs.apache import COMBINED

pytestmark = pytest.mark.once
AGENT = 'Mozilla/5.0 "quoted" \\back\\ {é} end'.encode()
REFERER = b"http://example.com/?q=%22x"
FORWARDED_FOR = "203.0.113.9, 2001:db8::1"
HEADERS = (
    b"Host: shop.example:8080\r\nUser-Agent: " + AGENT + b"\r\nReferer: " + REFERER + b"\r\n"
    b"X-Forwarded-For: " + FORWARDED_FOR.encode() + b"\r\nConnection: close\r\n\r\n"
)
BARE = b"Host: shop.example\r\nConnection: close\r\n\r\n"
LOOPBACK = "127.0.0.1"
PATH = os.pathsep.join([os.defpath, "/usr/sbin"])
MODULES = Path("/usr/lib/apache2/modules")

APACHE_PATTERN = (
    '%v:%p %h %l %u [%{%d/%b/%Y:%T}t.%{usec_frac}t %{%z}t] "%r" %>s %B "%{Referer}i" '
    '"%{User-Agent}i" "%{Host}i" "%{X-Forwarded-For}i" %D %X "%f"'
)
APACHE = """\
ServerName shop.example
ServerRoot {folder}
DefaultRuntimeDir {folder}
DocumentRoot {folder}/www
Listen {address}:{port}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
{user}
LogFormat "{pattern}" own
CustomLog {folder}/access.log own
"""
NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    {temporary}
    {log_format}
    access_log {folder}/access.log {own};
    server {{
        listen {address}:{port};
        server_name shop.example;
        location / {{ return 200 "hello"; }}
    }}
}}
"""
NGINX_PATTERN = (
    '$remote_addr - $remote_user [$time_local] $msec "$request" $status $body_bytes_sent '
    '"$http_referer" "$http_user_agent" "$http_host" "$http_x_forwarded_for" '
    "$upstream_response_time $request_time"
)
NGINX_JSON = (
    '{"time":"$time_iso8601","ip":"$remote_addr","user":"$remote_user","request":"$request",'
    '"status":$status,"size":$body_bytes_sent,"referer":"$http_referer",'
    '"agent":"$http_user_agent","host":"$http_host","for":"$http_x_forwarded_for",'
    '"took":$request_time}'
)
CADDY = """\
{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind {address}
    log {{
        output file {folder}/access.log
    }}
    respond "hello" 200
}}
"""


class Server(NamedTuple):
    """A server that listens and logs."""

    address: tuple[str, int]
    log: Path

    def lines(self) -> list[str]:
        """Return the whole lines that it has logged."""
        text = self.log.read_bytes().decode("latin-1") if self.log.exists() else ""
        return text.split("\n")[:-1]

    def logged(self, request: bytes) -> tuple[str, str]:
        """Send a request; return the status of its answer, and the line that tells of it."""
        known = len(self.lines())
        status = send(self.address, request)
        wait_until(lambda: len(self.lines()) > known)
        (line,) = self.lines()[known:]
        return status, line


Start = Callable[[Path], "AbstractContextManager[Server]"]


def send(address: tuple[str, int], request: bytes) -> str:
    """Send a request as it is; return the status of the answer, if it is HTTP."""
    with socket.create_connection(address, PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        answer = b""
        with suppress(ConnectionResetError):
            while block := connection.recv(65536):
                answer += block
    return answer[9:12].decode() if answer.startswith(b"HTTP/1") else ""


def listens(address: tuple[str, int]) -> bool:
    with suppress(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE_SECONDS).close()
        return True
    return False


@contextmanager
def running(folder: Path, address: tuple[str, int], *command: str) -> Iterator[Server]:
    """Run a command that listens on a port, until it is left."""
    environ = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: process.poll() is not None or listens(address))
        assert process.poll() is None, (folder / "output").read_text()
        yield Server(address, folder / "access.log")
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def has_ipv6() -> bool:
    with suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    return False


def program(name: str, package: str) -> str:
    path = shutil.which(name, path=PATH)
    require(path, f"{name} ({package})")
    return str(path)


def apache(pattern: str, address: str = LOOPBACK) -> Start:
    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        command = program("apache2", "apache2-bin")
        (folder / "www").mkdir()
        port = free_port()
        configuration = APACHE.format(
            folder=folder,
            address=address,
            port=port,
            modules=MODULES,
            pattern=pattern.replace('"', '\\"'),
            user="" if os.getuid() else "User www-data\nGroup www-data",
        )
        (folder / "apache.conf").write_text(configuration)
        arguments = ("-f", str(folder / "apache.conf"), "-D", "FOREGROUND")
        with running(folder, (address.strip("[]"), port), command, *arguments) as server:
            yield server

    return start


def nginx(pattern: str, escape: str = "default", address: str = LOOPBACK) -> Start:
    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        command = program("nginx", "nginx-light")
        port = free_port()
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        configuration = NGINX.format(
            folder=folder,
            address=address,
            port=port,
            temporary="\n    ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
            log_format=f"log_format own escape={escape} '{pattern}';" if pattern else "",
            own="own" if pattern else "combined",
        )
        (folder / "nginx.conf").write_text(configuration)
        arguments = ("-p", str(folder), "-e", "error.log", "-c", "nginx.conf")
        with running(folder, (address.strip("[]"), port), command, *arguments) as server:
            yield server

    return start


@contextmanager
def caddy(folder: Path) -> Iterator[Server]:
    command = program("caddy", "caddy")
    port = free_port()
    (folder / "Caddyfile").write_text(CADDY.format(folder=folder, address=LOOPBACK, port=port))
    with running(folder, (LOOPBACK, port), command, "run", "--config", "Caddyfile") as server:
        yield server


def gunicorns(*options: str) -> Start:
    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        (folder / "app.py").write_text(
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [('Content-Length', '5')])\n"
            "    return [b'hello']\n"
        )
        files = ("--access-logfile", "access.log", *options)
        with gunicorn("app:app", folder=folder, options=files, python_path=[folder]) as server:
            yield Server((LOOPBACK, server.port), folder / "access.log")

    return start


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that Apache can reach, who is another user if root starts it."""
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


GUNICORN_PATTERN = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(B)s "%(f)s" "%(a)s" "%({Host}i)s" '
    '"%({X-Forwarded-For}i)s" %(L)s'
)
FULL = b"GET /boxes?color=red HTTP/1.1\r\n" + HEADERS
ODD = {
    b'GET /"a"\\b\xc3\xa9 HTTP/1.1\r\n' + BARE: ("GET", '/"a"\\b\xc3\xa9'),
    b"GET http://shop.example/b?c HTTP/1.1\r\n" + BARE: ("GET", "/b?c"),
    b"HEAD /a HTTP/1.1\r\n" + BARE: ("HEAD", "/a"),
    b"OPTIONS * HTTP/1.1\r\n" + BARE: ("OPTIONS", "*"),
    b"GET / HTTP/1.1\r\n\r\n": ("GET", "/"),
    b"GET /a b HTTP/1.1\r\n" + BARE: ("GET", "/a b"),
    b"GET /\r\n": ("GET", "/"),
    b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n": ("", ""),
}
# Requests that a server does not log, as it refuses or answers them before it comes to that.
NO_LINE_OF = {"caddy": {3, 4, 5, 6, 7}, "gunicorn": {0, 5, 6, 7}}
HOST = "shop.example:8080"
SERVERS = [
    pytest.param(apache(COMBINED), "combined", None, id="apache, combined"),
    pytest.param(
        apache("%v:%p " + COMBINED), "vhost_combined", "shop.example", id="apache, vhost_combined"
    ),
    pytest.param(apache(APACHE_PATTERN), APACHE_PATTERN, HOST, id="apache"),
    pytest.param(nginx(""), "combined", None, id="nginx, combined"),
    pytest.param(nginx(NGINX_PATTERN), NGINX_PATTERN, HOST, id="nginx"),
    pytest.param(nginx(NGINX_JSON, "json"), NGINX_JSON, HOST, id="nginx, JSON"),
    pytest.param(
        nginx(NGINX_PATTERN, "none"), f"escape=none {NGINX_PATTERN}", HOST, id="nginx, raw"
    ),
    pytest.param(caddy, "caddy", HOST, id="caddy"),
    pytest.param(gunicorns(), "gunicorn", None, id="gunicorn"),
    pytest.param(
        gunicorns("--access-logformat", GUNICORN_PATTERN),
        GUNICORN_PATTERN,
        HOST,
        id="gunicorn, own format",
    ),
]


@pytest.mark.parametrize(("start", "pattern", "host"), SERVERS)
def test_line_says_what_was_sent(
    start: Start, pattern: str, host: str | None, folder: Path
) -> None:
    began = time.time_ns() // 1_000_000_000
    with start(folder) as server:
        status, line = server.logged(FULL)
    ended = time.time_ns() // 1_000_000_000

    entry = log_format(pattern).read(line)

    assert began <= entry.timestamp // 1_000_000 <= ended
    assert entry[1:4] == ("GET", "/boxes?color=red", status)
    assert entry.bytes_sent
    assert (entry.address, entry.user, entry.host) == ("127.0.0.1", None, host)
    assert entry.user_agent == AGENT.decode("latin-1")
    assert entry.referer == REFERER.decode("latin-1")
    # Formats that tell the client's idea of the host tell these, too.
    assert entry.forwarded_for == (FORWARDED_FOR if host == HOST else None)
    assert (entry.duration_us is not None) == (host == HOST)


@pytest.mark.parametrize(("start", "pattern", "host"), SERVERS)
def test_line_of_an_odd_request_is_an_entry(
    start: Start, pattern: str, host: str | None, folder: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id.partition(",")[0]
    sent = [odd for at, odd in enumerate(ODD) if at not in NO_LINE_OF.get(name, ())]
    with start(folder) as server:
        answers = [server.logged(odd) for odd in sent]
    known = log_format(pattern)

    entries = [known.read(line) for _, line in answers]

    assert [entry[1:3] for entry in entries] == [ODD[odd] for odd in sent]
    # An answer of HTTP/0.9 tells no status.
    assert [
        entry.status for entry, (status, _) in zip(entries, answers, strict=True) if status
    ] == [status for status, _ in answers if status]


@pytest.mark.parametrize(
    ("start", "name"),
    [
        pytest.param(apache("%v:%p " + COMBINED), "vhost_combined", id="apache, vhost_combined"),
        pytest.param(nginx(""), "combined", id="nginx, combined"),
        pytest.param(caddy, "caddy", id="caddy"),
        pytest.param(gunicorns(), "combined", id="gunicorn"),
    ],
)
def test_format_is_known_by_its_lines(start: Start, name: str, folder: Path) -> None:
    with start(folder) as server:
        server.logged(FULL)
        known = detect(server.lines())

    assert known is not None
    assert known.name == name


@pytest.mark.parametrize(
    ("start", "pattern"),
    [
        pytest.param(apache(COMBINED, "[::1]"), "combined", id="apache"),
        pytest.param(nginx("", address="[::1]"), "combined", id="nginx"),
    ],
)
def test_address_may_be_of_ipv6(start: Start, pattern: str, folder: Path) -> None:
    require(has_ipv6(), "IPv6 on the loopback interface")
    with start(folder) as server:
        _, line = server.logged(FULL)

    assert log_format(pattern).read(line).address == "::1"
