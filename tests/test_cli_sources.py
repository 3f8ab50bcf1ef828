"""What commands ask, where it cannot be asked: one line that says why, and nothing is made."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE_SECONDS, command, run
from hosts import Host
from nobody import run as run_as_nobody
from servers import TOKEN
from shops import Shop, serving

from wsgi_tracker.cli.source import BUSY_SECONDS

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Return a shop that no test visits."""
    with serving(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


class Site(BaseHTTPRequestHandler):
    """Answer as what is no API; ``asked`` are the tokens that came to /elsewhere."""

    asked: list[str | None] = []  # noqa: RUF012 - of a class of its own, for each test

    def do_GET(self) -> None:
        name = self.path.split("/")[1].partition("?")[0]
        if name == "elsewhere":
            self.asked.append(self.headers["Authorization"])
        if name == "redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere/\x1b[31m")
            self.end_headers()
            return
        status, kind, body = {
            "html": (200, "text/html", b"<h1>Shop</h1>"),
            "other": (200, "application/json", b'{"stats": 1}'),
            "list": (200, "application/json", b"[]"),
            "broken": (500, "text/html", b"<h1>Oops</h1>"),
            "hostile": (503, "application/json", json.dumps(ERROR).encode()),
        }[name]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ERROR = {"error": {"code": "x", "message": "no\x1b[31m\nno", "parameter": None}}


@pytest.fixture
def site() -> Iterator[tuple[str, list[str | None]]]:
    handler = type("OneSite", (Site,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
        server.shutdown()
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize("report", ["stats", "visits --follow", "export", "export -o {folder}/x"])
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/html", "is it the API's address?"),
        ("/other", "is it the API's address?"),
        ("/list", "is it the API's address?"),
        ("/broken", "answers 500 Internal Server Error"),
        ("/hostile", "no\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}no"),
        ("/redirect", "is elsewhere: /elsewhere/"),
    ],
)
def test_what_is_no_api_is_told_in_one_line(
    path: str, told: str, report: str, site: tuple[str, list[str | None]], tmp_path: Path
) -> None:
    url, asked = site

    done = command(
        *report.format(folder=tmp_path).split(), "--url", f"{url}{path}", "--token", TOKEN
    )

    assert told in done.stderr
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.strip().isprintable()
    assert asked == []  # a token is for the host that was named
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:1", id="no server"),
        pytest.param("http://127.0.0.1:x", id="port"),
        pytest.param("http://[::1", id="bracket"),
        pytest.param("127.0.0.1:8000", id="no scheme"),
        pytest.param("ftp://127.0.0.1", id="scheme"),
        pytest.param("http://a..b", id="host"),
        pytest.param("http://127.0.0.1:1/ü x", id="path"),
        pytest.param("http://127.0.0.1:1/?a=b", id="query"),
        pytest.param("http://\x1b[31m", id="control character"),
        pytest.param("", id="empty"),
    ],
)
def test_wrong_url_is_told_in_one_line(url: str) -> None:
    done = command("stats", "--url", url)

    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.strip().isprintable()


@pytest.mark.parametrize("token", ["", "a b", "geheim€", "a\r\nX: y"])
def test_token_that_is_none_is_not_sent(token: str, shop: Shop) -> None:
    done = command("stats", "--url", shop.url, "--token", token)

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert not token or token not in done.stderr


def test_token_that_is_refused_is_told_as_the_api_tells_it(shop: Shop) -> None:
    without = command("stats", "--url", shop.url)
    wrong = command("stats", "--url", shop.url, "--token", "wrong")

    assert "send the header 'Authorization: Bearer <your-api-token>'" in without.stderr
    assert "no token that is set here" in wrong.stderr
    assert (without.exit_code, wrong.exit_code) == (1, 1)


def test_first_of_several_tokens_is_sent(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is the application's own, which may hold several."""
    monkeypatch.setenv("WSGI_TRACKER_TOKEN", f"{TOKEN}, an-older-one")

    assert command("stats", "--url", shop.url).exit_code == 0


@pytest.mark.parametrize(
    "path", ["/", "/api/tracking", "/api/tracking/", "/mounted/api/tracking", "//"]
)
def test_url_is_an_application_or_its_reports(path: str, shop: Shop) -> None:
    done = command("summary", "--json", "--url", f"{shop.url}{path}", "--token", TOKEN)

    assert json.loads(done.stdout) == shop.ask("summary")[1]


def no_database(folder: Path) -> None:
    """Leave the folder empty."""


def foreign(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "visits.db")) as connection:
        connection.execute("CREATE TABLE addresses (name)")


def text(folder: Path) -> None:
    (folder / "visits.db").write_text("This is a letter to somebody, and no database at all.\n")


def empty(folder: Path) -> None:
    (folder / "visits.db").touch()


def directory(folder: Path) -> None:
    (folder / "visits.db").mkdir()


def newer(folder: Path) -> None:
    host = Host(folder)
    host.storage.close()
    with closing(sqlite3.connect(host.database)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("name", ["stats", "export", "rebuild", "visits --follow", "info"])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (no_database, "there is no database"),
        (foreign, "another program's"),
        (text, "file is not a database"),
        (empty, "is empty"),
        (directory, "unable to open"),
        (newer, "install the newer release"),
    ],
)
def test_database_that_is_none_is_told_in_one_line(
    make: Any, told: str, name: str, tmp_path: Path
) -> None:
    make(tmp_path)
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}

    done = command(*name.split(), "-d", tmp_path / "visits.db")

    assert told in done.stderr
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


def test_log_does_not_say_it_a_second_time(tmp_path: Path) -> None:
    newer(tmp_path)

    done = run("stats", "-d", tmp_path / "visits.db")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("question", "told_by"),
    [("stats", "stderr"), ("info", "stderr"), ("export", "stderr"), ("check", "stdout")],
)
def test_database_that_stays_locked_is_told_soon(
    question: str, told_by: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took a minute: a question waited as long as a command that writes."""
    monkeypatch.setattr("wsgi_tracker.cli.source.QUESTION_BUSY_SECONDS", 0.1)
    began = time.monotonic()
    with closing(sqlite3.connect(host.database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

        done = command(question, "-d", host.database)

    assert "database is locked; another program holds" in getattr(done, told_by)
    assert (done.exit_code, done.stderr.count("\n")) == (1, told_by == "stderr")
    assert time.monotonic() - began < BUSY_SECONDS


def test_question_is_answered_while_another_program_writes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUSY_SECONDS", "QUESTION_BUSY_SECONDS"):
        monkeypatch.setattr(f"wsgi_tracker.cli.source.{name}", 0.1)
    with closing(sqlite3.connect(host.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        asked = command("stats", "-d", host.database)
        changed = command("rebuild", "-d", host.database)

    assert (asked.exit_code, asked.stderr) == (0, "")
    assert (changed.exit_code, changed.stderr.count("\n")) == (1, 1)
    assert "database is locked" in changed.stderr


FOR_NOBODY = """
import sys
from nobody import become_nobody
from commands import command

command("stats", "-d", sys.argv[1])  # nobody may not reach what is imported late
become_nobody()
done = command("stats", "-d", sys.argv[1])
print(done.exit_code)
print(done.stdout + done.stderr)
"""


@pytest.mark.parametrize(
    ("folder_mode", "mode"),
    [
        pytest.param(0o000, 0o600, id="folder that others cannot enter"),
        pytest.param(0o755, 0o000, id="database that others cannot read"),
        pytest.param(0o755, 0o444, id="database that others can only read"),
    ],
)
def test_other_user_is_told_as_whom_to_ask(folder_mode: int, mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to nobody
        host = Host(Path(folder))
        host.storage.close()
        host.database.chmod(mode)
        Path(folder).chmod(folder_mode)
        try:
            code, *output = run_as_nobody(FOR_NOBODY, host.database)
        finally:
            Path(folder).chmod(0o700)

    assert (code, len([line for line in output if line])) == ("1", 1)
    assert "cannot be read and written by this user" in output[0]
    assert "sudo -u www-data wsgi-tracker" in output[0]


def test_questions_agree_on_nothing(host: Host) -> None:
    """A question once made the identity permanent, and an application with another did not start."""
    for name in ("stats", "summary", "info", "visits"):
        assert command(name, "-d", host.database).exit_code == 0

    assert host.storage.declared(["identity", "timezone"]) == {}
