"""Commands that look after a database: what it holds, whether all is well, what is to go."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .. import __version__
from ..agents import data_version
from ..auth import TOKEN_VARIABLE
from ..errors import TrackerError
from ..forget import require_user_hash
from ..identity import IDENTITIES
from ..period import DAY, iso_timestamp, load_zone
from . import tables
from .options import checked_by, database_option, json_option
from .source import catch_up, existing, identity_of, open_backend, open_for_questions

CATCH_UP_SECONDS = 30.0
TOKEN_BYTES = 32
UNITS = {"h": DAY // 24, "d": DAY, "w": 7 * DAY, "y": 365 * DAY}


def _age(value: str) -> int:
    """Return an age in microseconds: 90d, 12h, 4w, 1y."""
    if found := re.fullmatch(r"([1-9][0-9]{0,5})([hdwy])", value, re.ASCII):
        age = int(found[1]) * UNITS[found[2]]
        if age < time.time_ns() // 1000:
            return age
    raise click.BadParameter(
        f"an age is hours, days, weeks or years, as 12h, 90d, 8w, 1y, since 1970; given {value!r}"
    )


def _done(as_json: bool, text: str, **facts: object) -> None:
    """Say what was done."""
    click.echo(json.dumps(facts, indent=2) if as_json else text)


def _steps(steps: Iterator[None], doing: str) -> None:
    """Take steps that others may write between; on a terminal, say that it is at work."""
    console = tables.console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(doing), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        progress.add_task(doing, total=None)
        for _ in steps:
            pass


@click.command()
@click.option(
    "--older-than", type=_age, required=True, metavar="AGE", help="As 12h, 90d, 8w or 1y."
)
@database_option
@json_option
def purge(older_than: int, database: str, as_json: bool) -> None:
    """Delete visits that are older than AGE, and all that only they needed.

    A little at a time: applications go on. Reports leave out at once what is to go. For purges
    that need no care, give Tracker(app, retention_days=...).

    \b
      wsgi-tracker purge --older-than 90d
    """
    before = time.time_ns() // 1000 - older_than
    with open_backend(existing(database)) as backend:
        catch_up(backend, CATCH_UP_SECONDS)  # what waits may be as old
        _steps(backend.storage.purge(before), "deleting")
    moment = iso_timestamp(before)
    _done(as_json, f"visits before {moment} are deleted", before=moment)


@click.command()
@click.argument("user_hash", callback=checked_by(require_user_hash))
@database_option
@json_option
def forget(user_hash: str, database: str, as_json: bool) -> None:
    """Delete one visitor's visits, and all that only they had.

    From the database, its log and the spool. USER_HASH stands in each visit; it has 32 digits.
    """
    with open_backend(existing(database)) as backend:
        visits = backend.forget(user_hash)
    _done(as_json, f"{visits:,} visits are deleted", user_hash=user_hash, visits=visits)


@click.command()
@database_option
@json_option
def rebuild(database: str, as_json: bool) -> None:
    """Count all visits anew, while visits arrive.

    Counters are what makes reports fast. It does no harm, and is only needed when `check` says so.
    """
    with open_backend(existing(database)) as backend:
        _steps(backend.storage.rebuild(), "counting")
        with backend.storage.snapshot(long=True) as snapshot:
            hits = snapshot.summary().total_hits
    _done(as_json, f"all {hits:,} visits are counted anew", visits=hits)


@click.command()
@database_option
@json_option
def reclassify(database: str, as_json: bool) -> None:
    """Decide the class of every user agent anew, by the data that is installed here.

    After an upgrade of crawler-user-agents or ua-parser, while visits arrive.
    """
    with open_backend(existing(database)) as backend:
        _steps(backend.storage.reclassify(), "classifying")
    data = data_version()
    _done(as_json, f"all user agents are classified by {data}", agents=data)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@database_option
@json_option
def backup(file: Path, database: str, as_json: bool) -> None:
    """Copy the database to FILE, while visits arrive.

    What was answered before is in it. FILE must not exist; only you can read it.

    \b
      wsgi-tracker backup "visits-$(date +%F).db"
    """
    with open_backend(existing(database)) as backend:
        catch_up(backend, CATCH_UP_SECONDS)
        backend.storage.backup(file)
    size = file.stat().st_size
    _done(as_json, f"{file} has {size:,} bytes", file=str(file), bytes=size)


@click.command()
@database_option
@click.option("--identity", type=click.Choice(IDENTITIES), help="For all that start from now on.")
@click.option("--forget-secret", is_flag=True, help="Take whatever secret= the next one is given.")
@click.option(
    "--timezone",
    metavar="NAME",
    callback=checked_by(load_zone),
    help="As Europe/Berlin; all visits are counted anew.",
)
@json_option
def configure(
    database: str, identity: str | None, forget_secret: bool, timezone: str | None, as_json: bool
) -> None:
    """Change what applications of a database agree on.

    Give every application the same then, and restart it: another does not start.
    """
    settings: dict[str, str | None] = {}
    if identity:
        settings["identity"] = identity
    if timezone is not None:
        settings["timezone"] = timezone
    if forget_secret:
        settings["secret_mark"] = None
    if not settings:
        raise click.UsageError("nothing to change: give --identity, --timezone or --forget-secret")
    with open_backend(existing(database)) as backend:
        backend.storage.configure(settings)
    if settings.keys() - {"timezone"}:
        told = "changed; give every application the same, and restart it: another does not start"
    else:
        told = "changed, for all that give no other"
    _done(as_json, told, changed=list(settings))


@click.command()
def token() -> None:
    """Make a token for the API, and show where to put it.

    The token is on standard output, the rest is not: TOKEN=$(wsgi-tracker token)
    """
    made = secrets.token_urlsafe(TOKEN_BYTES)
    click.echo(made)
    click.echo(
        f"\nGive it to the application's processes, and to whom may ask:\n"
        f"  export {TOKEN_VARIABLE}={made}\n"
        f'  curl -H "Authorization: Bearer ${TOKEN_VARIABLE}" '
        f"https://shop.example.com/api/tracking/summary\n"
        f"It is stored nowhere; several may be valid at once, with commas between.",
        err=True,
    )


@click.command()
@database_option
@json_option
def info(database: str, as_json: bool) -> None:
    """Show what a database is: visits, time, sizes, settings."""
    path = existing(database)
    with open_for_questions(path) as backend:
        health = backend.health_check.look(time.time_ns() // 1000).as_json()
        with backend.storage.snapshot(long=True) as snapshot:
            summary, zone = snapshot.summary().as_json(), snapshot.timezone()
        identity = identity_of(backend)
    found = {"database": str(path), **summary, "timezone": str(zone), "identity": identity}
    for name in (
        "retention_days",
        "schema",
        "database_bytes",
        "spool_bytes",
        "queued",
        "last_ingest",
    ):
        found[name] = health[name]
    found |= {"agents": data_version(), "wsgi_tracker": __version__}
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        tables.facts(found)


@click.command()
@database_option
@json_option
def check(database: str, as_json: bool) -> None:
    """Say whether all is well with a database; exit code 1 if not.

    Compares the counters with the visits, reads the whole file, and looks at the spool and at who
    can read both. It takes as long as reading all visits several times.
    """
    problems: dict[str, list[str]] = {}
    with open_for_questions(existing(database)) as backend:
        health = backend.health_check.look(time.time_ns() // 1000)
        problems["spool and database"] = list(health.problems)
        problems["integrity"] = _asked(backend.storage.check_integrity)
        problems["counters"] = _asked(backend.storage.check)
    is_well = not any(problems.values())
    if as_json:
        answer = {"ok": is_well, "problems": problems, "warnings": list(health.warnings)}
        click.echo(json.dumps(answer, indent=2))
    else:
        for name, found in problems.items():
            click.echo(f"{name}: {tables.printable('; '.join(found)) or 'ok'}")
        for warning in health.warnings:
            click.echo(f"warning: {tables.printable(warning)}")
    sys.exit(0 if is_well else 1)


def _asked(check: Callable[[], str | None]) -> list[str]:
    try:
        difference = check()
    except TrackerError as error:
        return [str(error)]
    return [difference] if difference else []
