"""A browser's page before a dashboard: what it shows, asks for, gets and complains about."""

from __future__ import annotations

import shutil
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import servers
from commands import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response
try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:  # tests that need it say so
    expect = sync_playwright = None  # type: ignore[assignment]
else:
    expect.set_options(timeout=20_000)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Nothing but what a test asks for goes out.
FLAGS = """--no-sandbox --disable-quic --disable-background-networking --disable-component-update
    --disable-sync""".split()
APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
DAYS, VISITORS_A_DAY = 20, 60
# A range in the past has the same figures whenever it is asked about.
TODAY = date.today()
RANGE = {
    "start": str(TODAY - timedelta(days=9)),
    "end": str(TODAY - timedelta(days=2)),
    "tz": "UTC",
}
VISITOR = {
    "locale": "en-GB",
    "timezone_id": "Europe/Berlin",
    "viewport": {"width": 1440, "height": 1000},
}


class Site:
    """What serves the dashboard of one database, and what it is asked for directly."""

    def __init__(self, server: servers.Server | Running, prefix: str = "/api/tracking") -> None:
        self.server = server
        self.prefix = prefix

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def url(self, **parameters: str) -> str:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self.origin}{self.prefix}/dashboard{query}"

    def ask(self, report: str, **parameters: Any) -> Any:
        return servers.report(self.server.port, f"{report}?{urlencode(parameters)}")


class Visitor:
    """A page, and all that it asked for, got, and complained about."""

    def __init__(self, browser: Browser, site: Site, **options: Any) -> None:
        context = browser.new_context(**{**VISITOR, **options})
        self.page = page = context.new_page()
        self.site = site
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self._answers: list[Response] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("response", lambda response: self._answers.append(response))
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, token: str | None = servers.TOKEN, **parameters: str) -> Page:
        """Open a view; wait until all of it is there, if there is a token to ask with."""
        self.page.goto(self.site.url(**parameters) + (f"#token={token}" if token else ""))
        if token:
            self.wait()
        return self.page

    def wait(self) -> None:
        """Wait until no panel is at work."""
        expect(self.page.locator('[aria-busy="true"]')).to_have_count(0)

    def answer(self, report: str, **parameters: str) -> Any:
        """Return what the page was answered last to a question with these parameters."""
        for response in reversed(self._answers):
            parts = urlsplit(response.url)
            asked = urlencode(parameters).split("&") if parameters else []
            if parts.path.endswith(f"/{report}") and set(asked) <= set(parts.query.split("&")):
                return response.json()
        raise AssertionError(f"nobody asked for {report} with {parameters}")

    def asked(self, report: str) -> list[str]:
        """Return the query strings of all questions for a report."""
        parts = [urlsplit(request.url) for request in self.requests]
        return [part.query for part in parts if part.path.endswith(f"/{report}")]

    def close(self) -> None:
        """End it; nothing may have been asked of anybody else."""
        self.page.context.close()
        own = (f"{self.site.origin}/", "blob:", "data:")
        assert [each.url for each in self.requests if not each.url.startswith(own)] == []

    @property
    def search(self) -> str:
        return urlsplit(self.page.url).query


def serve(folder: Path, options: str = "", **environ: str) -> servers.Server:
    """Return a gunicorn of a small application over the database of a folder."""
    (folder / "shop.py").write_text(APPLICATION)
    return servers.gunicorn(
        f"wsgi_tracker:wrap('shop:app', 'visits.db'{options})",
        folder=folder,
        options=["--threads", "8"],
        python_path=[folder, *map(Path, filter(None, sys.path))],
        environ=environ,
    )


def cells(page: Page, selector: str) -> list[list[str]]:
    """Return the text of a table's cells, without its header."""
    script = """(selector) => [...document.querySelectorAll(`${selector} tbody tr`)].map(
        (row) => [...row.cells].map((cell) => cell.textContent))"""
    found: list[list[str]] = page.evaluate(script, selector)
    return found


def view_of(visitor: Visitor) -> dict[str, str]:
    """Return what the address says."""
    return {name: values[0] for name, values in parse_qs(visitor.search, True).items()}
