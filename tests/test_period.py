"""Where windows and buckets begin, and what they are called."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi_tracker.errors import ConfigurationError
from wsgi_tracker.period import (
    DAY,
    PERIODS,
    SLOT,
    TREND_PERIODS,
    Granularity,
    bucket_label,
    bucket_start,
    first_whole,
    iso_timestamp,
    load_zone,
    next_bucket,
    window_start,
)

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LAST = 253402300799999999  # the end of the year 9999
STEP = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}


def micro(text: str) -> int:
    """Return microseconds since the epoch, without a float on the way."""
    return (datetime.fromisoformat(text + "+00:00") - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("granularity", "moment", "label"),
    [
        pytest.param("hour", "2025-08-13T15:00:00", "2025-08-13T15:00:00Z", id="first of an hour"),
        pytest.param("hour", "2025-08-13T15:59:59.999999", "2025-08-13T15:00:00Z", id="its last"),
        pytest.param("hour", "2024-12-31T23:59:59.999999", "2024-12-31T23:00:00Z", id="year's end"),
        pytest.param("day", "2025-08-13T00:00:00", "2025-08-13", id="midnight"),
        pytest.param("day", "2025-08-12T23:59:59.999999", "2025-08-12", id="before midnight"),
        pytest.param("day", "2024-02-29T12:00:00", "2024-02-29", id="leap day"),
        pytest.param("week", "2025-08-11T00:00:00", "2025-08-11", id="Monday"),
        pytest.param("week", "2025-08-10T23:59:59.999999", "2025-08-04", id="Sunday"),
        pytest.param("week", "2024-12-31T12:00:00", "2024-12-30", id="week that ends next year"),
        pytest.param("week", "2025-01-01T00:00:00", "2024-12-30", id="week begun last year"),
        pytest.param("week", "2023-01-01T12:00:00", "2022-12-26", id="Sunday, New Year's Day"),
        pytest.param("week", "2024-01-01T00:00:00", "2024-01-01", id="Monday, New Year's Day"),
        pytest.param("week", "2024-03-03T23:59:59.999999", "2024-02-26", id="over a leap day"),
        pytest.param("week", "1970-01-01T00:00:00", "1969-12-29", id="the epoch's Monday"),
        pytest.param("week", "1970-01-05T00:00:00", "1970-01-05", id="the first whole week"),
        pytest.param("month", "2025-08-01T00:00:00", "2025-08", id="first of a month"),
        pytest.param("month", "2025-07-31T23:59:59.999999", "2025-07", id="31 days"),
        pytest.param("month", "2025-04-30T23:59:59.999999", "2025-04", id="30 days"),
        pytest.param("month", "2024-02-29T23:59:59.999999", "2024-02", id="29 days"),
        pytest.param("month", "2025-02-28T23:59:59.999999", "2025-02", id="28 days"),
        pytest.param("month", "2000-02-29T00:00:00", "2000-02", id="leap century"),
        pytest.param("month", "2025-12-31T23:59:59.999999", "2025-12", id="December"),
        pytest.param("month", "1970-01-01T00:00:00", "1970-01", id="the epoch's month"),
    ],
)
def test_moment_lies_in_the_bucket_of_its_label(granularity: str, moment: str, label: str) -> None:
    kind = Granularity(granularity)

    assert bucket_label(kind, bucket_start(kind, micro(moment))) == label


@given(st.integers(0, LAST - 2 * DAY), st.sampled_from(Granularity))
@example(LAST - 2 * DAY, Granularity.MONTH)
def test_bucket_is_the_calendars(timestamp: int, granularity: Granularity) -> None:
    moment = EPOCH + timedelta(microseconds=timestamp)

    start = EPOCH + timedelta(microseconds=bucket_start(granularity, timestamp))

    assert start <= moment
    assert (start.minute, start.second, start.microsecond) == (0, 0, 0)
    if granularity is Granularity.MONTH:
        assert (start.year, start.month, start.day, start.hour) == (moment.year, moment.month, 1, 0)
    else:
        assert moment - start < STEP[granularity.value]
        assert granularity is Granularity.HOUR or start.hour == 0
        assert granularity is not Granularity.WEEK or start.weekday() == 0


@pytest.mark.parametrize(
    ("length", "before"),
    [
        pytest.param(PERIODS["day"], "2025-08-12T10:30:00.000001", id="day"),
        pytest.param(PERIODS["week"], "2025-08-06T10:30:00.000001", id="week"),
        pytest.param(PERIODS["month"], "2025-07-14T10:30:00.000001", id="month: 30 days"),
        pytest.param(PERIODS["year"], "2024-08-13T10:30:00.000001", id="year: 365 days"),
        pytest.param(PERIODS["all"], "1970-01-01T00:00:00", id="all"),
        pytest.param(TREND_PERIODS["24h"], "2025-08-12T10:30:00.000001", id="24h"),
        pytest.param(TREND_PERIODS["7d"], "2025-08-06T10:30:00.000001", id="7d"),
        pytest.param(TREND_PERIODS["30d"], "2025-07-14T10:30:00.000001", id="30d"),
        pytest.param(TREND_PERIODS["1y"], "2024-08-13T10:30:00.000001", id="1y"),
    ],
)
def test_window_reaches_back_by_its_length(length: int | None, before: str) -> None:
    now = micro("2025-08-13T10:30:00.000001")

    assert window_start(length, now) == micro(before)


def test_window_does_not_begin_before_the_epoch() -> None:
    assert window_start(PERIODS["year"], micro("1970-01-02T00:00:00")) == 0


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        pytest.param("2025-08-13T15:30:00", "2025-08-13T15:30:00Z", id="whole"),
        pytest.param("2025-08-13T15:30:00.999999", "2025-08-13T15:30:00Z", id="rounded down"),
        pytest.param("1970-01-01T00:00:00.000001", "1970-01-01T00:00:00Z", id="the epoch"),
        pytest.param("9999-12-31T23:59:59.999999", "9999-12-31T23:59:59Z", id="the last"),
    ],
)
def test_timestamp_is_shown_in_whole_seconds(moment: str, shown: str) -> None:
    assert iso_timestamp(micro(moment)) == shown


@pytest.mark.parametrize(
    ("zone", "moment", "hour", "day"),
    [
        pytest.param("Europe/Berlin", "2025-03-30T00:59", "00:00", "2025-03-29T23:00", id="before"),
        pytest.param("Europe/Berlin", "2025-03-30T01:00", "01:00", "2025-03-29T23:00", id="set on"),
        pytest.param("Europe/Berlin", "2025-10-26T00:30", "00:00", "2025-10-25T22:00", id="2 a.m."),
        pytest.param("Europe/Berlin", "2025-10-26T01:30", "01:00", "2025-10-25T22:00", id="again"),
        pytest.param("Asia/Kathmandu", "2025-08-13T18:14", "17:15", "2025-08-12T18:15", id=":45"),
        pytest.param(
            "America/Sao_Paulo", "2018-11-04T03:30", "03:00", "2018-11-04T03:00", id="no 0"
        ),
        pytest.param("Pacific/Apia", "2011-12-30T10:30", "10:00", "2011-12-30T10:00", id="no 30th"),
    ],
)
def test_hours_and_days_are_those_of_the_zone(zone: str, moment: str, hour: str, day: str) -> None:
    at, local = micro(moment), load_zone(zone)

    assert iso_timestamp(bucket_start(Granularity.HOUR, at, local))[11:16] == hour
    assert iso_timestamp(bucket_start(Granularity.DAY, at, local))[:16] == day


@settings(max_examples=500)
@given(
    st.sampled_from(sorted(available_timezones())),
    st.integers(micro("1972-02-01T00:00"), LAST - 60 * DAY),
    st.sampled_from(Granularity),
)
# Clocks set back and on by half an hour, or a quarter at midnight.
@example("Australia/Lord_Howe", micro("2025-04-05T15:00"), Granularity.HOUR)
@example("Australia/Lord_Howe", micro("2025-10-04T15:30"), Granularity.HOUR)
@example("Asia/Pyongyang", micro("2015-08-14T15:00"), Granularity.HOUR)
@example("Asia/Kathmandu", micro("1985-12-31T18:30"), Granularity.HOUR)
@example("Asia/Kathmandu", micro("1985-12-31T18:30"), Granularity.DAY)
@example("UTC", micro("9999-12-05T10:30"), Granularity.HOUR)
@example("UTC", micro("9999-12-05T10:30"), Granularity.WEEK)
def test_buckets_follow_each_other_in_every_zone(
    zone: str, timestamp: int, granularity: Granularity
) -> None:
    local = load_zone(zone)

    start = bucket_start(granularity, timestamp, local)
    end = next_bucket(granularity, start, local)

    assert start <= timestamp < end
    assert start % SLOT == end % SLOT == 0
    assert bucket_start(granularity, end - 1, local) == start
    assert bucket_start(granularity, end, local) == end
    assert first_whole(granularity, start, local) == start
    assert first_whole(granularity, start + 1, local) == end
    assert bucket_start(Granularity.HOUR, start, local) == start  # it begins with a whole hour


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "Europe", "x" * 300, None])
def test_zone_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="timezone is a name such as UTC"):
        load_zone(name)
