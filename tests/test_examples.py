"""Every example is started as its first lines say, and used."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from servers import TOKEN, get, gunicorn, report

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("module", "path", "endpoint"),
    [
        pytest.param("plain_wsgi", "/boxes/small", "/boxes/{name}", id="plain"),
        pytest.param("flask_app", "/boxes/1", "/boxes/<int:box_id>", id="flask"),
        pytest.param("django_app", "/boxes/1", "/boxes/<int:box_id>", id="django"),
        pytest.param("pyramid_app", "/boxes/1", "/boxes/{box_id}", id="pyramid"),
        pytest.param("bottle_app", "/boxes/1", "/boxes/<box_id:int>", id="bottle"),
        pytest.param("falcon_app", "/boxes/1", "/boxes/{box_id:int}", id="falcon"),
    ],
)
def test_example_runs_and_its_visits_are_reported(
    module: str, path: str, endpoint: str, tmp_path: Path
) -> None:
    command = re.search(r"^\$ gunicorn (.*)$", (EXAMPLES / f"{module}.py").read_text(), re.M)
    assert command is not None
    *options, application = command[1].split()
    # A developer who ran one left visits there.
    unwanted = shutil.ignore_patterns("visits.db*", "__pycache__")
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=unwanted)

    with gunicorn(application, folder=tmp_path, options=options) as server:
        statuses = [get(server.port, each)[0] for each in ("/boxes", "/boxes", path, "/nowhere")]
        refused, _ = get(server.port, "/api/tracking/stats")
        stats = report(server.port, "stats")
        summary = report(server.port, "summary?period=day")
        trends = report(server.port, "trends?granularity=hour&period=24h")
        visits = report(server.port, "visits")["visits"]

    assert statuses == [200, 200, 200, 404]
    assert refused == 401
    assert {(row["endpoint"], row["method"], row["hit_count"]) for row in stats["stats"]} == {
        ("/boxes", "GET", 2),
        (endpoint, "GET", 1),
        ("(unmatched)", "GET", 1),
    }
    assert (summary["total_hits"], summary["total_unique_users"]) == (4, 1)
    assert sum(bucket["hits"] for bucket in trends["trends"]) == 4
    assert [visit["endpoint"] for visit in visits] == [
        "(unmatched)",
        endpoint,
        "/boxes",
        "/boxes",
    ]
    assert {visit["ip_address"] for visit in visits} == {"127.0.0.1"}
    assert (tmp_path / "examples" / "visits.db").exists()
    assert "Traceback" not in server.log


def test_production_configuration_runs_an_application_it_does_not_touch(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '5')])\n"
        "    return [b'boxes']\n"
    )
    with gunicorn(
        "wsgi_tracker:wrap('shop:app', 'own.db')",
        folder=tmp_path,
        workers=2,
        options=["-c", str(EXAMPLES / "production" / "gunicorn.conf.py")],
        python_path=[tmp_path],
    ) as server:
        answer = get(server.port, "/")
        refused, _ = get(server.port, "/api/tracking/summary", Authorization="Bearer wrong")
        hits = report(server.port, "summary")["total_hits"]

    assert answer == (200, b"boxes")
    assert refused == 401
    assert hits == 1
    assert (tmp_path / "own.db").exists()
    assert TOKEN not in server.log


def test_production_configuration_wants_a_token(tmp_path: Path) -> None:
    server = gunicorn(
        "wsgi_tracker:wrap('shop:app')",
        folder=tmp_path,
        options=["-c", str(EXAMPLES / "production" / "gunicorn.conf.py")],
        environ={"WSGI_TRACKER_TOKEN": ""},
    )

    with pytest.raises(RuntimeError, match="set WSGI_TRACKER_TOKEN"):
        server.start()
