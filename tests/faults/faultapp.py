"""The application that is killed: buffered and streamed answers that repeat their request's id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from wsgi_tracker import Tracker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


END = b">"


def blocks_of(number: str) -> list[bytes]:
    """Return the body that answers this id, and no other."""
    return [b"<", b"x" * 500, number.encode(), END]


def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``/<kind>/<id>``: t (buffered), c (streamed with a length) or s (without one).

    Or never: b (blocks).
    """
    _, kind, number = environ["PATH_INFO"].split("/")
    if kind == "b":
        os.read(os.pipe()[0], 1)  # the other end stays open; gevent does not replace os.read
    blocks = blocks_of(number)
    headers = [("Content-Type", "text/plain"), ("X-Id", number)]
    if kind != "s":
        headers.append(("Content-Length", str(sum(map(len, blocks)))))
    start_response("200 OK", headers)
    return [b"".join(blocks)] if kind == "t" else stream(blocks)


def stream(blocks: list[bytes]) -> Iterator[bytes]:
    """Yield blocks one by one."""
    yield from blocks


def tracked(wrapped: WSGIApplication = answer) -> WSGIApplication:
    """Track ``wrapped``, and say in every answer, a report too, which process it is from."""
    # Not so small that a free machine fills it before the next pass of ingest: that would drop visits.
    spool_bytes = int(os.environ.get("FAULTS_SPOOL_BYTES", 16 << 20))
    tracker = Tracker(
        wrapped,
        os.environ["FAULTS_DATABASE"],
        max_spool_bytes=spool_bytes,
        secret=os.environ.get("FAULTS_SECRET"),
    )

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def named(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            headers.append(("X-Worker", str(os.getpid())))
            return start_response(status, headers, *exc_info)

        return tracker(environ, named)

    return app
