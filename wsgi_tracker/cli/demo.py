"""A demonstration: gunicorn serves a small shop under Tracker, visitors come, reports are shown.

Real processes and real HTTP on a free port of this machine; nothing is left behind.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import TrackerError
from . import tables
from .source import UrlSource

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

WORKERS = 2
VISITORS = 40
PAGES = {
    "/": 30,
    "/boxes": 25,
    "/boxes/7": 12,
    "/boxes/12": 9,
    "/cart": 8,
    "/checkout": 3,
    "/old-catalogue": 4,
    "/broken": 1,
}
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/139.0.0.0 Safari/537.36",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "curl/8.14.1",
)
REFERERS = ("https://www.google.com/", "https://news.example.org/boxes", None, None)
REPORTS: tuple[tuple[str, str, Mapping[str, str], Callable[[Any], None]], ...] = (
    ("summary", "--period day", {"period": "day"}, tables.summary),
    ("stats", "--include status,latency", {"include": "status,latency"}, tables.stats),
    ("breakdown", "--by class", {"by": "class"}, tables.breakdown),
    (
        "trends",
        "--granularity hour --period 24h",
        {"granularity": "hour", "period": "24h"},
        tables.trends,
    ),
    ("visits", "--limit 5", {"limit": "5"}, tables.visits),
)

# gunicorn's configuration is this module: by default it would listen in the home folder, and read
# the gunicorn.conf.py of the current one. Names that a release does not know are ignored there.
control_socket_disable = True


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve a few pages, as any WSGI application would."""
    path = environ["PATH_INFO"]
    if path == "/broken":
        raise RuntimeError("this page is broken, for you to see it in the reports")
    time.sleep(random.expovariate(200))  # as an application would, 5 ms
    found = path in PAGES and path != "/old-catalogue"
    body = b"Boxes of all sizes.\n" if found else b"No such page.\n"
    start_response(
        "200 OK" if found else "404 Not Found",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))],
    )
    return [body]


@click.command()
@click.option(
    "--seconds", default=4.0, show_default=True, type=click.FloatRange(0.1), help="Of traffic."
)
@click.option(
    "--stay/--leave", default=None, help="Serve on until Ctrl-C.  [default: on a terminal]"
)
def demo(seconds: float, stay: bool | None) -> None:
    """Serve an example with gunicorn, visit it for some seconds, and show the reports.

    It needs gunicorn: pip install 'wsgi-tracker[demo]'. Nothing is left behind.
    """
    token = secrets.token_urlsafe(24)
    with (
        tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as folder,
        _gunicorn(Path(folder) / "visits.db", token) as port,
    ):
        try:
            _show(port, token, seconds)
            if sys.stdout.isatty() if stay is None else stay:
                _stay(port, token)
        except KeyboardInterrupt:
            click.echo("stopped")


def _show(port: int, token: str, seconds: float) -> None:
    click.echo(f"Visiting it for {seconds:g} seconds ...")
    sent = _visit(port, seconds)
    source = UrlSource(f"http://127.0.0.1:{port}", token)
    for name, options, parameters, show in REPORTS:
        click.echo(f"\n$ wsgi-tracker {name} {options} --url http://127.0.0.1:{port}")
        show(source.ask(name, list(parameters.items())).body)
    hits = source.ask("summary", []).body["total_hits"]
    click.echo(f"\n{sent} requests sent to {WORKERS} workers, {hits} visits recorded.")
    if hits != sent:
        raise TrackerError("every request should have been one visit")


def _stay(port: int, token: str) -> None:
    base = f"http://127.0.0.1:{port}"
    click.echo(
        f"\nLook at it: {base}/api/tracking/dashboard#token={token}\n"
        f"Or ask it yourself, and end it with Ctrl-C:\n"
        f"  export WSGI_TRACKER_TOKEN={token}\n"
        f"  wsgi-tracker visits --follow --url {base}\n"
        f'  curl -H "Authorization: Bearer $WSGI_TRACKER_TOKEN" {base}/api/tracking/live'
    )
    while True:
        _visit(port, 1.0)


@contextmanager
def _gunicorn(database: Path, token: str) -> Iterator[int]:
    """Serve the shop until the block ends; yields the port."""
    application = (
        f"wsgi_tracker:wrap('{__name__}:shop', {str(database)!r}, "
        f"trusted_proxies=['127.0.0.1'], collapse_ids=True)"
    )
    command = [sys.executable, "-m", "gunicorn", application, "--bind", "127.0.0.1:0"]
    command += ["--workers", str(WORKERS), "--config", f"python:{__name__}"]
    click.echo(f'$ gunicorn "{application}" --workers {WORKERS}')
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, "WSGI_TRACKER_TOKEN": token},
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, who stop it
        )
        try:
            yield _port(server, log)
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


START_SECONDS = 30.0


def _port(server: subprocess.Popen[bytes], log: Any) -> int:
    """Read gunicorn's log until it says where it listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        log.seek(0)
        text = log.read()
        if match := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", text):
            return int(match[1])
        if "No module named gunicorn" in text:
            raise TrackerError("the demonstration needs gunicorn: pip install 'wsgi-tracker[demo]'")
        if server.poll() is not None or time.monotonic() > deadline:
            raise TrackerError(f"gunicorn did not start:\n{text}")
        time.sleep(0.02)


def _visit(port: int, seconds: float) -> int:
    """Visit the shop as several people and programs would; return how many requests that were."""
    chance = random.Random()
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        visitor = chance.randrange(VISITORS)
        headers = {
            "User-Agent": AGENTS[visitor % len(AGENTS)],
            "X-Forwarded-For": f"203.0.113.{visitor + 1}",
        }
        if referer := chance.choice(REFERERS):
            headers["Referer"] = referer
        _get(port, chance.choices(tuple(PAGES), tuple(PAGES.values()))[0], headers)
        sent += 1
    return sent


def _get(port: int, path: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        connection.getresponse().read()
    finally:
        connection.close()
