"""Every answer equals a recount in plain Python: of filters, ranges, zones and comparisons."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import engines
import pytest
import webtest
from hypothesis import given, settings
from hypothesis import strategies as st
from recount import (
    EPOCH,
    NOW,
    PERIODS,
    TRENDS,
    UTC,
    bucket,
    count_stats,
    count_summary,
    count_trends,
    edges,
    iso,
    micro,
    moment,
    reporting,
)

from wsgi_tracker import Visit

pytestmark = pytest.mark.once
AGENTS = {
    None: ("empty", None, None),
    "curl/8.1": ("tool", None, None),
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0": (
        "human",
        "Firefox",
        "Linux",
    ),
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": (
        "search",
        None,
        None,
    ),
}
REFERERS = {
    None: None,
    "https://a.example/links": "a.example",
    "https://A.example:8080/": "a.example",
    "http://[::1]:80/x": "[::1]",
    "about:blank": None,
}
ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]
moments = st.one_of(
    st.sampled_from(edges()).flatmap(
        lambda edge: st.sampled_from([-1, 0, 1, 999_999]).map(
            lambda shift: edge + timedelta(microseconds=shift)
        )
    ),
    st.datetimes(datetime(2023, 10, 20), datetime(2023, 11, 1)).map(
        lambda found: found.replace(tzinfo=UTC)
    ),
    st.datetimes(NOW.replace(tzinfo=None) - timedelta(days=3), datetime(2024, 3, 5)).map(
        lambda found: found.replace(tzinfo=UTC)
    ),
)
visits = st.lists(
    st.builds(
        Visit,
        timestamp=moments.map(micro),
        user_hash=st.sampled_from(["a" * 32, "b" * 32, None]),
        method=st.sampled_from(["GET", "POST"]),
        endpoint=st.sampled_from(["/", "/boxes", "/boxes/<int>", "(unmatched)", "-odd"]),
        path=st.sampled_from([None, "/boxes", "/boxes/1"]),
        status=st.sampled_from([200, 204, 302, 404, 403, 500, None]),
        duration_us=st.sampled_from([None, 0, 5, 100, 20_000, 3_000_000]),
        bytes_sent=st.sampled_from([None, 0, 1000]),
        error=st.sampled_from([None, "ValueError", "client_left"]),
        ip_address=st.sampled_from([None, "192.0.2.1", "2001:db8::1"]),
        user_agent=st.sampled_from(list(AGENTS)),
        referer=st.sampled_from(list(REFERERS)),
        host=st.sampled_from([None, "shop.example"]),
    ),
    max_size=30,
)
FIELDS: dict[str, Callable[[Visit], str | None]] = {
    "endpoint": lambda v: v.endpoint,
    "method": lambda v: v.method,
    "status": lambda v: None if v.status is None else str(v.status),
    "class": lambda v: AGENTS[v.user_agent][0],
    "path": lambda v: v.path or v.endpoint,
    "host": lambda v: v.host,
    "referer": lambda v: v.referer,
    "referer_host": lambda v: REFERERS[v.referer],
    "browser": lambda v: AGENTS[v.user_agent][1],
    "system": lambda v: AGENTS[v.user_agent][2],
    "user_agent": lambda v: v.user_agent,
    "error": lambda v: v.error,
    "ip_address": lambda v: v.ip_address,
    "user_hash": lambda v: v.user_hash,
}
ASKED: dict[str, list[str]] = {
    "endpoint": ["/boxes", "/boxes*", "*", "/boxes/<int>", "[-]odd", "/?oxes", "/[!b]*", "none"],
    "method": ["GET", "POST", "GET,POST", "PUT", "(other)"],
    "status": ["404", "4xx", "200,5xx", "2xx,404,301", "100"],
    "class": ["human", "tool", "empty", "human,search", "feed"],
    "path": ["/boxes", "/boxes/*", "*"],
    "host": ["shop.example", "", "*.example"],
    "referer": ["", "https://a.example/*", "https://a.example/links", "*"],
    "referer_host": ["a.example", "", "[[]::1]", "a.*"],
    "browser": ["Firefox", "", "Fire*"],
    "system": ["Linux", ""],
    "user_agent": ["curl/8.1", "", "*Googlebot*"],
    "error": ["ValueError", "", "*"],
    "ip_address": ["192.0.2.1", "2001:db8::*", ""],
    "user_hash": ["a" * 32, "", "*"],
}
filters = st.dictionaries(
    st.sampled_from(sorted(ASKED)), st.tuples(st.integers(0, 7), st.booleans()), max_size=3
).map(
    lambda chosen: {
        name: "-" * excluded + ASKED[name][number % len(ASKED[name])]
        for name, (number, excluded) in chosen.items()
    }
)
dates = st.dates(datetime(2023, 10, 20).date(), datetime(2024, 3, 5).date())
ends = st.one_of(dates, moments)


@dataclass
class Asked:
    """A question, and which visits it is about."""

    parameters: dict[str, str]
    start: datetime
    end: datetime | None
    before: tuple[datetime, datetime] | None
    zone: str

    def within(self, recorded: Iterable[Visit]) -> list[Visit]:
        return [v for v in recorded if self._is_between(v, self.start, self.end)]

    def earlier(self, recorded: Iterable[Visit]) -> list[Visit]:
        assert self.before is not None
        return [v for v in recorded if self._is_between(v, *self.before)]

    def _is_between(self, visit: Visit, start: datetime, end: datetime | None) -> bool:
        at = moment(visit)
        is_there = start <= at and (end is None or at < end)
        return is_there and all(
            fits(FIELDS[name](visit), value)
            for name, value in self.parameters.items()
            if name in FIELDS
        )


def fits(text: str | None, wanted: str) -> bool:
    value = wanted.removeprefix("-")
    found = any(_fits_one(text, each) for each in (value.split(",") if value else [""]))
    return found is (value == wanted)


def _fits_one(text: str | None, value: str) -> bool:
    if not value or text is None:
        return text is None and not value
    if re.fullmatch("[1-5]xx", value):
        return text[0] == value[0]
    return text == value or fnmatchcase(text, value)


def first_moment(given: Any, zone: str) -> datetime:
    if isinstance(given, datetime):
        return given
    start = datetime(given.year, given.month, given.day, tzinfo=ZoneInfo(zone))
    return start.astimezone(UTC)


def written(given: Any) -> str:
    return given.isoformat().replace("+00:00", "Z")


@st.composite
def questions(draw: Any, periods: dict[str, int | None], zone: str) -> Asked:
    parameters = draw(filters)
    tz = draw(st.none() | st.sampled_from(ZONES))
    if tz is not None:
        parameters["tz"] = tz
    zone = tz or zone
    kind = draw(st.sampled_from(["period", "period", "day", "range"]))
    if kind == "period":
        period = draw(st.sampled_from(sorted(periods)))
        parameters["period"] = period
        days = periods[period]
        if days is None:
            return Asked(parameters, EPOCH, None, None, zone)
        start = NOW - timedelta(days=days)
        return Asked(parameters, start, None, (start - timedelta(days=days), start), zone)
    local = NOW.astimezone(ZoneInfo(zone)).date()
    today, yesterday, eve = (first_moment(local - timedelta(days=days), zone) for days in (0, 1, 2))
    if kind == "day":
        parameters["period"] = draw(st.sampled_from(["today", "yesterday"]))
        if parameters["period"] == "today":
            return Asked(parameters, today, None, (yesterday, yesterday + (NOW - today)), zone)
        return Asked(parameters, yesterday, today, (eve, yesterday), zone)
    first, last = draw(ends), draw(st.none() | ends)
    start, end = first_moment(first, zone), None if last is None else first_moment(last, zone)
    if end is not None and end <= start:
        first, last, start, end = last, first, end, start
    if end == start:
        last = end = None
    parameters["start"] = written(first)
    if end is not None:
        parameters["end"] = written(last)
    length = max(timedelta(0), (NOW if end is None else end) - start)
    return Asked(parameters, start, end, (start - length, start), zone)


def get(client: webtest.TestApp, report: str, asked: Asked, **more: str) -> Any:
    return client.get(f"/api/tracking/{report}?{urlencode({**asked.parameters, **more})}").json


both = st.sampled_from(ZONES).flatmap(
    lambda zone: st.tuples(
        st.just(zone),
        questions(PERIODS, zone),
        questions(TRENDS, zone),  # type: ignore[arg-type]
    )
)
thoroughly = settings(max_examples=engines.examples(25))


@thoroughly
@given(visits, both, st.sampled_from(["hour", "day", "week", "month"]))
def test_answers_equal_a_recount(
    recorded: list[Visit], about: tuple[str, Asked, Asked], granularity: str
) -> None:
    zone, asked, of_trends = about
    compare = {"compare": "previous"} if asked.before else {}
    with reporting(recorded, zone) as client:
        stats = get(client, "stats", asked, **compare)
        summary = get(client, "summary", asked, **compare)
        trends = get(client, "trends", of_trends, granularity=granularity)
        newest = get(client, "visits", asked, limit="1000")

    inside = asked.within(recorded)
    assert stats["stats"] == count_stats(inside)
    assert stats["total_endpoints"] == summary["total_endpoints"]
    assert summary.items() >= count_summary(inside).items()
    if asked.before:
        earlier = asked.earlier(recorded)
        assert stats["previous"]["stats"] == count_stats(earlier)
        assert summary["previous"].items() >= count_summary(earlier).items()
    expected = count_trends(of_trends.within(recorded), granularity, of_trends.zone)
    assert trends["trends"] == expected
    assert newest["count"] == len(inside)
    assert [v["timestamp"] for v in newest["visits"]] == [
        iso([moment(v)], max) for v in sorted(inside, key=moment, reverse=True)
    ]


BREAKDOWNS = [name for name in FIELDS if name not in ("endpoint", "user_hash")]


@thoroughly
@given(visits, both, st.sampled_from(BREAKDOWNS))
def test_breakdowns_equal_a_recount(
    recorded: list[Visit], about: tuple[str, Asked, Asked], by: str
) -> None:
    zone, asked, _ = about
    with reporting(recorded, zone) as client:
        answer = get(client, "breakdown", asked, by=by)

    hits = Counter(FIELDS[by](v) for v in asked.within(recorded))
    users = {(FIELDS[by](v), v.user_hash) for v in asked.within(recorded) if v.user_hash}
    counted = {row["value"]: (row["hits"], row["unique_users"]) for row in answer["breakdown"]}
    assert counted == {
        value: (count, sum(value == of for of, _ in users)) for value, count in hits.items()
    }
    assert answer["total_values"] == len(answer["breakdown"]) == len(hits)
    assert [row["hits"] for row in answer["breakdown"]] == sorted(hits.values(), reverse=True)


def statuses(some: list[Visit]) -> dict[str, int]:
    found = Counter(str(v.status or 0)[0] for v in some)
    known = {f"{number}xx": found.pop(str(number), 0) for number in (2, 3, 4, 5)}
    return {**known, "other": sum(found.values())}


def check_outcomes(row: dict[str, Any], some: list[Visit]) -> None:
    assert row["status"] == statuses(some)
    assert row["error_rate"] == (row["status"]["5xx"] / len(some) if some else None)
    assert row["bytes_sent"] == sum(v.bytes_sent or 0 for v in some)
    known = sorted(v.duration_us for v in some if v.duration_us is not None)
    for percent in (50, 90, 99):
        found = row["duration_us"][f"p{percent}"]
        if not known:
            assert found is None
            continue
        exact = max(1, known[max(1, -(-percent * len(known) // 100)) - 1])
        assert exact / 1.091 - 0.5 <= found <= exact * 1.091 + 0.5


@thoroughly
@given(visits, both, st.sampled_from(["hour", "day", "week", "month"]))
def test_outcomes_equal_a_recount(
    recorded: list[Visit], about: tuple[str, Asked, Asked], granularity: str
) -> None:
    zone, asked, of_trends = about
    include = {"include": "status,latency,bytes"}
    with reporting(recorded, zone) as client:
        stats = get(client, "stats", asked, **include)
        summary = get(client, "summary", asked, **include)
        trends = get(client, "trends", of_trends, granularity=granularity, **include)

    inside = asked.within(recorded)
    check_outcomes(summary, inside)
    for row in stats["stats"]:
        place = (row["endpoint"], row["method"])
        check_outcomes(row, [v for v in inside if (v.endpoint, v.method) == place])
    inside = of_trends.within(recorded)
    for row in trends["trends"]:
        label = row["time_bucket"]
        check_outcomes(row, [v for v in inside if bucket(v, granularity, of_trends.zone) == label])


def sessions_of(some: list[Visit]) -> list[list[Visit]]:
    found: list[list[Visit]] = []
    for user in {v.user_hash for v in some if v.user_hash}:
        last = None
        for visit in sorted((v for v in some if v.user_hash == user), key=moment):
            if last is None or moment(visit) - moment(last) > timedelta(minutes=30):
                found.append([])
            found[-1].append(visit)
            last = visit
    return found


@thoroughly
@given(visits, both)
def test_sessions_equal_a_recount(recorded: list[Visit], about: tuple[str, Asked, Asked]) -> None:
    zone, asked, _ = about
    with reporting(recorded, zone) as client:
        found = get(client, "summary", asked, include="sessions")["sessions"]

    sessions = sessions_of(asked.within(recorded))
    lengths = [s[-1].timestamp - s[0].timestamp for s in sessions]
    assert found == {
        "count": len(sessions),
        "bounces": sum(len(session) == 1 for session in sessions),
        "average_visits": round(sum(map(len, sessions)) / len(sessions), 3) if sessions else None,
        "average_duration_seconds": (
            round(sum(lengths) / 1_000_000 / len(sessions), 3) if sessions else None
        ),
    }


@thoroughly
@given(visits, both)
def test_path_of_a_user_equals_a_recount(
    recorded: list[Visit], about: tuple[str, Asked, Asked]
) -> None:
    zone, asked, _ = about
    asked.parameters.pop("user_hash", None)
    own = [v for v in recorded if v.user_hash == "a" * 32]
    with reporting(recorded, zone) as client:
        question = f"/api/tracking/users/{'a' * 32}?{urlencode(asked.parameters)}"
        if not own:
            client.get(question, status=404)
            return
        answer = client.get(question).json

    inside = asked.within(own)
    sessions = sorted(sessions_of(inside), key=lambda s: s[0].timestamp, reverse=True)
    assert answer["visits"] == len(inside)
    assert answer["first_visit"] == iso([moment(v) for v in inside], min)
    assert answer["endpoints"] == count_stats(inside)
    assert [
        (s["visits"], s["start"], s["end"], s["cut"], s["duration_seconds"]) for s in answer["path"]
    ] == [
        (
            len(s),
            iso([moment(s[0])], max),
            iso([moment(s[-1])], max),
            False,
            round((s[-1].timestamp - s[0].timestamp) / 1_000_000, 3),
        )
        for s in sessions
    ]
    steps = Counter(
        (step["timestamp"], step["path"]) for s in answer["path"] for step in s["steps"]
    )
    assert steps == Counter((iso([moment(v)], max), v.path or v.endpoint) for v in inside)


@thoroughly
@given(visits, both, st.integers(1, 4))
def test_pages_are_the_whole(
    recorded: list[Visit], about: tuple[str, Asked, Asked], size: int
) -> None:
    zone, asked, _ = about
    with reporting(recorded, zone) as client:
        whole = get(client, "visits", asked, limit="1000")["visits"]
        pages = list(follow(client, "visits", asked, limit=str(size)))
        sorts = ["-hit_count", "endpoint", "-p90", "error_rate", "last_access"]
        for sort in sorts:
            rows = get(client, "stats", asked, sort=sort)["stats"]
            by_page = list(follow(client, "stats", asked, limit=str(size), sort=sort))
            assert [row for page in by_page for row in page["stats"]] == rows
            assert {page["total_endpoints"] for page in by_page} == {
                len({row["endpoint"] for row in rows})
            }

    assert [row for page in pages for row in page["visits"]] == whole
    assert all(page["count"] <= size for page in pages)


def follow(client: webtest.TestApp, report: str, asked: Asked, **more: str) -> Iterable[Any]:
    """Yield every page, by the links between them."""
    url = f"?{urlencode({**asked.parameters, **more})}"
    while True:
        response = client.get(f"/api/tracking/{report}{url}")
        yield response.json
        if "Link" not in response.headers:
            return
        found = re.fullmatch(r'<(\?[^>]*)>; rel="next"', response.headers["Link"])
        assert found is not None
        url = found[1]


@thoroughly
@given(
    visits,
    both,
    st.sampled_from(["ndjson", "csv"]),
    st.sampled_from(["time", "arrival"]),
    st.integers(1, 9),
)
def test_export_has_every_visit_once(
    recorded: list[Visit], about: tuple[str, Asked, Asked], form: str, order: str, size: int
) -> None:
    zone, asked, _ = about
    with pytest.MonkeyPatch.context() as patch, reporting(recorded, zone) as client:
        patch.setattr("wsgi_tracker.export.VISITS_PER_PAGE", size)
        parameters = {**asked.parameters, "format": form, "order": order}
        url = f"/api/tracking/export?{urlencode(parameters)}"
        rows = exported(client.get(url), form)
        middle = rows[len(rows) // 2 : len(rows) // 2 + 1]
        rest = exported(client.get(f"{url}&cursor={middle[0]['cursor']}"), form) if middle else []

    inside = list(asked.within(recorded))
    if order == "time":
        inside.sort(key=moment)
    assert [row["timestamp"] for row in rows] == [v.timestamp for v in inside]
    assert len({row["cursor"] for row in rows}) == len(rows)
    assert Counter(json.dumps(row | {"cursor": ""}) for row in rows) == Counter(
        json.dumps(json.loads(visit.line()) | {"cursor": ""})
        for visit in map(without_own_path, inside)
    )
    assert rest == rows[len(rows) // 2 + 1 :]


def without_own_path(visit: Visit) -> Visit:
    return replace(visit, path=None) if visit.path == visit.endpoint else visit


def exported(response: Any, form: str) -> list[dict[str, Any]]:
    if form == "ndjson":
        return [json.loads(line) for line in response.text.splitlines()]
    numbers = {"status", "duration_us", "first_byte_us", "bytes_sent"}
    rows = []
    names = [*Visit.__dataclass_fields__, "cursor"]
    for row in csv.reader(response.text.splitlines()):
        if row == names:
            continue
        found: dict[str, Any] = {
            name: None if value == "" else int(value) if name in numbers else value
            for name, value in zip(names, row, strict=True)
        }
        found["endpoint"] = found["endpoint"].removeprefix("'")
        found["timestamp"] = micro(
            datetime.fromisoformat(found["timestamp"].replace("Z", "+00:00"))
        )
        rows.append(found)
    return rows


@thoroughly
@given(visits, both, st.sampled_from(["hour", "day", "week", "month"]))
def test_filled_trends_have_every_bucket_once(
    recorded: list[Visit], about: tuple[str, Asked, Asked], granularity: str
) -> None:
    zone, _, asked = about
    with reporting(recorded, zone) as client:
        plain = get(client, "trends", asked, granularity=granularity)["trends"]
        filled = get(client, "trends", asked, granularity=granularity, fill="true")["trends"]

    partial = {row["time_bucket"]: row.pop("partial") for row in filled}
    assert [row for row in filled if row["hits"]] == plain
    labels = [row["time_bucket"] for row in filled]
    assert labels == sorted(set(labels), reverse=True)
    # Every moment to now that the question is about has its bucket, and every visit.
    end = min(asked.end or NOW, NOW)
    step = timedelta(hours=1 if granularity == "hour" else 12)
    times = [asked.start + step * n for n in range((end - asked.start) // step + 1)]
    times = [at for at in times if at < end]
    if end > asked.start:
        times.append(end - timedelta(microseconds=1))
    times += map(moment, asked.within(recorded))
    assert set(labels) == {label(at, granularity, asked.zone) for at in times}
    # What lies before the start is left out, and what is behind the end, or now, may still come.
    before = label(asked.start - timedelta(microseconds=1), granularity, asked.zone)
    behind = label(end, granularity, asked.zone)
    assert {each for each in labels if partial[each]} == {
        each for each in labels if each == before or each >= behind
    }


def label(at: datetime, granularity: str, zone: str) -> str:
    return bucket(Visit(micro(at), None, "GET", "/"), granularity, zone)
