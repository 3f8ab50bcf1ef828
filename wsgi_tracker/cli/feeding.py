"""The command that imports logs: which lines become visits, and what is told of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any, TextIO, TypeAlias

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..addresses import TrustedProxies
from ..agreement import agree
from ..backend import MAX_ENDPOINTS, Backend
from ..endpoints import endpoints_by
from ..errors import ConfigurationError, TrackerError
from ..exclusions import Exclusions
from ..identity import PERMANENT, Identity
from ..importing import Imported, Importer, resume
from ..logfile import STDIN, LogFile, follow_log, open_log
from ..logs import FORMATS, LogFormat, detect, log_format
from ..logvisits import LogVisits, Packer, StoredVisits, day_keys
from ..period import DAY
from ..storage.address import locate
from ..visit import Fragments
from ..visitors import ADDRESSES, Visitors
from . import tables
from .options import Command, checked_by, database_option, json_option
from .signals import sigterm_interrupts
from .source import open_backend

REJECTS_SHOWN = 10
NDJSON = "ndjson"
Choose: TypeAlias = Callable[[str, list[bytes]], Packer]
SECRET_VARIABLE = "WSGI_TRACKER_SECRET"  # noqa: S105 - its name


# By which rules lines become visits, as Tracker's options say it.
_RULES = (
    click.option("--host", metavar="NAME", help="Of a log that tells no host."),
    click.option("--user", is_flag=True, help="Visitors are told apart by the log's user."),
    click.option(
        "--endpoint",
        type=click.Choice(["route", "path"]),
        default="route",
        show_default=True,
        help="route counts what was not found under (unmatched), path under its path.",
    ),
    click.option("--collapse-ids", is_flag=True, help="Count /boxes/7 under /boxes/<int>."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="RULE",
        callback=checked_by(Exclusions),
        help='Leave out "/static/*", HEAD, or 10.0.0.0/8; may be given several times.',
    ),
    click.option(
        "--trusted-proxy",
        multiple=True,
        metavar="NETWORK",
        callback=checked_by(TrustedProxies),
        help="Whose X-Forwarded-For is believed; may be given several times.",
    ),
    click.option(
        "--ip-addresses",
        type=click.Choice(list(ADDRESSES)),
        default="full",
        show_default=True,
        help="What is stored of an address.",
    ),
    click.option(
        "--max-endpoints",
        default=MAX_ENDPOINTS,
        show_default=True,
        type=click.IntRange(1),
        help="More distinct endpoints than this count under (other).",
    ),
    click.option(
        "--secret",
        envvar=SECRET_VARIABLE,
        show_envvar=True,
        help="The secret= of the applications, if they have one.",
    ),
)


def rule_options(command: Command) -> Command:
    """Let a command say by which rules lines become visits."""
    for option in reversed(_RULES):
        command = option(command)
    return command


def _known_format(named: str) -> LogFormat | None:
    """Return a format of access logs; ``None`` for that of an export."""
    return None if named == NDJSON else log_format(named)


@click.command("import")
@click.argument("logs", nargs=-1, required=True, metavar="LOG...")
@click.option(
    "--format",
    "named",
    metavar="FORMAT",
    callback=checked_by(_known_format),
    help=f"One of {', '.join(FORMATS)}, {NDJSON}, or a LogFormat of Apache, a log_format of nginx, "
    f"or an access_log_format of gunicorn.  [default: found out]",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, and is rotated.")
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write here which lines were rejected, and why.",
)
@rule_options
@database_option
@json_option
def import_logs(
    logs: Sequence[str],
    named: str | None,
    follow: bool,
    rejects: str | None,
    max_endpoints: int,
    database: str,
    as_json: bool,
    **rules: Any,
) -> None:
    """Import access logs of nginx, Apache, Caddy or gunicorn, or what `export` wrote.

    LOG is plain, or compressed with gzip, bzip2 or zstd; - is standard input. What was imported of a
    log before is passed over, whatever the file is called now; only pipes and standard input are not
    known again. Lines that are no visits are told and left out. The database is made if there is
    none.

    \b
      wsgi-tracker import /var/log/nginx/access.log*
      wsgi-tracker import --follow /var/log/apache2/access.log
      wsgi-tracker import --format '%h %t "%r" %>s %D' app.log
    """
    if follow and (len(logs) > 1 or STDIN in logs):
        raise click.UsageError("--follow takes one log, which is a file")
    if not any(name == STDIN or os.path.exists(name) for name in logs):
        open_log(logs[0])  # it says why it cannot; a wrong name makes no database
    known = None if named is None else _known_format(named)
    place = locate(database)
    Identity(PERMANENT, rules["secret"]).check_for(place)
    with (
        open_backend(place, max_endpoints=max_endpoints) as backend,
        Telling(rejects) as telling,
        sigterm_interrupts(),
    ):
        make = _maker(backend, **rules)
        packer = StoredVisits() if named == NDJSON else make(known) if known else None
        choose: Choose = partial(_choose, packer, make)
        if follow:
            choose = _once(choose)  # what a log is rotated to goes on as it did
        importer = Importer(backend, _kept_from(backend), telling.reject, telling.progress)
        is_done = follow
        try:
            while follow:
                _import_one(importer, backend, follow_log(logs[0]), choose, telling)
            for name in logs:
                try:
                    _import_one(importer, backend, open_log(name), choose, telling)
                except ConfigurationError as error:  # of this log; others may be in order
                    telling.fail(error)
            importer.finish()
            is_done = True
        except KeyboardInterrupt:
            telling.say("stopped" if follow else "stopped: the next import does the rest")
        except TrackerError as error:
            telling.fail(error)
    telling.sum_up(as_json)
    sys.exit(0 if is_done and telling.is_well else 1)


def _import_one(
    importer: Importer,
    backend: Backend,
    log: LogFile,
    choose: Choose,
    telling: Telling,
) -> None:
    """Import one log from where it was left."""
    with closing(log):
        mark = resume(log, backend.storage.positions)
        importer.run(log, mark, partial(choose, log.name), telling.begin(log))
        if log.has_open_line:
            telling.say(f"{log.name}: the last line has no end yet, and waits for the next import")


def _choose(
    known: Packer | None,
    make: Callable[[LogFormat], Packer],
    name: str,
    lines: Sequence[bytes],
) -> Packer:
    """Return what makes visits of a log's lines: what was named, else what fits the first ones."""
    if known is not None:
        return known
    if 2 * sum(line.startswith(b'{"timestamp":') for line in lines) >= len(lines):
        return StoredVisits()
    format = detect([line.decode("latin-1") for line in lines])
    if format is None:
        raise ConfigurationError(
            f"{name} has the format of none of {', '.join(FORMATS)}, {NDJSON}: give the one that "
            f"the server writes as --format"
        )
    return make(format)


def _once(choose: Choose) -> Choose:
    """Return what chooses for the first log, and the same for all others."""
    chosen: list[Packer] = []

    def choose_once(name: str, lines: list[bytes]) -> Packer:
        if not chosen:
            chosen.append(choose(name, lines))
        return chosen[0]

    return choose_once


def _maker(
    backend: Backend,
    *,
    host: str | None,
    user: bool,
    endpoint: str,
    collapse_ids: bool,
    exclude: Sequence[str],
    trusted_proxy: Sequence[str],
    ip_addresses: str,
    secret: str | None,
) -> Callable[[LogFormat], Packer]:
    """Return what makes visits by the rules of the options, and of the database."""
    storage = backend.storage
    identity = Identity(storage.declare({"identity": PERMANENT})["identity"], secret)
    agree(storage, identity.settings)
    key = backend.key_finder(identity)
    if identity.is_daily and secret is None:
        key = day_keys(key, lambda: time.time_ns() // 1000 // DAY)
    visitors = Visitors(
        key,
        TrustedProxies(trusted_proxy),
        ip_addresses=ip_addresses,
    )
    fragments = Fragments(
        visitors, Exclusions(exclude), endpoints_by(endpoint, collapse_ids=collapse_ids)
    )
    return partial(
        LogVisits, fragments=fragments, host=host, names_users=user, daily=identity.is_daily
    )


def _kept_from(backend: Backend) -> int:
    """Return the time before which nothing is kept."""
    days = backend.storage.facts([]).retention_days
    with backend.storage.snapshot() as snapshot:
        floor = snapshot.floor()
    return max(floor, time.time_ns() // 1000 - days * DAY if days else 0)


class Telling:
    """Tell how an import goes, on standard error, and what became of it."""

    def __init__(self, rejects: str | None) -> None:
        self._logs: list[Imported] = []
        self._began = 0.0
        self._told = 0
        self._has_failed = False
        self._file = None if rejects is None else _open_rejects(rejects)
        console = tables.console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, figures="")

    def __enter__(self) -> Telling:
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()
        if self._file is not None:
            self._file.close()

    @property
    def _total(self) -> Imported:
        total = Imported()
        for imported in self._logs:
            total.add(imported)
        return total

    @property
    def is_well(self) -> bool:
        """Whether no log failed, and any line was understood, if there were some."""
        total = self._total
        return not self._has_failed and (total.rejected == 0 or total.rejected < total.lines)

    def begin(self, log: LogFile) -> Imported:
        """Tell of a log that is about to be imported; return what counts its lines."""
        self._began = time.monotonic()
        imported = Imported(skipped=log.lines)
        self._logs.append(imported)
        if log.lines:
            self.say(f"{log.name}: {log.lines:,} lines were imported before")
        return imported

    def say(self, text: str) -> None:
        """Show a line, whatever it holds."""
        self._bar.console.out(tables.printable(text), highlight=False)

    def fail(self, error: TrackerError) -> None:
        """Tell why a log could not be imported, or not to its end."""
        self._has_failed = True
        self.say(f"Error: {error}")

    def reject(self, log: LogFile, number: int, reason: str) -> None:
        """Tell of a line that is no visit; of many, only the first ones unless to a file."""
        text = f"{log.name}, line {number}: {reason}"
        self._told += 1
        if self._file is not None:
            print(tables.printable(text), file=self._file)
        elif self._told <= REJECTS_SHOWN:
            self.say(text)
        elif self._told == REJECTS_SHOWN + 1:
            self.say("more are only counted; --rejects FILE writes them all")

    def progress(self, log: LogFile, imported: Imported) -> None:
        """Show how far a log was read, and how fast."""
        rate = imported.lines / max(time.monotonic() - self._began, 0.001)
        share = log.share
        self._bar.update(
            self._task,
            description=tables.printable(log.name),
            completed=share,
            total=None if share is None else 1.0,
            figures=f"{imported.lines:,} lines, {rate:,.0f} a second",
        )

    def sum_up(self, as_json: bool) -> None:
        """Tell what became of all lines; where none could be read, why was told."""
        total = asdict(self._total)
        if self._has_failed and not any(total.values()):
            return
        if as_json:
            click.echo(json.dumps(total, indent=2))
            return
        parts = {
            "rejected": "rejected",
            "ignored": "excluded by a rule",
            "old": "too old to be kept",
            "skipped": "imported before",
        }
        told = [f"{total['visits']:,} visits imported"]
        told += [f"{total[part]:,} {text}" for part, text in parts.items() if total[part]]
        click.echo(", ".join(told))


def _open_rejects(name: str) -> TextIO:
    """Open a file for what strangers sent, which only its owner can read."""
    try:
        return open(name, "a", encoding="utf-8", opener=partial(os.open, mode=0o600))
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be written: {error.strerror}") from error
