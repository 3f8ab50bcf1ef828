"""``python -m wsgi_tracker``: the demonstration, and what a database can be told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .demo import demo
from .errors import TrackerError
from .identity import IDENTITIES
from .storage import open_storage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            demo(sys.stdout)
        else:
            configure(options)
        sys.stdout.flush()
    except TrackerError as error:
        print(f"wsgi_tracker: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # "| head": what was asked for has been read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wsgi_tracker", description="Track visits of a WSGI app.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="serve an example with gunicorn, visit it, print the reports")
    told = commands.add_parser("configure", help="change what applications of a database agree on")
    told.add_argument("database")
    told.add_argument("--identity", choices=IDENTITIES, help="for all that start from now on")
    told.add_argument(
        "--forget-secret", action="store_true", help="take whatever secret= the next one is given"
    )
    return parser


def configure(options: argparse.Namespace) -> None:
    """Change settings that a constructor may not."""
    settings: dict[str, str | None] = {}
    if options.identity:
        settings["identity"] = options.identity
    if options.forget_secret:
        settings["secret_mark"] = None
    storage = open_storage(options.database)
    try:
        storage.configure(settings)
    finally:
        storage.close()
    print("changed; restart every process that has the database open" if settings else "no change")


if __name__ == "__main__":
    sys.exit(main())
