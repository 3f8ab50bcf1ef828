"""What the page looks like when it waits, has nothing, may not, cannot, or is told of trouble."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from browsing import RANGE, Site, Visitor, cells, expect, serve, view_of
from servers import TOKEN, get
from waiting import wait_until

Visit = Callable[..., Visitor]
TREND = "trends?period=7d&granularity=day&fill=true"
AGAIN = {"status": 503, "content_type": "application/json", "headers": {"Retry-After": "1"}}


def error(code: str, message: str) -> str:
    return json.dumps({"error": {"code": code, "message": message, "parameter": None}})


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Site]:
    with serve(tmp_path) as server:
        yield Site(server)


def test_token_is_asked_for_and_kept_for_the_tab_alone(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(token=None)
    expect(page.locator("#token-form")).to_be_visible()
    expect(page.locator("#token-reason")).to_have_text("")
    expect(page.locator("#token")).to_be_focused()

    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    visitor.wait()

    expect(page.locator("#token-form")).to_be_hidden()
    expect(page.locator("#card-hits .value")).not_to_have_text("–")  # noqa: RUF001
    page.reload()
    visitor.wait()
    expect(page.locator("#token-form")).to_be_hidden()
    kept = page.evaluate("[Object.values(sessionStorage), {...localStorage}, document.cookie]")
    assert kept == [[TOKEN], {}, ""]


def test_token_of_the_address_is_taken_out_and_reaches_no_address(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(period="day")

    assert page.url == visitor.site.url(period="day")
    assert not [
        request.url for request in visitor.requests if TOKEN in request.url.partition("#")[0]
    ]
    reports = [request for request in visitor.requests if "/dashboard" not in request.url]
    assert {request.headers.get("authorization") for request in reports} == {f"Bearer {TOKEN}"}
    files = [request for request in visitor.requests if "/dashboard" in request.url]
    assert {request.headers.get("authorization") for request in files} == {None}


def test_token_is_forgotten_on_demand_with_what_it_showed(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(**RANGE)
    assert cells(page, "#endpoints")

    page.click("#forget")

    expect(page.locator("#token")).to_be_focused()
    expect(page.locator("#token-reason")).to_have_text("")
    assert page.evaluate("sessionStorage.length") == 0
    assert cells(page, "#endpoints") == []
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    visitor.wait()
    assert view_of(visitor) == RANGE
    assert cells(page, "#endpoints")


def test_token_is_asked_for_before_a_user_is_shown(visit: Visit) -> None:
    """The dialog lay over the form, which nobody could reach."""
    visitor = visit()
    page = visitor.open(token=None, user="f" * 32)
    expect(page.locator("#token")).to_be_focused()
    expect(page.locator("#user")).to_be_hidden()

    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    visitor.wait()

    expect(page.locator("#user .session")).to_have_count(1)


@pytest.mark.parametrize("token", ["wrong", "%zz", "ünknown"])
def test_wrong_token_is_said_to_be_wrong(token: str, visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(token=None)
    page.fill("#token", token)
    page.keyboard.press("Enter")

    expect(page.locator("#token-reason")).to_have_text("This token was not accepted.")
    expect(page.locator("#page")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    visitor.wait()
    expect(page.locator("#page")).to_be_visible()


def test_token_that_is_pasted_into_the_address_counts_at_once(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open(token=None)
    expect(page.locator("#token-form")).to_be_visible()

    page.evaluate(f"location.hash = 'token={TOKEN}'")

    expect(page.locator("#page")).to_be_visible()
    visitor.wait()
    assert "#" not in page.url


def test_where_no_token_is_set_the_page_says_how(visit: Visit, tmp_path: Path) -> None:
    with serve(tmp_path, WSGI_TRACKER_TOKEN="") as server:
        page = visit(Site(server)).open(token=None)

        expect(page.locator("#token-reason")).to_contain_text("WSGI_TRACKER_TOKEN")


def test_where_no_token_is_needed_none_is_asked_for(visit: Visit, tmp_path: Path) -> None:
    with serve(tmp_path, ", require_token=False", WSGI_TRACKER_TOKEN="") as server:
        visitor = visit(Site(server))
        page = visitor.open(token=None)
        visitor.wait()

        expect(page.locator("#token-form")).to_be_hidden()
        expect(page.locator("#forget")).to_be_hidden()
        assert page.inner_text("#card-hits .value") == "0"


def test_other_prefix_below_a_mount_point_works_alike(visit: Visit, tmp_path: Path) -> None:
    with serve(tmp_path, ", prefix='/own/stats'", SCRIPT_NAME="/shop") as server:
        visitor = visit(Site(server, "/shop/own/stats"))
        visitor.open()

        assert visitor.page.inner_text("#card-hits .value") == "0"
        assert visitor.complaints == []
        assert all("/shop/own/stats/" in request.url for request in visitor.requests)


@pytest.mark.parametrize("path", ["/api/tracking/dashboard/", "/api/tracking", "/api/tracking/"])
def test_address_that_is_not_quite_it_leads_to_the_page(path: str, visitor: Visitor) -> None:
    visitor.page.goto(f"{visitor.site.origin}{path}?period=day#token={TOKEN}")
    visitor.wait()

    assert visitor.page.url == visitor.site.url(period="day")


def test_empty_database_is_no_blank_page(
    visit: Visit, empty: Site, picture: Callable[..., Path]
) -> None:
    visitor = visit(empty)
    page = visitor.open()

    expect(page.locator("#nothing")).to_be_visible()
    for panel, text in {
        "endpoints": "No visits in this time.",
        "browsers": "No visits in this time.",
        "exceptions": "No request ended with an error.",
        "dead-paths": "No request was answered 404.",
        "failing": "Nothing failed: no answer was 5xx.",
        "visits": "No visits like these in this time.",
    }.items():
        expect(page.locator(f"#{panel} .empty")).to_have_text(text)
    assert page.inner_text("#card-errors .value") == "–"  # noqa: RUF001
    assert visitor.complaints == []
    picture(page, "empty", full_page=True)


def test_user_that_is_none_is_said_to_be_none(visit: Visit) -> None:
    page = visit().open(user="nobody")

    expect(page.locator("#user .problem")).to_contain_text("There is no visit of this user.")


def test_panels_show_that_they_are_at_work(visit: Visit, picture: Callable[..., Path]) -> None:
    visitor = visit()
    held: list[Any] = []
    visitor.page.route("**/breakdown?*", lambda route: held.append(route))
    visitor.page.route("**compare=previous*", lambda route: held.append(route))
    page = visitor.page
    page.goto(visitor.site.url() + f"#token={TOKEN}")

    expect(page.locator("#card-time .value")).not_to_have_text("–")  # noqa: RUF001
    hits = visitor.answer("summary", period="week")["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{hits:,}"
    expect(page.locator("#browsers")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#card-hits")).to_have_class("card working")
    expect(page.locator("#endpoints")).to_have_attribute("aria-busy", "false")
    picture(page, "at-work")
    for route in held:
        route.continue_()
    page.unroute_all(behavior="ignoreErrors")


def test_at_most_four_questions_are_asked_at_once(visit: Visit) -> None:
    visitor = visit()
    under_way, most = set(), 0

    def began(request: Any) -> None:
        nonlocal most
        if "/dashboard" not in request.url:
            under_way.add(request)
            most = max(most, len(under_way))

    visitor.page.on("request", began)
    visitor.page.on("requestfinished", lambda request: under_way.discard(request))
    visitor.open()

    assert 1 < most <= 4


def test_view_that_is_left_is_not_waited_for(visit: Visit) -> None:
    visitor = visit()
    page = visitor.open()
    held: list[Any] = []
    page.route("**/stats?period=month*", lambda route: held.append(route))

    with page.expect_event("requestfailed", lambda request: "/stats?period=month" in request.url):
        page.check('#periods input[value="month"]', force=True)
        expect(page.locator("#endpoints")).to_have_attribute("aria-busy", "true")
        page.check('#periods input[value="day"]', force=True)

    visitor.wait()
    hits = visitor.answer("summary", period="day")["total_hits"]
    assert page.inner_text("#card-hits .value") == f"{hits:,}"


def test_busy_database_is_asked_again_by_itself(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    asked: list[float] = []

    def refuse_two(route: Any) -> None:
        asked.append(time.monotonic())
        if len(asked) > 2:
            route.continue_()
        else:
            route.fulfill(body=error("storage_unavailable", "the database is busy"), **AGAIN)

    page.route(f"**/{TREND}", refuse_two)
    with page.expect_response(lambda answer: answer.ok and answer.url.endswith(TREND)):
        page.goto(visitor.site.url() + f"#token={TOKEN}")
        expect(page.locator("#trend .problem")).to_contain_text(
            re.compile(r"The database is busy\. Asking again in [12] s\.")
        )

    expect(page.locator("#trend .problem")).to_have_count(0)
    expect(page.locator(".chart path.area")).to_be_visible()
    first, second, third = asked
    assert second - first >= 1
    assert third - second >= 2


def test_question_that_takes_too_long_is_not_asked_again_unbidden(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    timeout = {
        **AGAIN,
        "headers": {},
        "body": error("query_timeout", "this takes longer than 10 s"),
    }
    page.route("**/breakdown?by=browser*", lambda route: route.fulfill(**timeout))
    page.route("**compare=previous*", lambda route: route.fulfill(**timeout))
    visitor.open()

    problem = page.locator("#browsers .problem")
    expect(problem.locator("p")).to_have_text("This takes too long: ask about a shorter time.")
    expect(page.locator("#card-hits .change")).to_have_text("takes too long")
    page.unroute_all()
    problem.get_by_role("button").click()
    expect(problem).to_have_count(0)
    assert cells(page, "#browsers")


def test_many_visits_are_not_counted_by_every_property_unbidden(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page

    def enlarge(route: Any) -> None:
        body = route.fetch().json()
        for row in body["stats"]:
            row["hit_count"] *= 10_000
        route.fulfill(json=body)

    page.route("**/stats?*", enlarge)
    visitor.open()

    assert visitor.asked("breakdown") == []
    page.click("#browsers .empty button")
    visitor.wait()
    assert cells(page, "#browsers")
    assert [query.split("&")[0] for query in visitor.asked("breakdown")] == ["by=browser"]


def test_server_that_is_gone_is_told_and_found_again(
    visit: Visit, empty: Site, picture: Callable[..., Path]
) -> None:
    visitor = visit(empty)
    page = visitor.open()
    server = empty.server
    server.stop(signal.SIGTERM)

    page.check('#periods input[value="day"]', force=True)
    problem = page.locator("#endpoints .problem")
    expect(problem).to_contain_text("The server does not answer. Asking again in")
    expect(page.locator("#health")).to_contain_text("Nobody knows whether tracking is well")
    picture(page, "server-gone", full_page=True)
    server._command[server._command.index("--bind") + 1] = f"127.0.0.1:{server.port}"
    server.start()

    # Each time it waits twice as long as before.
    expect(page.locator(".problem")).to_have_count(0, timeout=60_000)
    expect(page.locator("#endpoints .empty")).to_be_visible()


def test_database_that_is_locked_is_told_and_found_again(
    visit: Visit, empty: Site, tmp_path: Path, picture: Callable[..., Path]
) -> None:
    visitor = visit(empty)
    visitor.page.clock.install()
    page = visitor.open()
    line = page.locator("#health")
    expect(line).to_have_class("good")
    with closing(sqlite3.connect(tmp_path / "visits.db", isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 30000")
        other.execute("BEGIN EXCLUSIVE")
        get(empty.server.port, "/boxes")
        wait_until(lambda: empty.ask("health")["queued"] == 1)  # its end comes behind its answer
        page.check('#periods input[value="day"]', force=True)
        # Who does not get at the lock within a second answers, and says what is still to come.
        problems = page.locator(".problem").filter(has_text="Database is locked;")
        expect(problems.first).to_be_visible()

        page.clock.run_for(61_000)

        expect(line).to_have_class("bad")
        expect(line).to_contain_text("another program holds")
        picture(page, "locked", full_page=True)
        other.execute("ROLLBACK")

    wait_until(lambda: empty.ask("health")["status"] == "ok")

    def is_found_again() -> bool:
        page.clock.run_for(61_000)  # it asks again, unless it is still at that
        return page.locator("#card-hits .value").inner_text() == "1"

    wait_until(is_found_again)
    expect(line).to_have_class("good")
    expect(page.locator(".problem")).to_have_count(0, timeout=60_000)
    visitor.wait()
    assert [row[0] for row in cells(page, "#endpoints")] == ["/boxes"]


def test_tracker_that_is_not_well_says_what_to_do(
    visit: Visit, picture: Callable[..., Path]
) -> None:
    visitor = visit()
    page = visitor.page

    def degrade(route: Any) -> None:
        health = route.fetch().json()
        health.update(status="degraded", problems=["the disk is full: make room"], dropped=1234)
        route.fulfill(json=health)

    page.route("**/health", degrade)
    visitor.open()

    line = page.locator("#health")
    expect(line).to_have_class("bad")
    expect(line).to_contain_text("Tracking has a problem")
    expect(line).to_contain_text("the disk is full: make room")
    page.click("#health summary")
    expect(page.locator("#health li").last).to_have_text("1,234 visits were dropped so far.")
    picture(page, "unhealthy")


def test_warnings_are_told_in_a_word(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page

    def warn(route: Any) -> None:
        route.fulfill(json={**route.fetch().json(), "warnings": ["one thing", "another"]})

    page.route("**/health", warn)
    visitor.open()

    expect(page.locator("#health")).to_have_class("warn")
    expect(page.locator("#health summary")).to_contain_text("2 warnings")


def test_answer_that_is_no_json_is_told(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    page.route("**/live?*", lambda route: route.fulfill(status=404, body="<h1>A proxy</h1>"))
    visitor.open()

    expect(page.locator("#live .problem")).to_contain_text("The server answered 404.")


def test_daily_identity_is_said_of_unique_users(visit: Visit, tmp_path: Path) -> None:
    with serve(tmp_path, ", identity='daily'") as server:
        page = visit(Site(server)).open()

        expect(page.locator("#card-users .below")).to_have_text("of each day, added up")
