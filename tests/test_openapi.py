"""The API is what its description says: asked by a program that knows nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import webtest
from servers import TOKEN, Server, get, gunicorn

from wsgi_tracker import Tracker

pytestmark = pytest.mark.once
APP = """
from wsgi_tracker import Tracker

def app(environ, start_response):
    status = "404 Not Found" if "missing" in environ["PATH_INFO"] else "200 OK"
    start_response(status, [("Content-Type", "text/plain")])
    return [b"hello"]

app = Tracker(app)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "described.py").write_text(APP)
    with gunicorn(
        "described:app",
        folder=tmp_path,
        python_path=[tmp_path],
        options=["--limit-request-line=0"],  # or the longest texts are refused before they reach us
    ) as server:
        for path in ("/", "/boxes", "/missing", "/boxes/%7B7%7D"):
            get(server.port, path)
        yield server


# What no schema can say: which parameters contradict each other, and which cursors there are.
HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta.generation.mode is not schemathesis.GenerationMode.POSITIVE or not case.query:
        return
    for name in ("cursor", "fill"):
        case.query.pop(name, None)
    if "start" in case.query:
        case.query.pop("end", None)
    if "start" in case.query or "end" in case.query:
        case.query.pop("period", None)
    if "start" not in case.query and case.query.get("period", "all") == "all":
        case.query.pop("compare", None)
"""
CHECKS = """
[checks]
positive_data_acceptance.expected-statuses = ["200", "304", "404"]
"""


def test_program_that_reads_the_description_finds_no_fault(server: Server, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://127.0.0.1:{server.port}/api/tracking/openapi.json",
            f"--header=Authorization: Bearer {TOKEN}",
            "--max-examples=15",
            "--no-color",
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


@pytest.mark.parametrize("prefix", ["/api/tracking", "/own/prefix"])
def test_description_says_where_it_is(prefix: str, tracked: Callable[..., Tracker]) -> None:
    app = webtest.TestApp(tracked(prefix=prefix), extra_environ={"SCRIPT_NAME": "/mounted here"})

    document = app.get(f"{prefix}/openapi.json").json

    assert document["servers"] == [{"url": f"/mounted%20here{prefix}"}]
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        f"/{path}" for path in [*app.app._api._routes, "users/{user_hash}"]
    }
    json.dumps(document, allow_nan=False)
