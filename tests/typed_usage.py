"""Read by the type checker alone: what a typed application writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_tracker import Tracker, TrackerError, Visit, open_storage, wrap

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"boxes"]


def endpoint(environ: WSGIEnvironment) -> str | None:
    return None


tracked: WSGIApplication = Tracker(shop, Path("visits.db"), token=("a", "b"), endpoint=endpoint)
wrapped: Tracker = wrap("shop:app", "visits.db", trusted_proxies=["10.0.0.0/8"])

try:
    storage = open_storage("visits.db")
    with storage.snapshot() as snapshot:
        visits: list[Visit] = snapshot.visits(limit=50).visits
        hits: int = snapshot.summary().total_hits
except TrackerError as error:
    print(error)
