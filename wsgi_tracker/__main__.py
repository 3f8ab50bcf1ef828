"""``python -m wsgi_tracker``: the demonstration, and what a database can be told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing

from .agents import data_version
from .demo import demo
from .errors import ConfigurationError, TrackerError
from .identity import IDENTITIES
from .period import load_zone
from .storage import Storage, database_path, open_storage

BUSY_SECONDS = 30.0  # an application that counts visits anew writes every second


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
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
    shown = commands.add_parser(
        "demo", help="serve an example with gunicorn, visit it, print the reports"
    )
    shown.set_defaults(run=lambda options: demo(sys.stdout))
    told = commands.add_parser("configure", help="change what applications of a database agree on")
    told.add_argument("database")
    told.add_argument("--identity", choices=IDENTITIES, help="for all that start from now on")
    told.add_argument(
        "--forget-secret", action="store_true", help="take whatever secret= the next one is given"
    )
    told.add_argument("--timezone", help="as Europe/Berlin; all visits are counted anew")
    told.set_defaults(run=configure)
    decided = commands.add_parser(
        "reclassify", help="decide every user agent anew, by the data that is installed here"
    )
    decided.add_argument("database")
    decided.set_defaults(run=reclassify)
    return parser


def configure(options: argparse.Namespace) -> None:
    """Change settings that a constructor may not."""
    settings: dict[str, str | None] = {}
    if options.identity:
        settings["identity"] = options.identity
    if options.timezone is not None:
        load_zone(options.timezone)
        settings["timezone"] = options.timezone
    if options.forget_secret:
        settings["secret_mark"] = None
    with closing(_open(options.database)) as storage:
        storage.configure(settings)
    if settings.keys() - {"timezone"}:
        print("changed; give every application the same, and restart it: another does not start")
    else:
        print("changed, for all that give no other" if settings else "no change")


def reclassify(options: argparse.Namespace) -> None:
    """Bring classes of user agents up to date, while visits arrive."""
    with closing(_open(options.database)) as storage:
        for _ in storage.reclassify():
            pass
    print(f"all user agents are classified by {data_version()}")


def _open(database: str) -> Storage:
    """Open a database that is there: a wrong name must not make one."""
    path = database_path(database)
    if not path.exists():
        raise ConfigurationError(f"there is no database {path}")
    return open_storage(path, busy_seconds=BUSY_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
