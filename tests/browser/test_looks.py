"""How it looks and reads: themes, widths, locales, for everybody, without a jump."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from browsing import RANGE, Site, Visitor, expect, serve
from servers import TOKEN
from shopping import fill, shopping, wordy

Visit = Callable[..., Visitor]
WIDTHS = {360: 780, 800: 1000, 1440: 1000, 2400: 1300}
# Kept by the page itself from its first moment on.
SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({type: 'layout-shift', buffered: true});"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_axe_finds_nothing_serious(
    theme: str, width: int, visit: Visit, picture: Callable[..., Path]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    viewport = {"width": width, "height": WIDTHS[width]}
    visitor = visit(color_scheme=theme, reduced_motion="reduce", viewport=viewport)
    page = visitor.open()

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    serious = [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    picture(page, f"{theme}-{width}", full_page=True)
    assert visitor.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_what_opens(
    theme: str, visit: Visit, picture: Callable[..., Path]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    def check(page: Any) -> None:
        found = Axe().run(page).response["violations"]
        assert [e["id"] for e in found if e["impact"] in ("serious", "critical")] == []

    visitor = visit(color_scheme=theme, reduced_motion="reduce")  # half faded text has no contrast
    form = visitor.open(token=None)
    expect(form.locator("#token-form")).to_be_visible()
    check(form)
    picture(form, f"token-{theme}")
    page = visitor.open(**RANGE, method="GET")
    page.click("#filter > summary")
    page.click("#figures summary")
    page.focus(".chart")
    page.keyboard.press("End")
    check(page)
    picture(page, f"chart-{theme}")
    page.click("#visits tbody tr:first-child button.value")
    visitor.wait()
    check(page)
    picture(page, f"user-{theme}")


def test_themes_differ(visit: Visit) -> None:
    colours = []
    for theme in ("light", "dark"):
        visitor = visit(color_scheme=theme)
        page = visitor.open(token=None)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert colours == ["rgb(245, 246, 248)", "rgb(14, 17, 23)"]


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_jumps(width: int, visit: Visit) -> None:
    visitor = visit(viewport={"width": width, "height": 900})
    visitor.page.add_init_script(SHIFTS)
    page = visitor.open()
    page.check('#periods input[value="month"]', force=True)
    visitor.wait()
    page.locator("#systems tbody button").first.click()
    visitor.wait()

    assert sum(page.evaluate("window.shifts")) < 0.05


@pytest.mark.parametrize("width", [360, 800, 1000, 1440])
def test_what_opens_is_within_the_page(width: int, visit: Visit) -> None:
    visitor = visit(viewport={"width": width, "height": 900})

    def warn(route: Any) -> None:
        route.fulfill(json={**route.fetch().json(), "warnings": ["something to tell " * 9]})

    visitor.page.route("**/health", warn)
    page = visitor.open(**RANGE)

    for opener, opened in {
        "#range": "#range form",
        "#filter": "#filter form",
        "#health": "#health ul",
    }.items():
        page.click(f"{opener} summary")
        box = page.locator(opened).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        page.click(f"{opener} summary")


def test_wide_screen_is_made_use_of(visit: Visit) -> None:
    page = visit(viewport={"width": 2400, "height": 1300}).open(**RANGE)

    def top(panel: str) -> float:
        box = page.locator(f"#{panel}").bounding_box()
        assert box is not None
        return box["y"]

    assert page.evaluate("document.querySelector('main').clientWidth") > 2200
    assert top("referers") == top("exceptions")
    assert top("dead-paths") == top("failing")


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("wordy")
    now = time.time_ns() // 1000
    fill(folder / "visits.db", chain(shopping(now, 3, 5), wordy(now)))
    with serve(folder) as server:
        yield Site(server)


@pytest.mark.parametrize("locale", ["en-US", "de-DE", "ru-RU"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_cell_reaches_into_its_neighbour(
    width: int, locale: str, visit: Visit, long_texts: Site, picture: Callable[..., Path]
) -> None:
    visitor = visit(long_texts, locale=locale, viewport={"width": width, "height": 900})

    def enlarge(route: Any) -> None:
        answer = route.fetch().json()
        for row in chain(answer.get("stats", ()), answer.get("trends", ())):
            for name in ("hit_count", "hits", "unique_users"):
                if name in row:
                    row[name] *= 1_234_567
        route.fulfill(json=answer)

    visitor.page.route("**/stats?*", enlarge)
    visitor.page.route("**/trends?*", enlarge)
    page = visitor.open(granularity="week")
    page.click("#figures summary")
    page.evaluate("document.querySelectorAll('.empty button').forEach((each) => each.click())")
    visitor.wait()

    assert page.locator(".panel table").count() == page.locator(".panel").count() - 2
    too_long = page.evaluate(
        """() => [...document.querySelectorAll('th, td')]
            .filter((cell) => cell.scrollWidth > cell.clientWidth)
            .map((cell) => [cell.closest('.panel').id, cell.textContent])"""
    )
    assert too_long == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"long-{locale}-{width}", full_page=True)


@pytest.mark.parametrize("width", [390, 900, 1440])
def test_no_card_is_cut_off(width: int, visit: Visit) -> None:
    page = visit(viewport={"width": width, "height": 900}).open(**RANGE)

    cut = page.evaluate(
        """() => [...document.querySelectorAll('.card')]
            .filter((card) => card.scrollHeight > card.clientHeight)
            .map((card) => card.innerText)"""
    )
    assert page.inner_text("#card-time .below")
    assert cut == []


def test_numbers_are_those_of_the_readers_locale(visit: Visit) -> None:
    visitor = visit(locale="de-DE")
    page = visitor.open(**RANGE, granularity="day")

    total = visitor.site.ask("summary", **RANGE)["total_hits"]
    assert total > 1000
    assert page.inner_text("#card-hits .value") == f"{total:,}".replace(",", ".")
    rate = visitor.site.ask("summary", **RANGE, include="status")["error_rate"]
    shown = page.inner_text("#card-errors .value")
    assert "," in shown
    assert float(shown.rstrip("\xa0%").replace(",", ".")) == pytest.approx(rate * 100, abs=0.005)


def test_first_paint_is_soon(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open()

    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1000  # 300 ms where nothing else runs; here is a machine that tests


def test_page_has_headings_landmarks_and_names(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    assert page.locator("main").count() == page.locator("h1:visible").count() == 1
    assert page.locator(".panel h2").count() == page.locator(".panel").count()
    assert page.title() == f"Visits of {visitor.site.origin.removeprefix('http://')}"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('#page button, #page select, #page input')]
            .filter((node) => !(node.textContent.trim() || node.ariaLabel || node.labels?.length))
            .map((node) => node.outerHTML)"""
    )
    assert nameless == []


def test_pictures_of_the_readme_can_be_made(visit: Visit, picture: Callable[..., Path]) -> None:
    for theme in ("light", "dark"):
        visitor = visit(color_scheme=theme, viewport={"width": 1280, "height": 920})
        page = visitor.page
        page.goto(visitor.site.url() + f"#token={TOKEN}")
        visitor.wait()
        expect(page.locator("#endpoints tr:nth-child(9) svg.sparkline")).to_be_visible()

        assert picture(page, f"dashboard-{theme}").stat().st_size <= 200_000
        assert json.loads(page.evaluate("JSON.stringify(document.title)")).startswith("Visits")
