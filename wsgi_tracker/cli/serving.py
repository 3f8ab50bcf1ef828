"""Commands that run until they are stopped: reports alone, and ingest alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..auth import TOKEN_VARIABLE, Auth, is_local, split_tokens
from ..backend import MAX_ENDPOINTS, Backend
from ..errors import TrackerError, logger
from ..storage import QUERY_TIMEOUT_SECONDS
from ..storage.address import locate
from .options import database_option
from .signals import sigterm_interrupts
from .source import PREFIX, basis_of, catch_up, existing, open_backend, open_for_questions

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

THREADS = 8
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def reports_alone(backend: Backend, token: str | None) -> WSGIApplication:
    """Return an application that has nothing but the reports.

    Without a token, for this machine under a name of its own: a page that a browser here shows may
    have had its own name resolved to this machine (DNS rebinding).
    """
    auth = Auth(require_token=False) if token is None else Auth(split_tokens(token))
    api = backend.api(auth, basis_of(backend))

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if token is None and not is_local(environ):
            status, told = "403 Forbidden", "without a token, only localhost is answered"
        elif path == PREFIX or path.startswith(f"{PREFIX}/"):
            return api(environ, start_response, path[len(PREFIX) + 1 :])
        else:
            status, told = "404 Not Found", f"reports are at {PREFIX}/"
        body = f"{told}\n".encode()
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return application


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="On which port; 0 is any that is free.",
)
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    help="What who asks must give; without one, only this machine may ask, and needs none.",
)
@database_option
def serve(host: str, port: int, token: str | None, database: str) -> None:
    """Serve the reports of a database alone, on a port of their own.

    For a database whose application has its reports elsewhere, or is gone. Ends with SIGTERM or
    Ctrl-C.

    \b
      wsgi-tracker serve
      wsgi-tracker serve --host 0.0.0.0 --port 8081 --token "$(cat token)"
    """
    try:
        from waitress import create_server
    except ImportError as error:
        raise TrackerError("serving needs waitress: pip install 'wsgi-tracker[cli]'") from error
    if token is None and host not in LOOPBACK:
        raise click.UsageError(f"others can reach {host}: give --token, or ${TOKEN_VARIABLE}")
    # As an application answers: who has closed the page ends no question that takes long.
    options = {"query_timeout_seconds": QUERY_TIMEOUT_SECONDS}
    with _logging(), open_for_questions(existing(database), **options) as backend, _stopping():
        try:
            server = create_server(
                reports_alone(backend, token),
                listen=f"{_address(host)}:{port}",
                threads=THREADS,
                ident=None,
                clear_untrusted_proxy_headers=False,  # they tell that it was not this machine
            )
        except (OSError, ValueError) as error:
            if isinstance(error, TrackerError):
                raise
            raise TrackerError(f"{host}, port {port}: cannot listen there: {error}") from error
        try:
            _tell_addresses(server)
            server.run()
        finally:
            server.close()


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tell_addresses(server: Any) -> None:
    """Say where it listens; a name, as localhost, may stand for several addresses."""
    listening = getattr(server, "effective_listen", None)
    for host, port in listening or [(server.effective_host, server.effective_port)]:
        base = f"http://{_address(host)}:{port}{PREFIX}"
        click.echo(f"Reports are at {base}/, a page of them at {base}/dashboard")


@click.command()
@click.option("--once", is_flag=True, help="Ingest what waits, and end.")
@click.option(
    "--max-endpoints",
    default=MAX_ENDPOINTS,
    show_default=True,
    type=click.IntRange(1),
    help="More distinct endpoints than this count under (other).",
)
@database_option
def ingest(once: bool, max_endpoints: int, database: str) -> None:
    """Move visits from the spool to the database, beside applications that leave it to this.

    They are those with Tracker(app, ingest=False). Retention is looked after, too. Ends with
    SIGTERM or Ctrl-C; what is not ingested then waits in the spool.
    """
    place = locate(database)
    options = {"ingest": True, "max_endpoints": max_endpoints}
    with _logging(), open_backend(place, **options) as backend, _stopping():
        if once:
            catch_up(backend, ONCE_SECONDS)
            if backend.storage.begin_purge(time.time_ns() // 1000, None):
                for _ in backend.storage.purge():
                    pass
            click.echo("all visits are in the database")
            return
        backend.ingest_thread.start()
        click.echo(f"visits go to {place}")
        threading.Event().wait()


ONCE_SECONDS = 600.0


@contextmanager
def _logging() -> Iterator[None]:
    """Log, on standard error, what nobody may be there to see."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # else it tells of each that waits
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _stopping() -> Iterator[None]:
    """End what runs at SIGTERM as at Ctrl-C, and say nothing of it."""
    with sigterm_interrupts():
        try:
            yield
        except KeyboardInterrupt:
            click.echo("stopped")
