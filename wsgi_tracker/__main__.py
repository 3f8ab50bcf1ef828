"""``python -m wsgi_tracker demo``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .demo import demo
from .errors import TrackerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="wsgi_tracker", description="Track visits of a WSGI app.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="serve an example with gunicorn, visit it, print the reports")
    parser.parse_args(arguments)
    try:
        demo(sys.stdout)
        sys.stdout.flush()
    except TrackerError as error:
        print(f"wsgi_tracker: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # "| head": what was asked for has been read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
