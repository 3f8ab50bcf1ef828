"""Where the command line has its answers from: a database of this host, or another host's API.

Both give what the API gives, so that whoever shows it need not know which it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..backend import Backend
from ..errors import ConfigurationError, TrackerError
from ..identity import DAILY, PERMANENT
from ..insights import USER_REPORT
from ..query import EXPORT, parse_query
from ..storage import database_path

PREFIX = "/api/tracking"
TIMEOUT_SECONDS = 60.0
BLOCK_BYTES = 1 << 16
# Who waits at a terminal can end it, and nobody else waits for it.
QUERY_TIMEOUT_SECONDS = 3600.0
BUSY_SECONDS = 30.0  # an application that counts visits anew writes every second

Pairs: TypeAlias = Sequence[tuple[str, str]]


class Reply(NamedTuple):
    """A report as JSON, and the cursor of the next page, if there is one."""

    body: dict[str, Any]
    cursor: str | None = None


class Source(Protocol):
    """What can be asked. ``pairs`` are names and values of parameters."""

    def ask(self, report: str, pairs: Pairs) -> Reply:
        """Return a report; ``users/<user_hash>`` is one, too."""

    def export(self, pairs: Pairs) -> Iterator[bytes]:
        """Yield an export in blocks."""


class DatabaseSource:
    """Ask a database of this host, and what waits in its spool."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._reports = backend.reports(basis_of(backend))

    def ask(self, report: str, pairs: Pairs) -> Reply:
        """See :meth:`Source.ask`."""
        name, _, of = report.partition("/")
        asked = USER_REPORT if of else self._reports[name]
        question = parse_query(urlencode(pairs), asked.parameters)
        answer, _ = self._backend.answers.ask(asked, question, of)
        return Reply(answer.body, answer.cursor)

    def export(self, pairs: Pairs) -> Iterator[bytes]:
        """See :meth:`Source.export`."""
        export, _ = self._backend.answers.export(parse_query(urlencode(pairs), EXPORT))
        return export.blocks()


class _NoRedirects(HTTPRedirectHandler):
    """Follow none: the token is for the host that was named."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Let it be an error."""


class UrlSource:
    """Ask the API of an application, where ``url`` says, as ``https://shop.example.com``."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigurationError(
                f"url is an application's, as https://shop.example.com, or where its reports are, "
                f"as https://shop.example.com{PREFIX}; given {url!r}"
            )
        path = parts.path.rstrip("/")
        self._base = f"{parts.scheme}://{parts.netloc}{path or PREFIX}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._open = build_opener(_NoRedirects).open

    def ask(self, report: str, pairs: Pairs) -> Reply:
        """See :meth:`Source.ask`."""
        with self._get(report, pairs) as response:
            try:
                body = json.load(response)
            except ValueError as error:
                raise TrackerError(f"{self._base} answers no JSON: is it the API's?") from error
            return Reply(body, _cursor(response.headers.get("Link", "")))

    def export(self, pairs: Pairs) -> Iterator[bytes]:
        """See :meth:`Source.export`."""
        with self._get("export", pairs) as response:
            while block := response.read1(BLOCK_BYTES):
                yield block

    @contextmanager
    def _get(self, report: str, pairs: Pairs) -> Iterator[HTTPResponse]:
        url = f"{self._base}/{quote(report)}" + (f"?{urlencode(pairs)}" if pairs else "")
        request = Request(url, headers=self._headers)  # noqa: S310 - http or https, as checked
        try:
            with self._open(request, timeout=TIMEOUT_SECONDS) as response:
                yield response
        except HTTPError as error:
            with error:
                raise TrackerError(_explain(error, self._base)) from error
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise TrackerError(f"{self._base} does not answer: {reason}") from error


def _explain(error: HTTPError, base: str) -> str:
    """Return what the API says is wrong; or, where it was not the API, what was answered."""
    if location := error.headers.get("Location"):
        return f"{base} is elsewhere: {location}"
    try:
        return f"{base}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{base} answers {error.code} {error.reason}: is it the API's address?"


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
    identity = backend.storage.declare({"identity": PERMANENT})["identity"]
    return DAILY if identity == DAILY else None


def existing(database: str) -> Path:
    """Return the path of a database that is there: a wrong name must not make one."""
    path = database_path(database)
    if not path.exists():
        raise ConfigurationError(f"there is no database {path}")
    return path


@contextmanager
def open_backend(path: Path, **options: Any) -> Iterator[Backend]:
    """Open a database for a command, whatever its applications have agreed on."""
    options = {"ingest": False, "busy_seconds": BUSY_SECONDS, **options}
    backend = Backend(path, settings={}, query_timeout_seconds=QUERY_TIMEOUT_SECONDS, **options)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def open_source(database: str, url: str | None, token: str | None) -> Iterator[Source]:
    """Open the API at ``url``; without one, the database."""
    if url is not None:
        yield UrlSource(url, token)
        return
    with open_backend(existing(database)) as backend:
        yield DatabaseSource(backend)
