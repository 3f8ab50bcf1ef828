"""Each panel shows the figures that the API gives."""

from __future__ import annotations

import csv
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import pytest
from browsing import RANGE, Visitor, cells, expect

if TYPE_CHECKING:
    from playwright.sync_api import Page

FILTERED = {**RANGE, "class": "human"}
# Each list, and what it asks the API for besides the time.
LISTS = {
    "statuses": {"by": "status"},
    "referers": {"by": "referer_host"},
    "browsers": {"by": "browser"},
    "systems": {"by": "system"},
    "classes": {"by": "class"},
    "hosts": {"by": "host"},
    "exceptions": {"by": "error", "error": "-"},
    "dead-paths": {"by": "path", "status": "404"},
    "dead-referers": {"by": "referer", "status": "404"},
}


def grouped(number: int) -> str:
    return f"{number:,}"


def percent(share: float) -> str:
    rounded = Decimal(str(share * 100)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return f"{rounded:f}".rstrip("0").rstrip(".") + "%"


def milliseconds(microseconds: int) -> str:
    """Say it as the page does, for readers of English."""
    value, unit = (microseconds / 1e3, "ms") if microseconds < 1e6 else (microseconds / 1e6, "s")
    return f"{float(f'{value:.3g}'):g}{unit}"


def difference(now: float, before: float) -> str:
    change = round((now / before - 1) * 100)
    return "0%" if change == 0 else f"{change:+}%"


@pytest.mark.parametrize("view", [RANGE, FILTERED], ids=["all", "filtered"])
def test_cards_are_the_summary_against_the_time_before(
    view: dict[str, str], visitor: Visitor
) -> None:
    page = visitor.open(**view)

    summary = visitor.site.ask(
        "summary", **view, include="status,latency,sessions", compare="previous"
    )
    before = summary["previous"]
    shown = {
        name: [page.inner_text(f"#card-{name} .{part}") for part in ("value", "change")]
        for name in ("hits", "users", "sessions", "endpoints", "errors", "time")
    }
    figures: dict[str, tuple[Callable[[Any], str], Callable[[Any], Any]]] = {
        "hits": (grouped, lambda s: s["total_hits"]),
        "users": (grouped, lambda s: s["total_unique_users"]),
        "sessions": (grouped, lambda s: s["sessions"]["count"]),
        "endpoints": (grouped, lambda s: s["total_endpoints"]),
        "errors": (percent, lambda s: s["error_rate"]),
        "time": (milliseconds, lambda s: s["duration_us"]["p50"]),
    }
    for name, (say, of) in figures.items():
        value, change = shown[name]
        assert value == say(of(summary)), name
        assert change.lstrip("▲▼ ").replace("\u2212", "-") == difference(of(summary), of(before)), (
            name
        )


def test_cards_below_tell_more_of_it(overview: Visitor) -> None:
    page = overview.page

    summary = overview.site.ask("summary", **RANGE, include="status,latency,sessions")
    status = summary["status"]
    assert page.inner_text("#card-errors .below") == (
        f"{status['5xx']} of 5xx, {status['4xx']} of 4xx"
    )
    assert milliseconds(summary["duration_us"]["p99"]) in page.inner_text("#card-time .below")
    average = float(f"{summary['sessions']['average_visits']:.3g}")
    assert page.inner_text("#card-sessions .below").startswith(f"{average:g} visits, ")


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(RANGE, id="days"),
        pytest.param({**RANGE, "granularity": "hour"}, id="hours"),
        pytest.param({**RANGE, "granularity": "week"}, id="weeks"),
        pytest.param({**RANGE, "granularity": "month", "method": "POST"}, id="months, filtered"),
    ],
)
def test_trend_is_that_of_the_api_bucket_by_bucket(view: dict[str, str], visitor: Visitor) -> None:
    page = visitor.open(**view)

    asked = {"granularity": "day", **view}
    trends = visitor.site.ask("trends", **asked, fill="true")["trends"]
    shown = [row[1:] for row in cells(page, "#trend-table")]
    assert shown == [
        [
            grouped(bucket["hits"]),
            grouped(bucket["unique_users"]),
            "incomplete" if bucket["partial"] else "",
        ]
        for bucket in trends
    ]


def test_chart_draws_every_bucket_and_the_time_before(overview: Visitor) -> None:
    page = overview.page

    trends = overview.site.ask("trends", **RANGE, granularity="day", fill="true")["trends"]
    heights = page.evaluate(
        """() => [...document.querySelectorAll('.chart path.hits')].map((p) => p.getAttribute('d'))
            .join('').match(/[\\d.]+,[\\d.]+/g).map((point) => Number(point.split(',')[1]))"""
    )
    hits = [bucket["hits"] for bucket in trends[::-1]]
    assert len(heights) == len(hits) == 7
    assert heights.index(min(heights)) == hits.index(max(hits))
    assert page.get_attribute(".chart path.before", "d")


def test_partial_buckets_are_marked(visitor: Visitor) -> None:
    page = visitor.open()

    partial = [bucket["partial"] for bucket in visitor.answer("trends")["trends"]]
    assert sum(partial) == 2
    expect(page.locator(".chart circle.hits.partial")).to_have_count(2)
    expect(page.locator(".chart path.hits.partial")).to_have_count(2)
    expect(page.locator(".chart .missing")).to_have_count(2)


def test_endpoints_are_those_of_stats_with_rates_and_times(overview: Visitor) -> None:
    page = overview.page

    rows = overview.site.ask("stats", **RANGE, include="status,latency")["stats"]
    assert [row[:7] for row in cells(page, "#endpoints")] == [
        [
            row["endpoint"],
            row["method"],
            grouped(row["hit_count"]),
            grouped(row["unique_users"]),
            percent(row["error_rate"]),
            milliseconds(row["duration_us"]["p50"]),
            milliseconds(row["duration_us"]["p99"]),
        ]
        for row in rows
    ]
    assert page.inner_text("#endpoints .note") == str(len(rows))


def test_rows_in_sight_have_a_small_trend(overview: Visitor) -> None:
    page = overview.page
    rows = page.locator("#endpoints tbody tr")

    expect(rows.first.locator("svg.sparkline")).to_be_visible()

    endpoint, method = cells(page, "#endpoints")[0][:2]
    trends = overview.site.ask(
        "trends", **RANGE, granularity="day", fill="true", endpoint=endpoint, method=method
    )["trends"]
    hits = ", ".join(str(bucket["hits"]) for bucket in trends[::-1])
    assert rows.first.locator("svg.sparkline").get_attribute("aria-label") == f"Hits: {hits}"


def test_small_trends_of_all_the_time_begin_with_the_large_one(visitor: Visitor) -> None:
    page = visitor.open(period="all", search="javascript:")

    weeks = len(cells(page, "#trend-table"))
    expect(page.locator("#endpoints svg.sparkline")).to_have_attribute(
        "aria-label", f"Hits: {'0, ' * (weeks - 1)}1"
    )


@pytest.mark.parametrize("panel", LISTS)
def test_list_is_that_of_the_breakdown(panel: str, overview: Visitor) -> None:
    page = overview.page

    answer = overview.site.ask("breakdown", **RANGE, **LISTS[panel], limit=50)
    shown = cells(page, f"#{panel}")
    assert shown
    for row, (value, hits, users) in zip(answer["breakdown"], shown, strict=True):
        assert (hits, users) == (grouped(row["hits"]), grouped(row["unique_users"]))
        assert row["value"] is None or row["value"] == value
    assert page.locator(f"#{panel} button.none").count() == sum(
        row["value"] is None for row in answer["breakdown"]
    )


def test_referers_of_one_host_are_its_pages(visitor: Visitor) -> None:
    page = visitor.open(**RANGE, referer_host="forum.example.net")

    assert [row[0] for row in cells(page, "#referers")] == [
        "https://forum.example.net/t/which-box/4711"
    ]


@pytest.mark.parametrize(
    ("panel", "sort", "say"),
    [
        pytest.param("slowest", "-p99", lambda row: milliseconds(row["duration_us"]["p99"])),
        pytest.param("failing", "-error_rate", lambda row: percent(row["error_rate"])),
    ],
    ids=["slowest", "failing"],
)
def test_extremes_are_the_first_of_stats_sorted(
    panel: str, sort: str, say: Callable[[Any], str], overview: Visitor
) -> None:
    page = overview.page

    rows = overview.site.ask("stats", **RANGE, include="status,latency", sort=sort)["stats"]
    shown = cells(page, f"#{panel}")
    assert [row[2] for row in shown] == [say(row) for row in rows if say(row) != "0%"]
    assert {tuple(row[:2]) for row in shown} <= {(row["endpoint"], row["method"]) for row in rows}


def test_panel_of_now_is_what_live_says(visitor: Visitor) -> None:
    page = visitor.open()

    now = visitor.answer("live")
    figures = page.locator("#live .now strong").all_inner_texts()
    assert figures[0] == grouped(now["active_users"])
    bars = page.locator("#live .minutes li").all_inner_texts()
    assert [bar.rpartition(": ")[2] for bar in bars] == [
        f"{minute['hits']} hit{'' if minute['hits'] == 1 else 's'}" for minute in now["minutes"]
    ]
    assert sum(minute["hits"] for minute in now["minutes"]) >= 6


def test_panel_of_now_asks_again_and_again(visitor: Visitor) -> None:
    visitor.page.clock.install()
    visitor.open()
    asked = len(visitor.asked("live"))

    visitor.page.clock.run_for(5_000)
    visitor.wait()

    assert len(visitor.asked("live")) == asked + 1


def test_figures_are_asked_for_again_while_the_page_is_open(visitor: Visitor) -> None:
    visitor.page.clock.install()
    visitor.open()
    asked = visitor.asked("summary")

    with visitor.page.expect_response(lambda response: "/stats?" in response.url):
        visitor.page.clock.run_for(61_000)
    visitor.wait()

    assert visitor.asked("summary")[len(asked) :] == asked[:2]


def test_past_is_not_asked_for_again(visitor: Visitor) -> None:
    visitor.page.clock.install()
    visitor.open(**RANGE)
    asked = len(visitor.asked("summary"))

    visitor.page.clock.run_for(600_000)
    visitor.wait()

    assert len(visitor.asked("summary")) == asked


def test_visits_are_the_newest_with_all_that_is_known(overview: Visitor) -> None:
    page = overview.page

    visits = overview.site.ask(
        "visits", **RANGE, limit=50, include="path,status,error,host,duration,bytes"
    )["visits"]
    shown = cells(page, "#visits")
    assert [row[1:] for row in shown] == [
        [
            each["user_hash"][:8],
            each["method"],
            each["path"],
            str(each["status"]),
            milliseconds(each["duration_us"]),
            each["error"] or "–",  # noqa: RUF001
            each["referer"] or "–",  # noqa: RUF001
            each["user_agent"],
            each["host"],
            each["ip_address"],
        ]
        for each in visits
    ]
    assert shown[0][0].endswith(visits[0]["timestamp"][11:19])


def test_older_visits_come_behind_the_newest(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.click("#visits .older")

    expect(page.locator("#visits tbody tr")).to_have_count(100)
    visits = visitor.site.ask("visits", **RANGE, limit=100, include="path")["visits"]
    assert [row[3] for row in cells(page, "#visits")] == [each["path"] for each in visits]


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        pytest.param({"visits_status": "5xx"}, {"status": "5xx"}, id="status"),
        pytest.param({"visits_path": "box"}, {"path": "*box*"}, id="path"),
    ],
)
def test_visits_have_filters_of_their_own(
    own: dict[str, str], asked: dict[str, str], visitor: Visitor
) -> None:
    page = visitor.open(**RANGE)
    hits = page.inner_text("#card-hits .value")

    if "visits_status" in own:
        page.select_option("#visits-status", own["visits_status"])
    else:
        page.fill("#visits-path", own["visits_path"])
        page.wait_for_url(f"**visits_path={own['visits_path']}*")
    visitor.wait()

    visits = visitor.site.ask("visits", **RANGE, **asked, limit=50, include="path")["visits"]
    assert [row[3] for row in cells(page, "#visits")] == [each["path"] for each in visits]
    assert visits
    assert page.inner_text("#card-hits .value") == hits


def test_user_is_shown_with_the_path_through_the_site(visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    page.click("#visits tbody tr:first-child button.value")
    visitor.wait()

    user = page.inner_text("#user-hash")
    answer = visitor.site.ask(f"users/{user}", tz="UTC")
    facts = page.locator("#user .facts dd").all_inner_texts()
    assert facts[:2] == [grouped(answer["visits"]), grouped(answer["sessions"]["count"])]
    assert page.locator("#user li .path").all_inner_texts() == [
        step["path"] for session in answer["path"] for step in session["steps"]
    ]
    assert page.locator("#user .session").count() == len(answer["path"])


@pytest.mark.parametrize("panel", ["trend", "endpoints", "slowest", "visits"])
def test_csv_is_the_table_that_is_shown(panel: str, visitor: Visitor) -> None:
    page = visitor.open(**RANGE)

    header, rows = saved(page, panel)

    shown = cells(page, "#trend-table" if panel == "trend" else f"#{panel}")
    if panel == "trend":
        shown.reverse()
    column, at = {"trend": ("hits", 1), "visits": ("path", 3)}.get(panel, ("endpoint", 0))
    assert [row[header.index(column)] for row in rows] == [line[at] for line in shown]
    if panel == "endpoints":
        stats = visitor.site.ask("stats", **RANGE, include="status,latency")["stats"]
        assert [float(row[header.index("error_rate")]) for row in rows] == [
            row["error_rate"] for row in stats
        ]
        assert [row[header.index("p99")] for row in rows] == [
            str(row["duration_us"]["p99"]) for row in stats
        ]


# Not more on one page: after ten downloads Chromium wants to be asked.
@pytest.mark.parametrize("panel", LISTS)
def test_csv_is_the_list_that_is_shown(panel: str, overview: Visitor) -> None:
    header, rows = saved(overview.page, panel)

    answer = overview.site.ask("breakdown", **RANGE, **LISTS[panel], limit=50)
    assert header == [answer["by"], "hits", "unique_users"]
    assert rows == [
        [str(row["value"] or ""), str(row["hits"]), str(row["unique_users"])]
        for row in answer["breakdown"]
    ]


def saved(page: Page, panel: str) -> tuple[list[str], list[list[str]]]:
    """Click on CSV; return the names of columns, and the rows."""
    with page.expect_download() as download:
        page.click(f"#{panel} header button:has-text('CSV')")
    assert download.value.suggested_filename == f"{panel}.csv"
    with open(download.value.path(), newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows
