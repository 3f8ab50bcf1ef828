"""Where the command line has its answers from: a database of this host, or another host's API.

Both give what the API gives, so that whoever shows it need not know which it was.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, parse_qs, quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import click

from ..auth import Auth, split_tokens
from ..backend import Backend
from ..errors import ConfigurationError, QueryError, StorageError, TrackerError
from ..export import TYPES
from ..identity import DAILY
from ..insights import USER_REPORT
from ..query import EXPORT, parse_query
from ..schemas import OF_BREAKDOWN, OF_LIVE, OF_STATS, OF_SUMMARY, OF_TRENDS, OF_USER, OF_VISITS
from ..storage.address import Address, locate
from .tables import printable

PREFIX = "/api/tracking"
TIMEOUT_SECONDS = 60.0
BLOCK_BYTES = 1 << 16
# Who waits at a terminal can end it, and nobody else waits for it.
QUERY_TIMEOUT_SECONDS = 3600.0
# A command that writes waits for who writes, as an application that counts visits anew does all the
# time; a question need not write, and is answered, or refused, soon.
BUSY_SECONDS = 30.0
QUESTION_BUSY_SECONDS = 3.0
SCHEMAS = {
    "stats": OF_STATS,
    "summary": OF_SUMMARY,
    "trends": OF_TRENDS,
    "visits": OF_VISITS,
    "breakdown": OF_BREAKDOWN,
    "users": OF_USER,
    "live": OF_LIVE,
}

Pairs: TypeAlias = Sequence[tuple[str, str]]


class Reply(NamedTuple):
    """A report as JSON, and the cursor of the next page, if there is one."""

    body: dict[str, Any]
    cursor: str | None = None


class UnavailableError(TrackerError):
    """Who is asked does not answer now; it may later."""


class Source(Protocol):
    """What can be asked. ``pairs`` are names and values of parameters."""

    def ask(self, report: str, pairs: Pairs) -> Reply:
        """Return a report; ``users/<user_hash>`` is one, too."""

    def export(self, pairs: Pairs) -> Iterator[bytes]:
        """Yield an export in blocks."""


class _Queued:
    """Say, once, that answers lack what could not be ingested."""

    def __init__(self) -> None:
        self._is_told = False

    def tell(self, size_bytes: int) -> None:
        if size_bytes and not self._is_told:
            self._is_told = True
            click.echo(f"{size_bytes:,} bytes of visits wait in the spool: not in this", err=True)


class DatabaseSource:
    """Ask a database of this host, and what waits in its spool."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._queued = _Queued()
        self._reports = backend.reports(basis_of(backend))

    def ask(self, report: str, pairs: Pairs) -> Reply:
        """See :meth:`Source.ask`."""
        name, of_one, of = report.partition("/")
        asked = USER_REPORT if of_one else self._reports[name]
        question = parse_query(urlencode(pairs), asked.parameters)
        answer, queue = self._backend.answers.ask(asked, question, of)
        self._queued.tell(queue.size_bytes)
        return Reply(answer.body, answer.cursor)

    def export(self, pairs: Pairs) -> Iterator[bytes]:
        """See :meth:`Source.export`."""
        export, queue = self._backend.answers.export(parse_query(urlencode(pairs), EXPORT))
        self._queued.tell(queue.size_bytes)
        return export.blocks()


class _NoRedirects(HTTPRedirectHandler):
    """Follow none: the token is for the host that was named."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Let it be an error."""


class UrlSource:
    """Ask the API of an application, where ``url`` says, as ``https://shop.example.com``."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = _parts(url)
        path = quote(parts.path.rstrip("/"), safe="/%")
        self._base = f"{parts.scheme}://{parts.netloc}{path or PREFIX}"
        self._headers = _authorization(token)
        self._open = build_opener(_NoRedirects).open
        self._queued = _Queued()

    def ask(self, report: str, pairs: Pairs) -> Reply:
        """See :meth:`Source.ask`."""
        with self._get(report, pairs) as response:
            try:
                body = json.load(response)
            except ValueError as error:
                raise TrackerError(f"{self._base} answers no JSON: {_ADVICE}") from error
            required = SCHEMAS[report.partition("/")[0]]["required"]
            if not isinstance(body, dict) or not body.keys() >= set(required):
                raise TrackerError(f"{self._base} answers no report: {_ADVICE}")
            return Reply(body, _cursor(response.headers.get("Link", "")))

    def export(self, pairs: Pairs) -> Iterator[bytes]:
        """See :meth:`Source.export`."""
        with self._get("export", pairs) as response:
            if response.headers["Content-Type"] not in TYPES.values():
                raise TrackerError(f"{self._base} answers no export: {_ADVICE}")
            while block := response.read1(BLOCK_BYTES):
                yield block

    @contextmanager
    def _get(self, report: str, pairs: Pairs) -> Iterator[HTTPResponse]:
        url = f"{self._base}/{quote(report)}" + (f"?{urlencode(pairs)}" if pairs else "")
        request = Request(url, headers=self._headers)  # noqa: S310 - http or https, as checked
        try:
            with self._open(request, timeout=TIMEOUT_SECONDS) as response:
                self._queued.tell(int(response.headers.get("Wsgi-Tracker-Queued", 0)))
                yield response
        except HTTPError as error:
            with error:
                raise _explained(error, self._base) from error
        except (URLError, HTTPException, OSError, UnicodeError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnavailableError(f"{self._base} does not answer: {reason}") from error


_ADVICE = "is it the API's address?"


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without an address, a port that is no number
        is_right = False
    if not is_right or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise ConfigurationError(
            f"url is an application's, as https://shop.example.com, or where its reports are, "
            f"as https://shop.example.com{PREFIX}; given {url!r}"
        )
    return parts


def _authorization(token: str | None) -> dict[str, str]:
    """Return the header for a token, or the first of several, as the variable may hold them."""
    if token is None:
        return {}
    tokens = split_tokens(token)
    Auth(tokens)  # says what is wrong with one
    return {"Authorization": f"Bearer {tokens[0]}"}


def _explained(error: HTTPError, base: str) -> TrackerError:
    """Return what the API says is wrong; or, where it was not the API, what was answered."""
    if location := error.headers.get("Location"):
        return TrackerError(f"{base} is elsewhere: {printable(location)}")
    kind = TrackerError if error.code < 500 else UnavailableError
    try:
        told = json.load(error)["error"]
        message = printable(told["message"])
        if told["code"] == "bad_request":
            return QueryError(message, told["parameter"])
    except (ValueError, KeyError, TypeError):
        reason = printable(error.reason)
        return kind(f"{base} answers {error.code} {reason}: {_ADVICE}")
    return kind(f"{base}: {message}")


def _cursor(link: str) -> str | None:
    """Return the cursor that the header ``Link`` of a page names."""
    query = link.partition("<?")[2].partition(">")[0]
    return parse_qs(query).get("cursor", [None])[0]


def lines_of(blocks: Iterator[bytes]) -> Iterator[str]:
    """Yield the whole lines of an export."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode()


def basis_of(backend: Backend) -> str | None:
    """Return what unique users are, if they are no people."""
    return DAILY if identity_of(backend) == DAILY else None


def identity_of(backend: Backend) -> str | None:
    """Return what applications have agreed on, if one has given it: a question must not."""
    return backend.storage.declared(["identity"]).get("identity")


def existing(database: str) -> Path | Address:
    """Return where a database is that is there: a wrong name must not make one."""
    path = locate(database)
    if isinstance(path, Address):
        return _existing_at(path)
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no database {path}") from error
    except PermissionError as error:
        raise _not_ours(path) from error
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise ConfigurationError(f"{path} is empty: no application has used it yet")
    if not os.access(path, os.R_OK | os.W_OK):
        raise _not_ours(path)
    return path


def _existing_at(address: Address) -> Address:
    """Return a database of a server that is there; a host that records nothing needs no spool."""
    from ..storage.clickhouse import is_there

    if not is_there(address):
        raise ConfigurationError(f"there is no database {address}")
    if address.spool.exists():
        return address
    folder = TemporaryDirectory(prefix="wsgi-tracker-")
    return replace(address, spool=Path(click.get_current_context().with_resource(folder)))


def _not_ours(path: Path) -> ConfigurationError:
    """Return the error for a database of others; to read one in WAL mode is to write beside it."""
    return ConfigurationError(
        f"{path} cannot be read and written by this user, as also reports need it: be the user "
        f"whose processes write it (sudo -u www-data wsgi-tracker ...), or ask a copy that is yours"
    )


@contextmanager
def open_backend(place: Path | Address, **options: Any) -> Iterator[Backend]:
    """Open a database for a command, whatever its applications have agreed on."""
    usual = {
        "ingest": False,
        "busy_seconds": BUSY_SECONDS,
        "query_timeout_seconds": QUERY_TIMEOUT_SECONDS,
    }
    backend = Backend(place, settings={}, **{**usual, **options})
    try:
        yield backend
    finally:
        backend.close()


def open_for_questions(place: Path | Address, **options: Any) -> AbstractContextManager[Backend]:
    """Open a database for a command that changes nothing, and does not wait long for who does."""
    return open_backend(place, busy_seconds=QUESTION_BUSY_SECONDS, **options)


def catch_up(backend: Backend, seconds: float) -> None:
    """Have all that waits ingested, or raise :exc:`StorageError`."""
    queue = backend.ingester.catch_up(seconds)
    if queue.size_bytes:
        raise StorageError(f"{queue.size_bytes:,} bytes of visits wait in the spool still")


@contextmanager
def open_source(database: str, url: str | None, token: str | None) -> Iterator[Source]:
    """Open the API at ``url``; without one, the database."""
    if url is not None:
        yield UrlSource(url, token)
        return
    with open_for_questions(existing(database)) as backend:
        yield DatabaseSource(backend)
