"""The command line: see it, feed it, look after it."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from ..errors import QueryError, TrackerError, logger
from .care import backup, check, configure, forget, info, purge, rebuild, reclassify, token
from .demo import demo
from .exporting import export
from .feeding import import_logs
from .migrating import migrate_database
from .reports import breakdown, stats, summary, trends, user, visits
from .serving import ingest, serve

SHORT_HELP = 100  # more than any has: a sentence that is cut teaches nothing
# Commands say what is wrong by themselves, and serve and ingest log; Python's own handler of last
# resort would say it twice.
_SILENT = logging.NullHandler()

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
SECTIONS: dict[str, Sequence[click.Command]] = {
    "See it": (demo, stats, summary, trends, visits, breakdown, user, serve),
    "Feed it": (import_logs, export, ingest, migrate_database),
    "Look after it": (
        info,
        check,
        backup,
        purge,
        forget,
        rebuild,
        reclassify,
        configure,
        token,
    ),
}


class _Sections(click.Group):
    """Commands by what they are for, and errors of this package without their traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [str(command.name) for commands in SECTIONS.values() for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(
                    [(str(each.name), each.get_short_help_str(SHORT_HELP)) for each in commands]
                )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except QueryError as error:
            raise click.UsageError(str(error)) from error
        except TrackerError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # who read has read enough
                raise
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_Sections,
    context_settings={**HELP, "max_content_width": 100},
)
@click.version_option(__version__, prog_name="wsgi-tracker")
def main() -> None:
    """Who visited what: reports of a WSGI application's visits, and care for its database.

    A database is visits.db of the current folder, $WSGI_TRACKER_DATABASE, or what --database says.
    Run commands as the user whose processes write it. Exit codes: 0 done, 1 failed, 2 not
    understood.

    \b
    Have the shell complete commands and options, in bash, or so in zsh and fish:
      eval "$(_WSGI_TRACKER_COMPLETE=bash_source wsgi-tracker)"
    """
    logger.addHandler(_SILENT)
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character is no fault
        sys.stdout.reconfigure(errors="replace")


for _commands in SECTIONS.values():
    for _command in _commands:
        # Also by itself: click remembers which option a command was first asked for help with.
        _command.context_settings.update(HELP)
        main.add_command(_command)
