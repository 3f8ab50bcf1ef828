"""The command that exports visits: as the API does, and to Parquet."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO

import click

from ..errors import ConfigurationError, TrackerError
from ..query import EXPORT
from ..visit import FIELDS, TEXT_FIELDS
from .options import parameter_options, source_options
from .source import Pairs, lines_of, open_source

PARQUET = "parquet"
STDOUT = "-"
ROWS_PER_GROUP = 50_000
PARAMETERS = [parameter for parameter in EXPORT if parameter.name != "format"]


@click.command()
@click.option(
    "--format",
    type=click.Choice(["ndjson", "csv", PARQUET]),
    default="ndjson",
    show_default=True,
    help="Parquet needs pyarrow, and -o.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="A file that is not there yet; - is standard output.",
)
@source_options
@parameter_options(PARAMETERS)
def export(
    format: str, output: str | None, database: str, url: str | None, token: str | None, pairs: Pairs
) -> None:
    """Write visits, oldest first: to standard output, or to a file.

    NDJSON is what `import` reads. A file appears under its name once it is complete.

    \b
      wsgi-tracker export --start 2025-08-01 --end 2025-09-01 > august.ndjson
      wsgi-tracker export --format parquet -o visits.parquet --class human
    """
    output = None if output == STDOUT else output
    if format == PARQUET and output is None:
        raise click.UsageError("Parquet is written to a file: give -o")
    asked = [*pairs, ("format", "csv" if format == "csv" else "ndjson")]
    with open_source(database, url, token) as source, _written(output) as file:
        blocks = source.export(asked)
        if format == PARQUET:
            _write_parquet(blocks, file)
        else:
            file.writelines(blocks)


@contextmanager
def _written(output: str | None) -> Iterator[IO[bytes]]:
    """Write to standard output, or to a file beside ``output`` that gets its name at the end."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    exists = f"{output} exists already: nothing is overwritten"
    if os.path.lexists(output):
        raise ConfigurationError(exists)
    part = f"{output}.part"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{part} cannot be written: {error.strerror}") from error
    try:
        with open(fd, "wb") as file:
            yield file
        _give_name(part, output)
    except FileExistsError as error:
        raise ConfigurationError(exists) from error
    except OSError as error:  # a disk that is full
        raise TrackerError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def _give_name(part: str, output: str) -> None:
    """Give a file that is complete its name, unless another has it."""
    try:
        os.link(part, output)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as those of memory cards
        os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.replace(part, output)


def _write_parquet(blocks: Iterator[bytes], file: IO[bytes]) -> None:
    """Write visits with pyarrow, some at a time; moments are timestamps in UTC."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError("Parquet is written with: pip install pyarrow") from error
    types = {name: pyarrow.string() if name in TEXT_FIELDS else pyarrow.int64() for name in FIELDS}
    types["timestamp"] = pyarrow.timestamp("us", tz="UTC")
    schema = pyarrow.schema([*types.items(), ("cursor", pyarrow.string())])
    lines = lines_of(blocks)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := [json.loads(line) for line in islice(lines, ROWS_PER_GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
