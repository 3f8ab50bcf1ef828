"""The chart is read, and zoomed into, by pointer and by keyboard."""

from __future__ import annotations

import pytest
from browsing import RANGE, Visitor, cells, expect, view_of


def test_tip_follows_the_pointer(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    box = page.locator(".chart").bounding_box()
    assert box is not None
    trends = visitor.site.ask("trends", **RANGE, granularity="day", fill="true")["trends"]

    page.mouse.move(box["x"] + box["width"] - 16, box["y"] + 80)

    tip = page.locator(".tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text(f"{trends[0]['hits']} hits")
    expect(tip).to_contain_text(f"{trends[0]['unique_users']} unique users")
    expect(tip).to_contain_text("hits in the time before")
    page.mouse.move(box["x"] + 60, box["y"] + 80)
    expect(tip).to_contain_text(f"{trends[-1]['hits']} hits")
    page.mouse.move(box["x"] + 60, box["y"] - 200)
    expect(tip).to_be_hidden()


def test_range_that_is_dragged_is_zoomed_into(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    box = page.locator(".chart").bounding_box()
    assert box is not None
    trends = visitor.site.ask("trends", **RANGE, granularity="day", fill="true")["trends"][::-1]

    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 90)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 90)
    page.mouse.move(box["x"] + box["width"] * 0.37, box["y"] + 90)
    expect(page.locator(".chart .range")).to_be_visible()
    page.mouse.up()
    visitor.wait()

    zoomed = view_of(visitor)
    assert zoomed["start"] == trends[2]["time_bucket"]
    assert zoomed["end"] == trends[5]["time_bucket"]
    expected = sum(bucket["hits"] for bucket in trends[2:5])
    assert page.inner_text("#card-hits .value") == f"{expected:,}"
    assert len(cells(page, "#trend-table")) == 72


def test_keyboard_goes_through_the_chart_and_zooms(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)
    trends = visitor.site.ask("trends", **RANGE, granularity="day", fill="true")["trends"][::-1]
    spoken = page.locator("#trend [aria-live]")

    page.focus(".chart")
    page.keyboard.press("ArrowRight")
    expect(spoken).to_contain_text(f": {trends[0]['hits']} hits, ")
    page.keyboard.press("End")
    expect(spoken).to_contain_text(f": {trends[-1]['hits']} hits, ")
    page.keyboard.press("ArrowLeft")
    expect(spoken).to_contain_text(f": {trends[-2]['hits']} hits, ")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator(".chart .range")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".chart .range")).to_have_count(0)
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    visitor.wait()

    zoomed = view_of(visitor)
    first, last = trends[3]["time_bucket"], trends[4]["time_bucket"]
    assert (zoomed["start"], zoomed["end"]) == (first, trends[5]["time_bucket"])
    assert last < zoomed["end"]


def test_zoom_into_the_present_has_no_end_and_escape_leaves_it(visitor: Visitor) -> None:
    page = visitor.open()

    page.focus(".chart")
    page.keyboard.press("End")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    visitor.wait()

    assert set(view_of(visitor)) == {"start"}
    expect(page.locator("#unzoom")).to_be_visible()
    page.keyboard.press("Escape")
    visitor.wait()
    assert view_of(visitor) == {}
    expect(page.locator(".chart")).to_be_focused()


@pytest.mark.parametrize(
    ("granularity", "end"),
    [("hour", "T01:00:00Z"), ("month", "-01")],
    ids=["hours", "months"],
)
def test_zoom_into_one_bucket_takes_all_of_it(granularity: str, end: str, visitor: Visitor) -> None:
    page = visitor.open(**RANGE, granularity=granularity)

    page.focus(".chart")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    visitor.wait()

    zoomed = view_of(visitor)
    assert zoomed["end"].endswith(end)
    assert zoomed["start"] < zoomed["end"]
