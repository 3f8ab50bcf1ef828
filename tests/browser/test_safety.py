"""Whatever a stranger sends is text: markup in every field does nothing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import Visitor, cells, expect
from shopping import MARKUP

VIEWS = [
    pytest.param({"period": "day"}, id="all"),
    pytest.param({"period": "day", "user": "f" * 32}, id="the user"),
    pytest.param({"period": "day", "path": f"*{MARKUP[1:20]}*"}, id="filtered"),
    pytest.param({"period": "day", "search": "<img", "visits_path": "<script>"}, id="searched"),
    pytest.param(
        {"period": "day", "host": MARKUP, "tz": MARKUP, "sort": MARKUP}, id="in the address"
    ),
    pytest.param({"period": MARKUP, "start": MARKUP, "end": MARKUP}, id="in the time"),
]
VIOLATIONS = """window.violations = [];
addEventListener('securitypolicyviolation', (event) => window.violations.push(event.blockedURI));"""


@pytest.mark.parametrize("view", VIEWS)
def test_markup_of_strangers_is_text(
    view: dict[str, str], visit: Callable[..., Visitor], picture: Callable[..., Path]
) -> None:
    visitor = visit()
    visitor.page.add_init_script(VIOLATIONS)

    page = visitor.open(**view)

    assert page.evaluate("window.hacked") is None
    assert page.evaluate("window.violations") == []
    assert page.locator("img").count() == 0
    scripts = page.evaluate("[...document.scripts].map((script) => script.src)")
    assert scripts == [f"{visitor.site.origin}/api/tracking/dashboard/main.js"]
    links = page.evaluate("[...document.querySelectorAll('a')].map((link) => link.href)")
    assert links == []
    if not {"tz", "start"} & set(view):
        assert MARKUP in page.inner_text("#visits")
        assert visitor.complaints == []
    picture(page, f"hostile-{len(view)}", full_page=True)


@pytest.mark.parametrize(
    ("panel", "column"),
    [("endpoints", 0), ("hosts", 0), ("exceptions", 0), ("dead-paths", 0), ("dead-referers", 0)],
)
def test_markup_can_be_read_in_every_panel(panel: str, column: int, visitor: Visitor) -> None:
    page = visitor.open(period="day")

    assert sum(MARKUP in row[column] for row in cells(page, f"#{panel}")) >= 6


def test_every_field_of_a_visit_is_text(visitor: Visitor) -> None:
    page = visitor.open(period="day", error=f"={MARKUP}".replace("[", "[[]"))

    (row,) = cells(page, "#visits")
    assert sum(MARKUP in cell for cell in row) == 5  # path, error, referer, user agent and host


def test_value_with_markup_can_be_looked_at_alone(visitor: Visitor) -> None:
    page = visitor.open(period="day")
    values = page.locator("#hosts button.value", has_text="javascript:")

    values.first.click()
    visitor.wait()

    expect(page.locator("#chips li b")).to_have_text(f"javascript:{MARKUP}")
    assert page.inner_text("#card-hits .value") == "1"


def test_formulas_are_none_in_a_spreadsheet(visitor: Visitor) -> None:
    page = visitor.open(period="day")

    with page.expect_download() as download:
        page.click("#hosts header button:has-text('CSV')")

    with open(download.value.path(), newline="") as file:
        values = [row[0] for row in csv.reader(file)]
    assert f"'={MARKUP}" in values
    assert f'"{MARKUP}' in values
    assert not [value for value in values if value[:1] in set("=+-@\t\r\n")]


def test_page_may_not_be_framed(visitor: Visitor) -> None:
    page = visitor.open(period="day")

    response = page.request.get(visitor.site.url())

    assert response.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_policy_stops_what_would_come_in_all_the_same(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.page.add_init_script(VIOLATIONS)
    page = visitor.open(period="day")

    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.hacked = 1';
            document.body.append(script);
            const button = document.createElement('button');
            button.setAttribute('onclick', 'window.hacked = 1');
            button.click();
        }"""
    )

    assert page.evaluate("window.hacked") is None
    assert len(page.evaluate("window.violations")) >= 1
