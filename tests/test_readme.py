"""README and docs are the manual: what they show runs, what they list is what there is."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import webtest

from wsgi_tracker import Tracker
from wsgi_tracker.answers import MAX_BUCKETS
from wsgi_tracker.latency import ERROR_PERCENT
from wsgi_tracker.paging import SORTS
from wsgi_tracker.query import (
    BREAKDOWN,
    EXPORT,
    FILTER_PARAMETERS,
    LIVE,
    RANGE,
    STATS,
    SUMMARY,
    TRENDS,
    USER,
    VISITS,
)
from wsgi_tracker.selection import BREAKDOWNS, FILTERS
from wsgi_tracker.visit import METHODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


def table(header: str, text: str = README) -> list[list[str]]:
    """Return the cells of the table whose header row begins with ``header``."""
    rows = text[text.index(f"| {header} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def block(language: str, containing: str) -> str:
    """Return the code block that contains some text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README + OPERATING + API, re.DOTALL)
    return next(text for text in blocks if containing in text)


def test_first_example_runs_as_printed(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("python", "# shop.py").replace("8000", "0"))
    script = (
        "import shop, wsgiref.simple_server as s;"
        "server = s.make_server('127.0.0.1', 0, shop.app);"
        "print(server.server_port, flush=True);"
        "server.serve_forever()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"

            with urllib.request.urlopen(f"{url}/boxes", timeout=30) as answer:
                page = answer.read()
            with urllib.request.urlopen(
                f"{url}/api/tracking/stats?period=week", timeout=30
            ) as answer:
                report = json.load(answer)
        finally:
            server.kill()

    printed = block("console", "pip install wsgi-tracker")
    shown = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert page.decode() in printed
    for key in ("last_access", "first_access"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["stats"][0].pop(key))
        assert report["stats"][0].pop(key)
    assert report == shown


def test_file_of_two_lines_is_what_servers_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start_response): ...")
    monkeypatch.syspath_prepend(tmp_path)
    file: dict[str, Tracker] = {}

    exec(block("python", "# wsgi.py").replace("/srv/shop", str(tmp_path)), file)  # noqa: S102

    with file["application"]:
        assert (tmp_path / "visits.db").exists()


def test_option_table_lists_signature() -> None:
    parameters = list(inspect.signature(Tracker).parameters.values())[1:]

    documented = {name.strip("`"): default.strip("`") for name, default, _ in table("option")}

    assert documented == {
        parameter.name: repr(parameter.default).replace("'", '"') for parameter in parameters
    }


PARAMETERS: dict[str, tuple[Any, ...]] = {
    "stats": STATS,
    "summary": SUMMARY,
    "trends": TRENDS,
    "visits": VISITS,
    "breakdown": BREAKDOWN,
    "users/<user_hash>": USER,
    "live": LIVE,
    "export": EXPORT,
    "health": (),
    "metrics": (),
    "openapi.json": (),
}
COMMON = {parameter.name for parameter in (*RANGE, *FILTER_PARAMETERS)}


@pytest.mark.parametrize("path", PARAMETERS)
def test_parameters_of_each_path_are_documented(path: str) -> None:
    rows = {cells[0].strip("`"): cells[1] for cells in table("path", API)}

    documented = re.findall(r"`(\w+)`", rows[path])

    assert list(rows) == list(PARAMETERS)
    own = [parameter.name for parameter in PARAMETERS[path] if parameter.name not in COMMON]
    assert sorted(documented) == sorted(own)


def test_every_path_is_in_the_readme() -> None:
    paths = {
        cells[0].strip("`").removeprefix("/api/tracking/").partition("?")[0]
        for cells in table("path")
    }

    assert paths == {*PARAMETERS, "dashboard"}


def test_every_filter_is_documented() -> None:
    """In their order."""
    assert [cells[0].strip("`") for cells in table("parameter | visits", API)] == FILTERS


def test_times_are_documented() -> None:
    names = {
        name
        for cells in table("parameter | means", API)
        for name in re.findall(r"`(\w+)`", cells[0])
    }

    assert names == {*(parameter.name for parameter in RANGE), "period", "compare"}


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        pytest.param("## Breakdowns", BREAKDOWNS, id="breakdowns"),
        pytest.param("## Pages", SORTS, id="sorts"),
    ],
)
def test_words_are_documented(heading: str, words: list[str]) -> None:
    section = API[API.index(heading) :].partition("\n## ")[0]

    assert set(words) <= set(re.findall(r"`(\w+)`", section))


def test_limits_are_documented() -> None:
    assert f"at most {MAX_BUCKETS:,} in all" in API
    assert f"within {ERROR_PERCENT} % either way" in API


def test_health_is_shown_with_every_key_in_its_order(tmp_path: Path) -> None:
    with Tracker(lambda environ, start_response: [], tmp_path / "visits.db") as tracker:
        health = webtest.TestApp(tracker).get("/api/tracking/health").json

    shown = json.loads(block("json", '"status"'))
    assert list(shown) == list(health)
    assert shown["schema"] == health["schema"]


def test_every_choice_is_documented() -> None:
    for parameter in (*STATS, *SUMMARY, *TRENDS, *BREAKDOWN, *EXPORT):
        for choice in getattr(parameter, "choices", ()):
            assert f"`{choice.removeprefix('-')}`" in README + API or f"={choice}" in README + API


@pytest.mark.parametrize("framework", ["Django", "Pyramid", "Falcon"])
def test_line_for_routes_is_in_the_example(framework: str) -> None:
    """And examples run, in a test of their own."""
    lines = {name: line for name, line, _ in table("routes of")}
    line = lines[framework].strip("`").removeprefix("MIDDLEWARE = ")
    example = (ROOT / "examples" / f"{framework.lower()}_app.py").read_text()

    assert re.sub(r"(?<=\[)wsgi_tracker\.\w+\.\w+\.|, \.\.\.", "", line) in example


def test_methods_that_are_kept_are_documented() -> None:
    paragraph = README[README.index("The method is the one") :].partition("\n\n")[0]
    rfc_9110 = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE"}

    assert rfc_9110.union(re.findall(r"`([A-Z]+)`", paragraph)) == METHODS


def test_columns_of_view_are_documented(tmp_path: Path) -> None:
    import sqlite3

    with Tracker(lambda environ, start_response: [], tmp_path / "visits.db", require_token=False):
        database = sqlite3.connect(tmp_path / "visits.db")
        columns = [row[1] for row in database.execute("PRAGMA table_info(user_visits)")]
        database.close()

    paragraph = README[README.index("The view `user_visits`") :].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", paragraph)[1:] == columns[1:]


def test_demo_records_every_request_it_sends_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environ.pop("XDG_RUNTIME_DIR", None)  # else gunicorn's socket would be there
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('not for the demonstration')")
    demo = subprocess.run(
        [sys.executable, "-m", "wsgi_tracker", "demo", "--seconds", "1"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert demo.returncode == 0, demo.stderr
    sent, recorded = re.findall(r"(\d+) requests sent to 2 workers, (\d+) visits", demo.stdout)[0]
    assert int(sent) == int(recorded) > 0
    assert demo.stdout.count("$ wsgi-tracker") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["gunicorn.conf.py"]


LINKS = [
    pytest.param(page, link, id=f"{page} {link}")
    for page, text in {
        "README.md": README,
        "docs/operating.md": OPERATING,
        "docs/api.md": API,
    }.items()
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)
]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_link_leads_somewhere(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page

    assert target.exists()
    headings = [
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in (target.read_text().splitlines() if anchor else [])
        if line.startswith("#")
    ]
    assert not anchor or anchor in headings
