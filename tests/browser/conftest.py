"""A real browser before a real gunicorn: one of each for all tests of a process, a page for each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import (
    CHROMIUM,
    DAYS,
    FLAGS,
    RANGE,
    VISITORS_A_DAY,
    Site,
    Visitor,
    serve,
    sync_playwright,
)
from needs import require
from shopping import ambiguous, fill, hostile, shopping

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.once)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    require(sync_playwright, "playwright")
    require(CHROMIUM, "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve a shop with some weeks of visits, a few of them of somebody hostile."""
    folder = tmp_path_factory.mktemp("shop")
    now = time.time_ns() // 1000
    fill(folder / "visits.db", shopping(now, DAYS, VISITORS_A_DAY))
    fill(folder / "visits.db", chain(hostile(now), ambiguous(now)), segment=2)
    with serve(folder) as server:
        yield Site(server)


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Visitor]]:
    """Make pages, each of somebody of its own; at the end, none may have gone elsewhere."""
    visitors = []

    def make(of: Site = site, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, of, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.close()


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Iterator[Visitor]:
    """Return one of them, who must have nothing to complain about."""
    visitor = visit()
    yield visitor
    assert visitor.complaints == []


@pytest.fixture(scope="session")
def overview(browser: Browser, site: Site) -> Iterator[Visitor]:
    """Return who looks at a week of the past, and does nothing; for tests that do nothing either."""
    visitor = Visitor(browser, site)
    visitor.open(**RANGE)
    yield visitor
    visitor.close()
    assert visitor.complaints == []


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Keep pictures, in $WSGI_TRACKER_SCREENSHOTS if it is set."""
    folder = Path(os.environ.get("WSGI_TRACKER_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, **options: Any) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path, **options)
        return path

    return take
