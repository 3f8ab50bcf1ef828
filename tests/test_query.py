"""Bad questions get one clear answer: 400, never 500."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from wsgiref.util import setup_testing_defaults

import pytest
import webtest

from wsgi_tracker import Tracker

Client = Callable[..., webtest.TestApp]
# Of all reports, by the same declarations.
COMMON = ["start", "end", "tz", "method", "status", "class"]
REPORTS = {
    "stats": ["period", "limit", "sort", "cursor", "compare", "include", *COMMON],
    "summary": ["period", "compare", "include"],
    "trends": ["granularity", "period", "compare", "fill", "include"],
    "visits": ["limit", "period", "cursor", "include"],
    "breakdown": ["by", "limit", "period"],
    "live": ["minutes"],
    "export": ["format", "order", "cursor", "period"],
    "health": [],
}
BAD_VALUES = {
    "empty": "",
    "blank": "%20",
    "unknown": "fortnight",
    "upper case": "DAY",
    "padded": "%20day",
    "long": "x" * 10_000,
    "NUL": "day%00",
    "new line": "day%0A",
    "quote": "day%27--",
    "no UTF-8": "%ff%fe",
    "broken escape": "%zz",
    "digits of another script": "%D9%A5",
    "zero": "0",
    "negative": "-1",
    "signed": "%2B5",
    "grouped": "1_0",
    "real": "1.5",
    "too large": "1001",
    "huge": "9" * 5000,
    "minus": "-",
    "twice not": "--human",
    "not all": "-all",
    "several": "human,search,",
    "markup": "%3Cscript%3E",
}


@pytest.fixture(
    scope="module", params=[pytest.param("", id="root"), pytest.param("/mounted", id="mounted")]
)
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[webtest.TestApp]:
    """Return the client of one application for hundreds of questions."""
    database = tmp_path_factory.mktemp("api") / "visits.db"
    with Tracker(lambda *args: [], database, ingest=False, require_token=False) as tracker:
        yield webtest.TestApp(tracker, extra_environ={"SCRIPT_NAME": request.param})


@pytest.mark.parametrize("value", [pytest.param(v, id=k) for k, v in BAD_VALUES.items()])
@pytest.mark.parametrize(
    ("report", "parameter"),
    [(report, parameter) for report, parameters in REPORTS.items() for parameter in parameters],
)
def test_bad_value_is_400(report: str, parameter: str, value: str, api: webtest.TestApp) -> None:
    response = api.get(f"/api/tracking/{report}?{parameter}={value}", status=400)

    assert set(response.json) == {"error"}
    error = response.json["error"]
    assert set(error) == {"code", "message", "parameter"}
    assert (error["code"], error["parameter"]) == ("bad_request", parameter)
    assert len(error["message"]) < 400
    assert response.content_type == "application/json"


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize(
    "question",
    [
        pytest.param("nonsense=1", id="unknown"),
        pytest.param("nonsense", id="without value"),
        pytest.param("=day", id="without name"),
        pytest.param("%00=1", id="NUL"),
        pytest.param("x" * 10_000 + "=1", id="long"),
        pytest.param("Period=day", id="other case"),
    ],
)
def test_unknown_parameter_is_400_and_names_the_known(
    report: str, question: str, client: Client
) -> None:
    error = client().get(f"/api/tracking/{report}?{question}", status=400).json["error"]

    assert all(parameter in error["message"] for parameter in REPORTS[report])
    assert len(error["message"]) < 400


@pytest.mark.parametrize("question", ["stats?period=day&period=day", "visits?limit=5&limit=6"])
def test_repeated_parameter_is_400(question: str, client: Client) -> None:
    error = client().get(f"/api/tracking/{question}", status=400).json["error"]

    assert "twice" in error["message"]


def test_message_says_what_was_given_and_what_is_allowed(client: Client) -> None:
    error = client().get("/api/tracking/stats?period=eon", status=400).json["error"]

    assert error["message"] == (
        "period is one of day, week, month, year, all, today, yesterday; given 'eon'"
    )


def test_message_lists_the_classes(client: Client) -> None:
    error = client().get("/api/tracking/stats?class=bot", status=400).json["error"]

    assert error["message"] == (
        "class is one of all, human, search, ai_training, ai_assistant, feed, monitor, preview, "
        "scanner, crawler, tool, empty, unknown, or several with commas, or all others, as -human; "
        "given 'bot'"
    )


@pytest.mark.parametrize("limit", ["1", "50", "1000", "0050"])
def test_limit_within_bounds_is_answered(limit: str, client: Client) -> None:
    assert client().get(f"/api/tracking/visits?limit={limit}").json["count"] == 0


def test_raw_bytes_in_the_query_string_are_400(tracked: Callable[..., Tracker]) -> None:
    environ = {"PATH_INFO": "/api/tracking/stats", "QUERY_STRING": "period=\xff\x80"}
    setup_testing_defaults(environ)
    started: list[str] = []

    list(tracked()(environ, lambda status, headers, exc_info=None: started.append(status)))

    assert started == ["400 BAD REQUEST"]


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        pytest.param("0" * 5000 + "7", 200, id="a number"),
        pytest.param("0" * 10_000, 400, id="nothing else"),
        pytest.param("0" * 5000 + "1001", 400, id="too large"),
    ],
)
def test_thousands_of_zeros_are_no_fault_of_ours(limit: str, status: int, client: Client) -> None:
    """int() refuses more than 4300 digits, leading zeros included."""
    app = client()
    for _ in range(9):
        app.get("/")

    response = app.get(f"/api/tracking/visits?limit={limit}", expect_errors=True)

    assert response.status_int in (status, 400)
    assert response.json.get("count", 7) == 7
    assert len(response.text) < 5000
