"""A demonstration: gunicorn serves a small shop under Tracker, visitors come, reports are printed.

Real processes and real HTTP on a free port of this machine; nothing is left behind.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .errors import TrackerError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

WORKERS = 2
REQUESTS = 300
VISITORS = 40
REPORTS = ("summary?period=day", "stats?period=week", "trends?granularity=hour&period=24h")
PAGES = ("/", "/", "/boxes", "/boxes", "/boxes/small", "/boxes/large", "/cart", "/old-catalogue")
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
)
REFERERS = ("https://www.google.com/search?q=boxes", "https://news.example.org/", None)

# gunicorn's configuration is this module: by default it would listen in the home folder, and read
# the gunicorn.conf.py of the current one. Names that a release does not know are ignored there.
control_socket_disable = True


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve a few pages, as any WSGI application would."""
    found = environ["PATH_INFO"] in PAGES[:-1]
    body = b"Boxes of all sizes.\n" if found else b"No such page.\n"
    start_response(
        "200 OK" if found else "404 Not Found",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))],
    )
    return [body]


def demo(out: TextIO) -> None:
    """Run the demonstration; :exc:`TrackerError` says what was missing or went wrong."""
    token = secrets.token_urlsafe(24)
    with (
        tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as folder,
        _gunicorn(Path(folder) / "visits.db", token, out) as port,
    ):
        out.write(f"Sending {REQUESTS} requests of {VISITORS} visitors ...\n")
        _visit(port)
        for report in (*REPORTS, "visits?limit=3"):
            path = f"/api/tracking/{report}"
            out.write(f"\n$ curl -H 'Authorization: Bearer ...' 'http://127.0.0.1:{port}{path}'\n")
            out.write(json.dumps(_report(port, path, token), indent=2) + "\n")
        hits = _report(port, "/api/tracking/summary", token)["total_hits"]
    out.write(f"\n{REQUESTS} requests sent to {WORKERS} workers, {hits} visits recorded.\n")
    if hits != REQUESTS:
        raise TrackerError("every request should have been one visit")


@contextmanager
def _gunicorn(database: Path, token: str, out: TextIO) -> Iterator[int]:
    """Serve the shop until the block ends; yields the port."""
    application = (
        f"wsgi_tracker:wrap('{__name__}:shop', {str(database)!r}, trusted_proxies=['127.0.0.1'])"
    )
    command = [sys.executable, "-m", "gunicorn", application, "--bind", "127.0.0.1:0"]
    command += ["--workers", str(WORKERS), "--config", f"python:{__name__}"]
    out.write(f'$ gunicorn "{application}" --workers {WORKERS}\n')
    server = subprocess.Popen(
        command,
        env={**os.environ, "WSGI_TRACKER_TOKEN": token},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _port(server)
    finally:
        server.terminate()
        try:
            server.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()


def _port(server: subprocess.Popen[str]) -> int:
    """Read gunicorn's log until it says where it listens."""
    log = []
    for line in server.stderr or ():
        log.append(line)
        if match := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", line):
            return int(match[1])
    if "No module named gunicorn" in "".join(log):
        raise TrackerError("the demonstration needs gunicorn: pip install 'wsgi-tracker[demo]'")
    raise TrackerError("gunicorn did not start:\n" + "".join(log))


def _visit(port: int) -> None:
    chance = random.Random(7)
    for _ in range(REQUESTS):
        visitor = chance.randrange(VISITORS)
        headers = {
            "User-Agent": AGENTS[visitor % len(AGENTS)],
            "X-Forwarded-For": f"203.0.113.{visitor + 1}",
        }
        if referer := chance.choice(REFERERS):
            headers["Referer"] = referer
        _get(port, chance.choice(PAGES), headers)


def _report(port: int, path: str, token: str) -> dict[str, object]:
    answer = _get(port, path, {"Authorization": f"Bearer {token}"})
    report: dict[str, object] = json.loads(answer)
    return report


def _get(port: int, path: str, headers: dict[str, str]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()
