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

from waiting import wait_until

TOKEN = "a-token-for-tests"
PATIENCE_SECONDS = 60
ATTEMPTS = 5


class Server:
    """A server of a test's own; use it in ``with``.

    ``listening`` is what its log says when it listens, with the port as a group. A server that
    cannot find a free port itself is given one in place of ``{port}`` in its command.
    ``workers`` is how many it keeps, and ``own_signal`` one that they catch, once they have handlers
    of their own, and their master does not. Those that start do not hear that they are to end: told
    meanwhile, their master waits for them.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        listening: str,
        folder: Path,
        workers: int = 0,
        own_signal: signal.Signals = signal.SIGTERM,
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
        self._workers = workers
        self._own_signal = own_signal
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
            self.log += line
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

    def _hears(self) -> bool:
        """Say whether it will hear that it is to end, itself and all of its workers; or has ended."""
        if not self._workers or self.process.poll() is not None or not Path("/proc/self").exists():
            return True
        signals = (signal.SIGTERM, self._own_signal)
        ready = [pid for pid in self.workers() if _catches(pid, *signals)]
        return len(ready) >= self._workers and _catches(self.process.pid, signal.SIGTERM)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """End it as an operator would; return its exit status."""
        try:
            wait_until(self._hears)
            self.process.send_signal(signum)
            return self.process.wait(PATIENCE_SECONDS)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise TimeoutError(f"{self._command} does not end:\n{self.log}") from error
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
    workers: int = 1,
    options: Sequence[str] = (),
    python_path: Sequence[Path] = (),
    environ: dict[str, str] | None = None,
) -> Server:
    """Return a gunicorn that serves ``application``."""
    command = [sys.executable, "-m", "gunicorn", application, "--bind", "127.0.0.1:0"]
    return Server(
        [*command, *no_control_socket(), "--workers", str(workers), *options],
        listening=r"Listening at: http://127\.0\.0\.1:(\d+)",
        folder=folder,
        workers=workers,
        own_signal=signal.SIGABRT,
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


def _catches(pid: int, *signals: signal.Signals) -> bool:
    """Say whether a process has handlers of these signals."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return all(caught >> signum - 1 & 1 for signum in signals)


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
