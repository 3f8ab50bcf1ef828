"""The first ten minutes, as the documentation tells them, are those of a user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
TOUR = ROOT / "docs" / "tour.md"


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command and what it prints."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            yield command, output


def shell(folder: Path) -> subprocess.Popen[str]:
    """Return a shell in a new folder that has the log, and ``wsgi-tracker`` to call."""
    shutil.copy(ROOT / "examples" / "access.log", folder)
    program = folder / "bin" / "wsgi-tracker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsgi_tracker "$@"\n')
    program.chmod(0o755)
    return subprocess.Popen(
        ["bash"],  # noqa: S607
        cwd=folder,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(commands: list[str], folder: Path) -> list[str]:
    """Return what each command prints."""
    end = "end of a step"
    script = "".join(f"{command}\nS=$?; echo '{end}'; (exit $S)\n" for command in commands)
    with shell(folder) as process:
        output, _ = process.communicate(script, timeout=120)
    return output.split(f"{end}\n")[:-1]


def pattern(output: str) -> str:
    """Return a regular expression in which ``...`` is anything."""
    lines = (line.rstrip() for line in output.strip().splitlines())
    return r"\s*\n".join(".*".join(map(re.escape, line.split("..."))) for line in lines)


def test_tour_is_what_a_user_sees(tmp_path: Path) -> None:
    told = [
        (command, output) for command, output in steps(TOUR.read_text()) if "pip" not in command
    ]

    seen = run([command for command, _ in told], tmp_path)

    assert len(seen) == len(told)
    for (command, expected), output in zip(told, seen, strict=True):
        assert re.fullmatch(pattern(expected), output.strip()), f"$ {command}\n{output}"


if __name__ == "__main__":  # writes what there is to see, for somebody to look at
    import tempfile

    text = TOUR.read_text()
    with tempfile.TemporaryDirectory() as name:
        commands = [command for command, _ in steps(text) if "pip" not in command]
        for command, printed in zip(commands, run(commands, Path(name)), strict=True):
            printed = "\n".join(line.rstrip() for line in printed.splitlines())
            old = re.search(rf"^\$ {re.escape(command)}\n((?!```|\$ ).*\n)*", text, re.MULTILINE)
            assert old is not None
            text = text.replace(old[0], f"$ {command}\n" + (f"{printed}\n" if printed else ""), 1)
    TOUR.write_text(text)
