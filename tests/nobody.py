"""Scripts that become a user to whom no file belongs, where they were started by root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOBODY = 65534


def become_nobody() -> None:
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def run(script: str, argument: Path) -> list[str]:
    """Return the lines that a script prints; it may import what stands here.

    What it needs it imports before it becomes nobody, who may not reach even Python itself.
    """
    made = subprocess.run(
        [sys.executable, "-c", script, str(argument)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return made.stdout.splitlines()
