"""Commands of the command line, run in this process, or in one of their own."""

from __future__ import annotations

import os
import pty
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from click.testing import CliRunner, Result

from wsgi_tracker.cli import main

PATIENCE_SECONDS = 30
COMMAND = [sys.executable, "-m", "wsgi_tracker"]


def command(*arguments: str | Path, stdin: bytes | str | None = None) -> Result:
    """Run a command; an exception that it should have told is raised."""
    result = CliRunner().invoke(
        main, [str(argument) for argument in arguments], input=stdin, prog_name="wsgi-tracker"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(
    *arguments: str | Path, environ: dict[str, str] | None = None, python: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; ``python`` are arguments in place of its module."""
    program = [sys.executable, *python] if python else COMMAND
    return subprocess.run(
        [*program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=_environ(environ),
    )


class Running:
    """A command that runs in a process of its own until it is stopped; use it in ``with``."""

    def __init__(self, *arguments: str | Path, environ: dict[str, str] | None = None) -> None:
        self._arguments = list(map(str, arguments))
        self._extra_environ = environ

    def __enter__(self) -> Running:
        self._errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*COMMAND, *self._arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environ(self._extra_environ),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line(self) -> str:
        """Return the next line that it prints; it is waited for."""
        return self._lines.get(timeout=PATIENCE_SECONDS)

    @cached_property
    def port(self) -> int:
        """The port on which ``serve`` says it listens; that is waited for."""
        found = re.fullmatch(
            r"Reports are at (http://(?:127\.0\.0\.1|\[::1\]):(\d+)/api/tracking)/, "
            r"a page of them at \1/dashboard\n",
            self.line(),
        )
        assert found is not None
        return int(found[2])

    def rest(self) -> list[str]:
        """Return all that it printed until its end."""
        return list(iter(self.line, ""))

    def stop(self, signum: signal.Signals) -> int:
        """End it; return its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE_SECONDS)

    @property
    def errors(self) -> str:
        """What it said on standard error."""
        self._errors.seek(0)
        return self._errors.read()


def on_terminal(*arguments: str | Path, environ: dict[str, str] | None = None) -> str:
    """Return what a command shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=_environ({"TERM": "xterm-256color", "COLUMNS": "80", **(environ or {})}),
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 1 << 16):
            shown += block
    except OSError:  # on Linux, the end of a terminal nobody else has
        pass
    finally:
        os.close(ours)
        process.wait(PATIENCE_SECONDS)
    return shown.decode().replace("\r\n", "\n")


def _environ(extra: dict[str, str] | None) -> dict[str, str]:
    # What a user sees: in development mode, Python also tells of what waitress leaves to it.
    left_out = ("NO_COLOR", "PYTHONDEVMODE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PYTHONPATH": os.pathsep.join(sys.path)} | (extra or {})
