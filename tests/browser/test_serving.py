"""The dashboard of a database alone, as `wsgi-tracker serve` has it, beside no application."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import Site, Visitor, cells, expect
from commands import Running
from servers import TOKEN
from shopping import fill, shopping

Visit = Callable[..., Visitor]
TABLELESS = {"live", "summary"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "visits.db"
    fill(path, shopping(time.time_ns() // 1000, 20, 40))
    return path


@pytest.fixture
def alone(database: Path) -> Iterator[Site]:
    with Running("serve", "--port", "0", "-d", database, "--token", TOKEN) as serving:
        yield Site(serving)


def test_served_alone_it_fills_every_panel(visit: Visit, alone: Site) -> None:
    visitor = visit(alone)
    page = visitor.open(period="month")

    total = alone.ask("summary", period="month")["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{total:,}"
    panels = page.evaluate("[...document.querySelectorAll('.panel')].map((panel) => panel.id)")
    for panel in set(panels) - TABLELESS:
        assert cells(page, f"#{panel}"), panel
    expect(page.locator(".chart path.area")).to_be_visible()
    expect(page.locator("#live .minutes li")).to_have_count(30)
    expect(page.locator("#health")).to_have_class("good")
    page.click("#visits tbody button.value >> nth=0")
    expect(page.locator("#user .session").first).to_be_visible()
    assert visitor.complaints == []


def test_served_alone_its_tables_can_be_had(visit: Visit, alone: Site) -> None:
    page = visit(alone).open(period="month")

    with page.expect_download() as download:
        page.click("#endpoints header button:has-text('CSV')")

    with open(download.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    stats = alone.ask("stats", period="month")["stats"]
    assert [(row["endpoint"], int(row["hit_count"])) for row in rows] == [
        (row["endpoint"], row["hit_count"]) for row in stats
    ]


def test_served_alone_without_a_token_none_is_asked_for(visit: Visit, database: Path) -> None:
    with Running("serve", "--port", "0", "-d", database) as serving:
        visitor = visit(Site(serving))
        page = visitor.open(token=None)
        visitor.wait()

        assert cells(page, "#endpoints")
        expect(page.locator("#token-form")).to_be_hidden()
        expect(page.locator("#forget")).to_be_hidden()
