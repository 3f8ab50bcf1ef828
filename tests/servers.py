"""Real servers for tests: started on a free port, ended by process group, their log kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
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
ATTEMPTS = 5


class Server:
    """A server of a test's own; use it in ``with``.

    ``listening`` is what its log says when it listens, with the port as a group. A server that
    cannot find a free port itself is given one in place of ``{port}`` in its command. ``loaded`` is
    what the log says of a worker, ``{pid}``, that has loaded its application.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        listening: str,
        folder: Path,
        loaded: str = "",
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
        self._command = list(command)
        self._listening_line = re.compile(listening, re.DOTALL)
        self._folder = folder
        self._loaded_line = loaded
        self._logged = threading.Condition()
        self.log = ""

    def __enter__(self) -> Server:
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
        for _ in range(ATTEMPTS):
            if self._try_to_start():
                return
            if "Address already in use" not in self.log:
                break
        raise RuntimeError(f"{self._command} did not start:\n{self.log}")

    def _try_to_start(self) -> bool:
        self._listening = threading.Event()
        self.port = 0
        port = str(free_port())
        self.process = subprocess.Popen(
            [part.replace("{port}", port) for part in self._command],
            cwd=self._folder,
            env=self._environ,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        if self._listening.wait(PATIENCE_SECONDS) and self.port:
            return True
        self.kill()
        return False

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        begin = len(self.log)
        for line in self.process.stderr:
            with self._logged:
                self.log += line
                self._logged.notify_all()
            if not self.port and (match := self._listening_line.search(self.log, begin)):
                self.port = int(match[1])
                self._listening.set()
        self._listening.set()

    def workers(self) -> list[int]:
        """Return the process ids of the workers that live."""
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [child for child in map(int, children) if _lives(child)]

    def _wait_for_workers(self) -> None:
        """Let workers load: uWSGI's do not hear it if they are told to end meanwhile."""
        with self._logged:
            if not self._logged.wait_for(self._are_loaded, PATIENCE_SECONDS):
                raise TimeoutError(f"a worker does not load:\n{self.log}")

    def _are_loaded(self) -> bool:
        return all(self._loaded_line.format(pid=pid) in self.log for pid in self.workers())

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """End it as an operator would; return its exit status."""
        if self.process.poll() is None:
            self._wait_for_workers()
            self.process.send_signal(signum)
        try:
            return self.process.wait(PATIENCE_SECONDS)
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


def gunicorn(
    application: str,
    *,
    folder: Path,
    options: Sequence[str] = (),
    python_path: Sequence[Path] = (),
    environ: dict[str, str] | None = None,
) -> Server:
    """Return a gunicorn that serves ``application``."""
    command = [sys.executable, "-m", "gunicorn", application, "--bind", "127.0.0.1:0"]
    return Server(
        [*command, *no_control_socket(), *options],
        listening=r"Listening at: http://127\.0\.0\.1:(\d+)",
        folder=folder,
        python_path=python_path,
        environ=environ,
    )


def _lives(pid: int) -> bool:
    """Say whether a process runs; a master may take a second to notice that a worker does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


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
