"""Commands that run until they are stopped: reports alone, and ingest alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ..auth import TOKEN_VARIABLE, Auth
from ..backend import MAX_ENDPOINTS, Backend
from ..errors import StorageError, TrackerError
from ..storage import database_path
from .options import database_option
from .signals import sigterm_interrupts
from .source import PREFIX, basis_of, existing, open_backend

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

THREADS = 8


def reports_alone(backend: Backend, auth: Auth) -> WSGIApplication:
    """Return an application that has nothing but the reports."""
    api = backend.api(auth, basis_of(backend))

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == PREFIX or path.startswith(f"{PREFIX}/"):
            return api(environ, start_response, path[len(PREFIX) + 1 :])
        body = f"Reports are at {PREFIX}/\n".encode()
        start_response(
            "404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        )
        return [body]

    return application


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    help="What who asks must give; without one, only this machine may ask, and needs none.",
)
@database_option
def serve(host: str, port: int, token: str | None, database: str) -> None:
    """Serve the reports of a database alone, on a port of their own.

    For a database whose application has its reports elsewhere, or is gone.
    """
    try:
        from waitress import create_server
    except ImportError as error:
        raise TrackerError("serving needs waitress: pip install 'wsgi-tracker[cli]'") from error
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        raise click.UsageError(f"others can reach {host}: give --token, or ${TOKEN_VARIABLE}")
    auth = Auth(token) if token else Auth(require_token=False)
    with open_backend(existing(database)) as backend, _stopping():
        server = create_server(
            reports_alone(backend, auth), host=host, port=port, threads=THREADS, ident=None
        )
        click.echo(f"Reports are at http://{_address(host)}:{server.effective_port}{PREFIX}/")
        try:
            server.run()
        finally:
            server.close()


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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
    path = database_path(database)
    with open_backend(path, ingest=True, max_endpoints=max_endpoints) as backend, _stopping():
        if once:
            queue = backend.ingester.catch_up(CATCH_UP_SECONDS)
            if queue.size_bytes:
                raise StorageError(f"{queue.size_bytes} bytes wait in the spool still")
            click.echo("all visits are in the database")
            return
        backend.ingest_thread.start()
        click.echo(f"visits go to {path}")
        threading.Event().wait()


CATCH_UP_SECONDS = 600.0


@contextmanager
def _stopping() -> Iterator[None]:
    """End what runs at SIGTERM as at Ctrl-C, and say nothing of it."""
    with sigterm_interrupts():
        try:
            yield
        except KeyboardInterrupt:
            click.echo("stopped")
