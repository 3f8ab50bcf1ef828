"""A gunicorn whose application is visited, and asked for its reports."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from servers import PATIENCE_SECONDS, TOKEN, Server, gunicorn

APP = """
import os
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from wsgi_tracker import Tracker

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        with open("slow.fifo") as fifo:
            fifo.read()
    found = environ["PATH_INFO"] != "/missing"
    start_response("200 OK" if found else "404 Not Found", [("Content-Type", "text/plain")])
    return [b"hello"]

tracker = Tracker(app, "visits.db")
app = DispatcherMiddleware(tracker, {"/mounted": tracker})
"""


class Shop:
    """A gunicorn whose application is visited and asked; ``user`` is who has visited it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.folder, self.database = folder, folder / "visits.db"
        self._server = server
        self.url = f"http://127.0.0.1:{server.port}"
        for path in ("/", "/boxes", "/boxes", "/missing"):
            self.visit(path)
        self.user = self.ask("visits")[1]["visits"][0]["user_hash"]

    def visit(self, path: str, agent: str = "curl/8") -> None:
        self._get(path, {"User-Agent": agent})

    def ask(self, path: str) -> tuple[int, Any]:
        status, body = self._get(
            f"/api/tracking/{path}", {"Authorization": f"Bearer {TOKEN}", "User-Agent": "x"}
        )
        return status, json.loads(body)

    def export(self, query: str) -> bytes:
        return self._get(f"/api/tracking/export?{query}", {"Authorization": f"Bearer {TOKEN}"})[1]

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._server.port, timeout=PATIENCE_SECONDS
        )
        with closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()

    def source(self, kind: str) -> list[str]:
        if kind == "database":
            return ["--database", str(self.database)]
        return ["--url", self.url, "--token", TOKEN]


@contextmanager
def serving(folder: Path) -> Iterator[Shop]:
    (folder / "shop.py").write_text(APP)
    os.mkfifo(folder / "slow.fifo")
    with gunicorn(
        "shop:app", folder=folder, python_path=[folder], options=["--threads", "4"]
    ) as server:
        yield Shop(server, folder)
