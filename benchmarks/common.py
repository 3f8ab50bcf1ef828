"""What the benchmarks share: the requests, the plain application, conditions and tables."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import platform
import random
import sqlite3
import statistics
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsgi_tracker import __version__

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BODY = b'{"id": 7, "name": "box", "sizes": ["small", "large"]}'
HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/26.0 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/26.0 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 "
    "Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "curl/8.14.1",
)
REFERERS = (
    "https://www.google.com/",
    "https://news.example.org/boxes?page=2",
    "https://shop.example.com/",
)
PATHS = 32


def plain_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer at once: what remains is the cost of what is wrapped around."""
    start_response("200 OK", HEADERS)
    return [BODY]


@functools.cache
def environs() -> list[WSGIEnvironment]:
    """Return a browser's requests as gunicorn's sync worker describes them; copy one to use it."""
    return [
        {
            "wsgi.errors": io.StringIO(),
            "wsgi.version": (1, 0),
            "wsgi.multithread": False,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": io.BytesIO,
            "wsgi.input": io.BytesIO(),
            "wsgi.input_terminated": True,
            "wsgi.url_scheme": "http",
            "SERVER_SOFTWARE": "gunicorn/23.0.0",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "203.0.113.1",
            "REMOTE_PORT": str(50000 + number),
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": f"/boxes/{number % PATHS}",
            "QUERY_STRING": f"page={number % 5}",
            "RAW_URI": f"/boxes/{number % PATHS}?page={number % 5}",
            "HTTP_HOST": "shop.example.com",
            "HTTP_CONNECTION": "keep-alive",
            "HTTP_USER_AGENT": AGENTS[0],
            "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.5",
            "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
            "HTTP_COOKIE": "session=1b6d2f0c9a7e4835; consent=yes",
            "HTTP_REFERER": REFERERS[number % len(REFERERS)],
            "HTTP_SEC_FETCH_DEST": "document",
            "HTTP_SEC_FETCH_MODE": "navigate",
            "HTTP_SEC_FETCH_SITE": "same-origin",
        }
        for number in range(PATHS * 8)
    ]


def clients(count: int) -> list[tuple[str, str]]:
    """Return distinct (address, agent) pairs in random order, the same in every run.

    An address has as many agents as there are only where there are more pairs than 4,096.
    """
    agents = AGENTS if count > 4096 else AGENTS[:1]
    numbers = range(-(-count // len(agents)))
    addresses = [f"198.18.{number >> 8}.{number & 255}" for number in numbers]
    pairs = list(itertools.product(addresses, agents))[:count]
    if len(agents) == 1:
        pairs = [(address, AGENTS[n % len(AGENTS)]) for n, (address, _) in enumerate(pairs)]
    random.Random(1).shuffle(pairs)
    return pairs


def calibrate(calls: int = 3000) -> float:
    """Return the plain application's median in µs: how fast the machine is just now."""

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        return None

    requests, clock, times = environs(), time.perf_counter_ns, []
    for number in range(calls):
        environ = requests[number % len(requests)].copy()
        started = clock()
        for _ in plain_app(environ, start_response):
            pass
        times.append(clock() - started)
    return statistics.median(times) / 1000


def pin(processors: Iterable[int]) -> None:
    """Keep this thread, and what it starts, on some processors, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processors)


def conditions() -> str:
    """Say what the figures below were measured with."""
    return (
        f"wsgi_tracker {__version__}, {platform.python_implementation()} "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, {_processor()}, "
        f"{os.cpu_count()} processors, {platform.system()} {platform.release()}, "
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}…{high:.{digits}f})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json_lines(path: Path | None, runs: Iterable[dict[str, Any]]) -> None:
    """Keep every single run, if asked to."""
    if path is not None:
        path.write_text("".join(json.dumps(run) + "\n" for run in runs))
