"""The deployment page's two web hosts, its nginx before them, and a cluster behind them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import clickhouses
import engines
from needs import require
from servers import PATIENCE_SECONDS, TOKEN, Server, free_port, get, gunicorn, report
from waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "clickhouse.md"
BLOCK = re.compile("```(python|nginx)\n(.*?)```", re.DOTALL)
APPLICATION = """
import os
from wsgi_tracker import Tracker

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

"""
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ }}
http {{
    {temporary}
    access_log off;
    {page}
}}
"""
KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
REQUESTS = 60
WEB_HOSTS = 2


def written(kind: str, beginning: str) -> str:
    """Return the block of the page that begins so."""
    blocks = BLOCK.findall(PAGE.read_text())
    return next(text for of, text in blocks if of == kind and text.startswith(beginning))


@contextmanager
def nginx(folder: Path, ports: list[int]) -> Iterator[int]:
    """Run nginx as the page has it, before web hosts on these ports."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    require(program, "nginx (nginx-light)")
    own = free_port()
    page = written("nginx", "upstream").replace("listen 443 ssl", f"listen 127.0.0.1:{own}")
    for number, port in enumerate(ports, 1):
        page = page.replace(f"10.0.0.1{number}:8000", f"127.0.0.1:{port}")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in KINDS)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, temporary=temporary, page=page))
    command = [str(program), "-p", str(folder), "-e", "error.log", "-c", "nginx.conf"]
    process = subprocess.Popen(command, cwd=folder)
    try:
        wait_until(lambda: _listens(own) or process.poll() is not None)
        yield own
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS).close()
        return True
    return False


def web_host(folder: Path, url: str) -> Server:
    """Return a host that runs the page's application."""
    folder.mkdir()
    page = written("python", "app = Tracker(\n").replace("10.0.0.0/24", "127.0.0.1/32")
    (folder / "shop.py").write_text(APPLICATION + page)
    return gunicorn(
        "shop:app",
        folder=folder,
        workers=2,
        environ={"WSGI_TRACKER_DATABASE": url, "WSGI_TRACKER_SECRET": engines.SECRET},
    )


def total(port: int) -> int:
    """Return the hits that a host knows of by now."""
    status, body = get(port, "/api/tracking/summary", Authorization=f"Bearer {TOKEN}")
    return int(json.loads(body)["total_hits"]) if status == 200 else 0


def test_two_web_hosts_tell_of_the_visits_of_both(tmp_path: Path) -> None:
    clickhouses.require_cluster()
    with ExitStack() as stack:
        nodes = stack.enter_context(clickhouses.cluster(tmp_path / "nodes"))
        # Each web host names a server of its own.
        hosts = [
            stack.enter_context(
                web_host(
                    tmp_path / f"web{n}",
                    engines.url(nodes[n].port, tmp_path / f"web{n}/spool", clickhouses.CLUSTER),
                )
            )
            for n in range(WEB_HOSTS)
        ]
        port = stack.enter_context(nginx(tmp_path, [host.port for host in hosts]))
        for number in range(REQUESTS):
            answer = get(port, f"/box/{number % 3}", **{"User-Agent": f"agent {number % 5}"})
            assert answer == (200, b"hello")
        for host in hosts:
            wait_until(lambda h=host: total(h.port) == REQUESTS)  # type: ignore[misc]
            assert report(host.port, "summary")["total_unique_users"] == 5
            assert report(host.port, "health")["problems"] == []
