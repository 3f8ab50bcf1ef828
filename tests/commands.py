"""Commands of the command line, run in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from wsgi_tracker.cli import main


def command(*arguments: str | Path, stdin: bytes | str | None = None) -> Result:
    """Run a command; an exception that it should have told is raised."""
    result = CliRunner().invoke(
        main, [str(argument) for argument in arguments], input=stdin, prog_name="wsgi-tracker"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
