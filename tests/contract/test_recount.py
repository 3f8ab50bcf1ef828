"""Reports equal a recount in plain Python, whatever the visits, at every edge."""

from __future__ import annotations

from datetime import datetime, timedelta

import engines
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recount import (
    PERIODS,
    TRENDS,
    UTC,
    count_stats,
    count_summary,
    count_trends,
    edges,
    iso,
    micro,
    moment,
    reporting,
    within,
)

from wsgi_tracker import Visit

pytestmark = pytest.mark.once
moments = st.one_of(
    st.sampled_from(edges()).flatmap(
        lambda edge: st.sampled_from([-1, 0, 1, 999_999]).map(
            lambda shift: edge + timedelta(microseconds=shift)
        )
    ),
    st.datetimes(datetime(2022, 12, 1), datetime(2024, 3, 5)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
)
visits = st.lists(
    st.builds(
        Visit,
        timestamp=moments.map(micro),
        user_hash=st.sampled_from(["a" * 32, "b" * 32, "c" * 32]),
        method=st.sampled_from(["GET", "POST"]),
        endpoint=st.sampled_from(["/", "/boxes", "(unmatched)"]),
        path=st.sampled_from([None, "/boxes/1"]),
        status=st.sampled_from([200, 404, None]),
        user_agent=st.sampled_from([None, "Mozilla"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"])
@settings(max_examples=engines.examples(15))
@given(recorded=visits)
def test_reports_equal_a_recount(recorded: list[Visit], zone: str) -> None:
    with reporting(recorded, zone) as client:
        for period, days in PERIODS.items():
            stats = client.get(f"/api/tracking/stats?period={period}").json
            summary = client.get(f"/api/tracking/summary?period={period}").json
            inside = within(recorded, days)
            assert stats["stats"] == count_stats(inside)
            assert stats["total_endpoints"] == summary["total_endpoints"]
            assert summary == {
                "period": period,
                "tracking_active": True,
                **count_summary(inside),
            }
        for period, days in TRENDS.items():
            for granularity in ("hour", "day", "week", "month"):
                question = f"granularity={granularity}&period={period}"
                trends = client.get(f"/api/tracking/trends?{question}").json["trends"]
                assert trends == count_trends(within(recorded, days), granularity, zone)
        newest = client.get("/api/tracking/visits?limit=10").json["visits"]
        assert [visit["timestamp"] for visit in newest] == [
            iso([moment(visit)], max) for visit in sorted(recorded, key=moment, reverse=True)[:10]
        ]
