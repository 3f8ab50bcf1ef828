"""What chooses the view: by pointer and by keyboard, and always in the address, too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import unquote

import pytest
from browsing import RANGE, TODAY, Visitor, cells, expect, view_of

PERIODS = {
    "today": ("today", "hour"),
    "yesterday": ("yesterday", "hour"),
    "day": ("24h", "hour"),
    "month": ("30d", "day"),
    "year": ("1y", "week"),
}


@pytest.mark.parametrize("period", PERIODS)
def test_period_is_chosen(period: str, visitor: Visitor) -> None:
    page = visitor.open()

    page.check(f'#periods input[value="{period}"]', force=True)
    visitor.wait()

    trends, granularity = PERIODS[period]
    assert view_of(visitor) == {"period": period}
    assert visitor.asked("summary")[-1].startswith(f"period={period}")
    answer = visitor.answer("trends", period=trends, granularity=granularity, fill="true")
    assert len(cells(page, "#trend-table")) == len(answer["trends"])
    total = visitor.answer("summary", period=period)["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{total:,}"


def test_all_of_the_time_is_a_period_with_nothing_before_it(visitor: Visitor) -> None:
    page = visitor.open()

    page.check('#periods input[value="all"]', force=True)
    visitor.wait()

    assert view_of(visitor) == {"period": "all"}
    total = visitor.site.ask("summary")["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{total:,}"
    weeks = [int(row[1].replace(",", "")) for row in cells(page, "#trend-table")]
    assert sum(weeks) == total
    assert weeks[-1] > 0
    assert page.inner_text("#card-hits .change") == ""
    assert page.locator("#endpoints tbody tr").count() == len(visitor.site.ask("stats")["stats"])
    assert [q for q in visitor.asked("trends") if "start=1970" in q and "compare" in q] == []


def test_range_is_of_whole_days_and_holds_the_last(visitor: Visitor) -> None:
    page = visitor.open(tz="UTC")
    first, last = TODAY - timedelta(days=9), TODAY - timedelta(days=3)

    page.click("#range > summary")
    page.fill("#range-from", str(first))
    page.fill("#range-to", str(last))
    page.click("#range button[type=submit]")
    visitor.wait()

    assert view_of(visitor) == RANGE
    assert page.inner_text("#card-hits .value") == (
        f"{visitor.site.ask('summary', **RANGE)['total_hits']:,}"
    )
    expect(page.locator("#range form")).to_be_hidden()
    expect(page.locator("#range-name")).to_contain_text(str(last.year))


def test_range_that_ends_before_it_begins_is_refused(visitor: Visitor) -> None:
    page = visitor.open()

    page.click("#range > summary")
    page.fill("#range-from", "2025-08-13")
    page.fill("#range-to", "2025-08-12")
    page.click("#range button[type=submit]")

    assert page.evaluate("document.getElementById('range-to').validationMessage")
    assert visitor.search == ""


def test_time_zone_is_of_days_and_of_clocks(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.select_option("#zone", "Asia/Tokyo")
    visitor.wait()

    zone = {**RANGE, "tz": "Asia/Tokyo"}
    assert view_of(visitor) == zone
    visits = visitor.site.ask("visits", **zone, limit=1)["visits"]
    hour = (int(visits[0]["timestamp"][11:13]) + 9) % 24
    assert f"{hour:02}:{visits[0]['timestamp'][14:19]}" in cells(page, "#visits")[0][0]


def test_class_of_visitors_is_chosen(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.select_option("#class", "human")
    visitor.wait()

    total = visitor.site.ask("summary", **RANGE, **{"class": "human"})["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{total:,}"
    assert page.inner_text("#chips li b") == "human"
    page.select_option("#class", "")
    expect(page.locator("#chips li")).to_have_count(0)
    assert view_of(visitor) == RANGE


def test_granularity_is_chosen(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.select_option("#granularity", "hour")
    visitor.wait()

    assert view_of(visitor) == {**RANGE, "granularity": "hour"}
    assert len(cells(page, "#trend-table")) == 7 * 24


@pytest.mark.parametrize(
    ("panel", "name"),
    [
        ("endpoints", "endpoint"),
        ("statuses", "status"),
        ("referers", "referer_host"),
        ("browsers", "browser"),
        ("systems", "system"),
        ("classes", "class"),
        ("hosts", "host"),
        ("exceptions", "error"),
    ],
)
def test_value_that_is_clicked_becomes_a_filter(panel: str, name: str, visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    value = page.locator(f"#{panel} tbody tr button.value:not(.none)").first
    text = value.inner_text()

    value.click()
    visitor.wait()

    assert view_of(visitor) == {**RANGE, name: text}
    total = visitor.site.ask("summary", **RANGE, **{name: text})["total_hits"]
    assert total > 0
    assert page.inner_text("#card-hits .value") == f"{total:,}"


def test_what_has_none_is_a_filter_too(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.click("#referers button.none")
    visitor.wait()

    assert view_of(visitor) == {**RANGE, "referer_host": ""}
    assert page.inner_text("#chips li b") == "none"
    total = visitor.site.ask("summary", **RANGE, referer_host="")["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{total:,}"


@pytest.mark.parametrize(
    ("panel", "value"), [("dead-paths", "/*[ab]?"), ("hosts", "-x")], ids=["glob", "negation"]
)
def test_value_that_looks_like_a_filter_is_meant_as_it_is(
    panel: str, value: str, visitor: Visitor
) -> None:
    page = visitor.open(period="day")

    page.locator(f"#{panel} button.value").get_by_text(value, exact=True).click()
    visitor.wait()

    assert page.inner_text("#card-hits .value") == "1"


def test_dead_link_leads_to_its_visits(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.click("#dead-paths tbody tr:first-child button")
    visitor.wait()

    path = view_of(visitor)["path"]
    assert view_of(visitor) == {**RANGE, "status": "404", "path": path}
    assert {row[3] for row in cells(page, "#visits")} == {path}


def test_any_filter_can_be_written(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.click("#filter > summary")
    page.select_option("#filter-name", "path")
    page.fill("#filter-value", "-/boxes*")
    page.press("#filter-value", "Enter")
    visitor.wait()

    assert view_of(visitor) == {**RANGE, "path": "-/boxes*"}
    total = visitor.site.ask("summary", **RANGE, path="-/boxes*")["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{total:,}"


def test_filters_are_taken_away_one_by_one_or_all(visitor: Visitor) -> None:
    page = visitor.open(**RANGE, method="GET", status="200", system="Linux")
    chips = page.locator("#chips li")
    expect(chips).to_have_count(3)

    page.click('#chips button[aria-label="Remove Status 200"]')
    expect(chips).to_have_count(2)
    assert view_of(visitor) == {**RANGE, "method": "GET", "system": "Linux"}

    page.click("#clear")
    expect(chips).to_have_count(0)
    assert view_of(visitor) == RANGE


def test_filter_that_the_api_refuses_is_explained(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open(status="banana")

    expect(page.locator("#trend .problem")).to_contain_text("Status is 404 or another status")
    page.click("#clear")
    visitor.wait()
    expect(page.locator(".problem")).to_have_count(0)


def test_endpoints_are_searched_and_sorted(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    asked = len(visitor.requests)

    page.fill("#search", "BOX")
    page.wait_for_url("**search=BOX**")
    page.click("#endpoints th button:has-text('p99')")

    header = page.locator("#endpoints th", has_text="p99")
    expect(header).to_have_attribute("aria-sort", "descending")
    rows = visitor.site.ask("stats", **RANGE, sort="-p99")["stats"]
    expected = [row["endpoint"] for row in rows if "box" in row["endpoint"].lower()]
    assert [row[0] for row in cells(page, "#endpoints")] == expected
    page.click("#endpoints th button:has-text('p99')")
    expect(header).to_have_attribute("aria-sort", "ascending")
    assert [row[0] for row in cells(page, "#endpoints")] == expected[::-1]
    assert view_of(visitor) == {**RANGE, "search": "BOX", "sort": "p99"}
    assert [r.url for r in visitor.requests[asked:] if "/stats" in r.url] == []


def test_header_that_sorts_keeps_the_focus(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.locator("#endpoints th button", has_text="Users").focus()
    page.keyboard.press("Enter")

    expect(page.locator("#endpoints th[aria-sort] button")).to_be_focused()


def test_back_and_forward_go_through_views(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    hits = page.inner_text("#card-hits .value")
    page.click("#browsers tbody tr:nth-child(1) button")
    visitor.wait()
    fewer = page.inner_text("#card-hits .value")
    assert fewer != hits

    page.go_back()
    visitor.wait()
    assert page.inner_text("#card-hits .value") == hits
    expect(page.locator("#chips li")).to_have_count(0)

    page.go_forward()
    visitor.wait()
    assert page.inner_text("#card-hits .value") == fewer


def test_address_shows_the_same_to_somebody_else(visit: Callable[..., Visitor]) -> None:
    first, second = visit(), visit()
    page = first.open(**RANGE, browser="Firefox", sort="-p99", search="box", visits_status="2xx")
    other = second.open(**view_of(first))

    for panel in ("#endpoints", "#statuses", "#visits", "#trend-table"):
        assert cells(page, panel) == cells(other, panel) != []


def test_dialog_of_a_user_is_part_of_the_view(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    dialog = page.locator("dialog#user")

    page.click("#visits tbody tr:first-child button.value")
    expect(dialog).to_be_visible()
    user = view_of(visitor)["user"]

    page.go_back()
    expect(dialog).to_be_hidden()
    page.go_forward()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert "user" not in view_of(visitor)
    page.go_back()
    page.click("#user-filter")
    visitor.wait()
    assert view_of(visitor) == {**RANGE, "user_hash": user}


def test_all_of_it_can_be_done_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    reached: list[str] = []

    for _ in range(400):
        page.keyboard.press("Tab")
        where = page.evaluate(
            """() => {
                const node = document.activeElement;
                const panel = node.closest('.panel, #controls, #filters, #top');
                const style = getComputedStyle(node.matches('.hidden') ? node.nextElementSibling : node);
                return [panel?.id ?? node.tagName, style.outlineStyle];
            }"""
        )
        if where[0] == "BODY":
            break
        assert where[1] != "none", f"nobody sees that the focus is in {where[0]}"
        reached.append(where[0])

    panels = page.evaluate("[...document.querySelectorAll('.panel')].map((panel) => panel.id)")
    assert set(panels) - {"summary"} <= set(reached)
    # In the order in which they stand there.
    order = list(dict.fromkeys(reached))
    assert [name for name in order if name in panels] == [n for n in panels if n in order]
    assert order[:2] == ["top", "controls"]


def test_whole_round_is_made_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.open()

    def go_to(selector: str, key: str = "Tab") -> None:
        for _ in range(400):
            page.keyboard.press(key)
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{key} does not lead to {selector}")

    go_to("#periods input")
    page.keyboard.press("ArrowRight")
    visitor.wait()
    assert view_of(visitor) == {"period": "month"}
    go_to("#endpoints tbody button")
    endpoint = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    visitor.wait()
    assert view_of(visitor) == {"period": "month", "endpoint": endpoint}

    go_to(".chart", "Shift+Tab")
    page.keyboard.press("End")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    visitor.wait()
    start = str(TODAY - timedelta(days=2))
    assert view_of(visitor) == {"period": "month", "endpoint": endpoint, "start": start}

    go_to("#search")
    page.keyboard.type(endpoint)
    page.wait_for_url("**search=*")
    go_to("#endpoints header button")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "endpoints.csv"
    go_to('#endpoints [data-key="sort p99"]')
    page.keyboard.press("Enter")
    expect(page.locator("#endpoints th[aria-sort] button")).to_be_focused()
    assert view_of(visitor)["sort"] == "-p99"

    go_to("#visits tbody button")
    page.keyboard.press("Enter")
    visitor.wait()
    expect(page.locator("#user .session").first).to_be_visible()
    go_to("#user-close", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#user")).to_be_hidden()
    assert "user" not in view_of(visitor)
    assert page.evaluate("document.activeElement.matches('#visits tbody button')")

    go_to("#chips button", "Shift+Tab")
    page.keyboard.press("Enter")
    visitor.wait()
    assert "endpoint" not in view_of(visitor)
    expect(page.locator("#filter summary")).to_be_focused()


def test_value_is_chosen_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.focus("#periods input")
    page.keyboard.press("ArrowRight")
    visitor.wait()
    page.locator("#systems tbody button").first.focus()
    page.keyboard.press("Enter")
    visitor.wait()

    assert "period=yesterday&" in unquote(visitor.search) + "&"
    assert "system=" in visitor.search
