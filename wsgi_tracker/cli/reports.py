"""Commands that ask: the API's reports, with its parameters, as tables or as its JSON."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import click

from ..errors import StorageError
from ..parameters import Parameter
from ..period import SECOND
from ..query import BREAKDOWN, STATS, SUMMARY, TRENDS, USER, VISITS
from . import tables
from .options import Command, json_option, parameter_options, source_options
from .source import Pairs, Reply, Source, UnavailableError, lines_of, open_source
from .tables import printable

FOLLOW_SECONDS = 1.0
# The visits of the last minute are shown; some began long before, and arrive later.
LOOKED_BACK = (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1))


def _show(reply: Reply, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        click.echo(json.dumps(reply.body, indent=2))
    else:
        show(reply.body)
    if reply.cursor is not None:
        click.echo(f"There is more: --cursor {shlex.quote(printable(reply.cursor))}", err=True)


def _report(
    name: str, parameters: Sequence[Parameter], show: Callable[[Any], None]
) -> Callable[[Command], click.Command]:
    """Make a command of one report; its help is the function's docstring."""

    def decorate(described: Command) -> click.Command:
        def run(
            database: str, url: str | None, token: str | None, as_json: bool, pairs: Pairs
        ) -> None:
            with open_source(database, url, token) as source:
                _show(source.ask(name, pairs), as_json, show)

        run.__doc__ = described.__doc__
        decorated = source_options(json_option(parameter_options(parameters)(run)))
        return click.command(name)(decorated)

    return decorate


@_report("stats", STATS, tables.stats)
def stats() -> None:
    """Show hits and unique users of each endpoint and method.

    \b
      wsgi-tracker stats --period week
      wsgi-tracker stats --class human --include status,latency --sort -p99
      wsgi-tracker stats --start 2025-08-01 --end 2025-09-01 --tz Europe/Berlin
    """


@_report("summary", SUMMARY, tables.summary)
def summary() -> None:
    """Show the totals of a time, and compare them with the time before.

    \b
      wsgi-tracker summary --period day
      wsgi-tracker summary --period month --compare previous --include sessions
    """


@_report("trends", TRENDS, tables.trends)
def trends() -> None:
    """Show how hits and users change over time, with a bar for each bucket.

    \b
      wsgi-tracker trends --granularity hour --period 24h --fill
      wsgi-tracker trends --status 5xx --period 30d
    """


@_report("breakdown", BREAKDOWN, tables.breakdown)
def breakdown() -> None:
    """Show the values of one property that most visits have.

    \b
      wsgi-tracker breakdown --by referer_host --class human
      wsgi-tracker breakdown --by path --status 404 --period month
    """


@click.command("user")
@click.argument("user_hash")
@source_options
@json_option
@parameter_options(USER)
def user(
    user_hash: str, database: str, url: str | None, token: str | None, as_json: bool, pairs: Pairs
) -> None:
    """Show what one user did: first and last visit, endpoints, and the path through the site.

    USER_HASH stands in each visit. A part of it is not enough.
    """
    with open_source(database, url, token) as source:
        _show(source.ask(f"users/{user_hash}", pairs), as_json, tables.user)


@click.command("visits")
@click.option("-f", "--follow", is_flag=True, help="Go on with visits as they come, as lines.")
@source_options
@json_option
@parameter_options(VISITS)
def visits(
    database: str, url: str | None, token: str | None, as_json: bool, follow: bool, pairs: Pairs
) -> None:
    """Show the newest visits, or follow them as they come.

    --follow begins with those of the last minute. A server that restarts, and a database that is
    locked, are told of once and asked again.

    \b
      wsgi-tracker visits --limit 20 --status 5xx --include path,status,error
      wsgi-tracker visits --follow --class -monitor
      wsgi-tracker visits --follow --json | jq .path
    """
    with open_source(database, url, token) as source:
        if not follow:
            _show(source.ask("visits", pairs), as_json, tables.visits)
            return
        with suppress(KeyboardInterrupt):  # there is no other end
            for line in followed(source, pairs):
                click.echo(line if as_json else tables.line(json.loads(line)))


def followed(
    source: Source, pairs: Pairs, pause: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Yield the visits of the last minute, and then, for ever, those that come, as JSON.

    In the order in which they reach the database, so that none which took long is missed. Who does
    not answer any more is told of once, and asked again.
    """
    known = dict(pairs)
    if extra := known.keys() & {"period", "start", "end", "limit", "cursor", "include"}:
        raise click.UsageError(f"--follow goes on from now: leave out --{min(extra)}")
    known["order"] = "arrival"
    # By the clock of who answers: another host's may be minutes ahead.
    now = datetime.fromisoformat(source.ask("live", []).body["now"].replace("Z", "+00:00"))
    for span in LOOKED_BACK:  # until there is one visit, behind which others arrive
        known["start"] = _iso(now - span)
        for line in _arrived(source, known):
            if json.loads(line)["timestamp"] >= (now - LOOKED_BACK[0]).timestamp() * SECOND:
                yield line
        if "cursor" in known:
            break
    known["start"] = _iso(now - LOOKED_BACK[-1])
    yield from _coming(source, known, pause)


def _coming(source: Source, known: dict[str, str], pause: Callable[[float], None]) -> Iterator[str]:
    is_told = False
    while True:
        pause(FOLLOW_SECONDS)
        try:
            yield from _arrived(source, known)
            is_told = False
        except (UnavailableError, StorageError) as error:
            if not is_told:
                click.echo(f"{error}; asking again", err=True)
            is_told = True


def _arrived(source: Source, known: dict[str, str]) -> Iterator[str]:
    """Yield what has arrived, and note where to go on, also where it breaks off."""
    last = ""
    try:
        for last in lines_of(source.export(list(known.items()))):
            yield last
    finally:
        if last:
            known["cursor"] = json.loads(last)["cursor"]


def _iso(moment: datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat()}Z"
