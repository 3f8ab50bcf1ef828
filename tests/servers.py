"""Real servers for tests: started on a free port, ended by process group, their log kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

TOKEN = "a-token-for-tests"
PATIENCE_SECONDS = 60


class Gunicorn:
    """A gunicorn of a test's own; use it in ``with``."""

    def __init__(
        self,
        application: str,
        *,
        folder: Path,
        options: Sequence[str] = (),
        python_path: Sequence[Path] = (),
        environ: dict[str, str] | None = None,
    ) -> None:
        path = [str(entry) for entry in python_path]
        self._environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]).strip(":"),
            "WSGI_TRACKER_TOKEN": TOKEN,
            **(environ or {}),
        }
        self._command = [sys.executable, "-m", "gunicorn", application, *no_control_socket()]
        self._command += options
        self._folder = folder
        self.log = ""

    def __enter__(self) -> Gunicorn:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._listening = threading.Event()
        self.process = subprocess.Popen(
            [*self._command, "--bind", "127.0.0.1:0"],
            cwd=self._folder,
            env=self._environ,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        if not self._listening.wait(PATIENCE_SECONDS) or not self.port:
            self.kill()
            raise RuntimeError(f"gunicorn did not start:\n{self.log}")

    def _read_log(self) -> None:
        self.port = 0
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            match = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", line)
            if match:
                self.port = int(match[1])
                self._listening.set()
        self._listening.set()

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        pid = self.process.pid
        try:
            return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def stop(self) -> None:
        """End it as an operator would."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill every process of it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        if self.process.stderr is not None:
            self.process.stderr.close()


def no_control_socket() -> list[str]:
    """Return the option that keeps a gunicorn from the socket that all of one user would share."""
    major, minor = map(int, version("gunicorn").split(".")[:2])
    return ["--no-control-socket"] if (major, minor) >= (25, 1) else []


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    """Send one request on a connection of its own; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def report(port: int, name: str) -> Any:
    """Ask for a report with the token; it must be answered and complete."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(
            "GET", f"/api/tracking/{name}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        assert response.getheader("Wsgi-Tracker-Queued") is None
        return json.loads(body)
    finally:
        connection.close()
