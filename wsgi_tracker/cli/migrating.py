"""The command that moves a database's visits into another."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import TrackerError
from ..hostlock import HostLock
from ..ingest import spool_errors
from ..migrating import Comparison, compare, migrate
from ..migrating import Progress as Migrated
from ..storage import open_storage
from ..storage.address import Address, locate
from . import tables
from .options import json_option
from .signals import sigterm_interrupts
from .source import catch_up, existing, open_backend

CATCH_UP_SECONDS = 60.0


@click.command("migrate")
@click.argument("source")
@click.argument("target")
@json_option
def migrate_database(source: str, target: str, as_json: bool) -> None:
    """Take the visits of SOURCE, a file, into TARGET, a database of ClickHouse.

    Applications may go on recording into either. It goes on where it ended: run it, let the
    applications use TARGET, and run it again for what came meanwhile. At the end, the hits and
    unique users of each day are compared; exit code 1 if one has less.

    \b
      wsgi-tracker migrate visits.db 'clickhouse://shop:secret@db.example:8123/visits'
    """
    new = locate(target)
    if isinstance(locate(source), Address) or not isinstance(new, Address):
        raise click.UsageError("SOURCE is a path, and TARGET a clickhouse://...")
    with open_backend(existing(source)) as backend, sigterm_interrupts():
        catch_up(backend, CATCH_UP_SECONDS)
        # A ledger of its own, as applications of this host may deliver meanwhile.
        spool = backend.spool.folder / f"migration-{zlib.crc32(str(new).encode()):08x}"
        with spool_errors():
            spool.mkdir(mode=0o700, exist_ok=True)
        with _alone(spool), closing(open_storage(replace(new, spool=spool))) as storage:
            visits = _show(migrate(backend.storage, storage))
            found = compare(backend.storage, storage)
    _tell(visits, found, as_json)
    if found.less:
        raise TrackerError(f"some days hold less in {new}, the first of them {found.less[0]}")


@contextmanager
def _alone(spool: Path) -> Iterator[None]:
    """Keep others from moving the same."""
    with spool_errors(), HostLock.of(spool).held() as ours:
        if not ours:
            raise TrackerError("another command takes these visits there just now")
        yield


def _show(steps: Iterator[Migrated]) -> int:
    """Take all steps; return how many visits that were."""
    console, began, visits = tables.console(stderr=True), time.monotonic(), 0
    with Progress(
        BarColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=1.0, figures="")
        for step in steps:
            visits = step.visits
            rate = visits / max(time.monotonic() - began, 0.001)
            figures = f"{visits:,} visits, {rate:,.0f} a second"
            bar.update(task, completed=step.share, figures=figures)
    return visits


def _tell(visits: int, found: Comparison, as_json: bool) -> None:
    facts = {
        "visits": visits,
        "days_equal": found.equal,
        "days_with_more": len(found.more),
        "days_with_less": len(found.less),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{visits:,} visits migrated; {found.equal:,} days hold the same in both")
    if found.more:
        click.echo(f"{len(found.more):,} days hold more, as applications record there")
