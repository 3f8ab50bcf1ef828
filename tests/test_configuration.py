"""What can never work is said when the application starts, to who can change it."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import nobody
import pytest
import webtest

import wsgi_tracker
from wsgi_tracker import ConfigurationError, Tracker, TrackerError, open_storage, wrap
from wsgi_tracker.storage.sqlite.schema import SCHEMA_VERSION


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def a_folder(path: Path) -> None:
    path.mkdir()


def some_text(path: Path) -> None:
    path.write_text("This file is no database. " * 100)


def nothing(path: Path) -> None:
    pass


def a_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("prepare", "name", "says"),
    [
        pytest.param(nothing, "missing/visits.db", "existing folder", id="missing folder"),
        pytest.param(nothing, "unlocked/visits.db", "existing folder", id="missing, named so"),
        pytest.param(a_folder, "visits.db", "unable to open database file", id="a folder"),
        pytest.param(some_text, "visits.db", "file is not a database", id="no database"),
        pytest.param(nothing, "file/visits.db", "existing folder", id="file in place of a folder"),
        pytest.param(nothing, "x" * 300, "name too long", id="long name"),
    ],
)
def test_database_that_cannot_be_is_refused_with_advice(
    prepare: Callable[[Path], None], name: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    prepare(tmp_path / name)

    with pytest.raises(ConfigurationError) as raised:
        Tracker(hello, tmp_path / name)

    message = str(raised.value)
    assert says in message
    assert str(tmp_path / name) in message
    assert "choose a path" in message


@pytest.mark.parametrize("version", [0, 1, SCHEMA_VERSION, SCHEMA_VERSION + 4])
def test_database_of_another_program_is_refused_and_left_as_it_was(
    version: int, tmp_path: Path
) -> None:
    """It got our tables beside its own, or another journal mode, or was a newer release's."""
    database = tmp_path / "boxes.db"
    with closing(sqlite3.connect(database)) as other:
        other.execute("CREATE TABLE boxes (id)")
        other.execute(f"PRAGMA user_version = {version}")
    before = database.read_bytes()

    with pytest.raises(ConfigurationError, match="another program's; choose a path"):
        Tracker(hello, database, token="right")

    assert database.read_bytes() == before


@pytest.mark.parametrize(
    ("mode", "warned"),
    [pytest.param(0o600, False, id="private"), pytest.param(0o640, True, id="group")],
)
def test_database_that_others_can_read_is_warned_of(
    mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "visits.db").touch(mode)
    (tmp_path / "visits.db").chmod(mode)

    with Tracker(hello, tmp_path / "visits.db", require_token=False) as tracker:
        health = webtest.TestApp(tracker).get("/api/tracking/health").json

    assert [text.startswith("other users") for text in health["warnings"]] == [True] * warned
    assert sum(message.startswith("other users") for message in caplog.messages) == warned
    assert (tmp_path / "visits.db").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    "database",
    [
        pytest.param("", id="empty"),
        pytest.param(":memory:", id="in memory"),
        pytest.param("sqlite://", id="URL without path"),
        pytest.param("sqlite:///", id="URL with empty path"),
        pytest.param("sqlite:///x.db?timeout=5", id="URL with parameters"),
        pytest.param("sqlite:///x.db#here", id="URL with a fragment"),
        pytest.param("file:x.db", id="SQLite's own URI"),
        pytest.param("postgresql://user:secret@host/db", id="another system's"),
        pytest.param("duckdb:////secret/visits.db", id="another system's path"),
    ],
)
def test_name_that_is_no_file_is_refused_without_its_password(database: str) -> None:
    with pytest.raises(ConfigurationError, match="database is a") as raised:
        open_storage(database)

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("sqlite:///{folder}/visits.db", "visits.db", id="URL"),
        pytest.param("{folder}/a/../visits.db", "visits.db", id="path is resolved"),
        pytest.param("{folder}/link/visits.db", "real/visits.db", id="links are resolved"),
    ],
)
def test_database_is_where_its_name_says(name: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("real")

    open_storage(name.format(folder=tmp_path)).close()

    assert (tmp_path / path).exists()


def test_path_in_a_url_is_relative_with_three_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    open_storage("sqlite:///visits.db").close()

    assert (tmp_path / "visits.db").exists()


def test_file_in_the_place_of_the_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "visits.db-spool").write_text("")

    with pytest.raises(ConfigurationError, match=r"spool .* cannot be used"):
        Tracker(hello, tmp_path / "visits.db")


@pytest.mark.parametrize(
    ("version", "refused"),
    [
        pytest.param((3, 33, 0), True, id="3.33"),
        pytest.param((3, 34, 0), False, id="3.34"),
        pytest.param((4, 0, 0), False, id="4.0"),
    ],
)
def test_old_sqlite_is_refused(
    version: tuple[int, ...], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)

    if refused:
        with pytest.raises(ConfigurationError, match=r"SQLite 3\.34\.0 or newer .* use a newer"):
            open_storage(tmp_path / "visits.db")
    else:
        open_storage(tmp_path / "visits.db").close()

    assert (tmp_path / "visits.db").exists() is not refused


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"token": 5}, id="token is a number"),
        pytest.param({"token": b"token"}, id="token is bytes"),
        pytest.param({"trusted_proxies": 5}, id="proxies are a number"),
        pytest.param({"trusted_proxies": [5]}, id="proxy is a number"),
        pytest.param({"prefix": None}, id="prefix is nothing"),
        pytest.param({"ingest": "no"}, id="ingest is text"),
        pytest.param({"ingest": None}, id="ingest is nothing"),
        pytest.param({"token": "t", "require_token": "no"}, id="require_token is text"),
        pytest.param({"fsync": 1}, id="fsync is a number"),
        pytest.param({"ip_addresses": "half"}, id="ip_addresses is unknown"),
    ],
)
def test_option_that_cannot_work_is_refused_before_anything_is_made(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError):
        Tracker(hello, tmp_path / "visits.db", **{"ingest": False, **options}).close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("database", [None, 5, b"visits.db"])
def test_database_that_is_no_path_is_refused(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError, match="database is a path"):
        Tracker(hello, database)

    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"directory: '{tmp_path}/missing'"):
        Tracker(hello, tmp_path / "missing" / "visits.db")


@pytest.mark.parametrize(
    ("kind", "place", "refused"),
    [
        pytest.param("nfs4", "/", True, id="NFS"),
        pytest.param("cifs", "{folder}", True, id="CIFS"),
        pytest.param("fuse.sshfs", "{folder}", True, id="SSH"),
        pytest.param("ext4", "{folder}", False, id="disk"),
        pytest.param("nfs4", "{folder}-other", False, id="NFS elsewhere"),
    ],
)
def test_network_filesystem_is_refused(
    kind: str, place: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    mounts = tmp_path / "mountinfo"
    root = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    place = place.format(folder=folder).replace(" ", "\\040")
    mounts.write_text(f"{root}36 22 0:32 / {place} rw shared:2 master:1 - {kind} host:/x rw\n")
    monkeypatch.setattr("wsgi_tracker.mounts.MOUNTS", mounts)

    if refused:
        with pytest.raises(ConfigurationError, match=rf"network filesystem \({kind}\)"):
            Tracker(hello, folder / "visits.db", token="right")
    else:
        Tracker(hello, folder / "visits.db", token="right").close()


@pytest.mark.parametrize("name", ["no_such_module:app", "no_such_package.module:app"])
def test_module_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no module 'no_such_"):
        wrap(name)


def test_module_with_a_missing_import_raises_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_shop.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        wrap("broken_shop:app")


def test_errors_can_be_caught_by_their_public_names() -> None:
    for error in (ConfigurationError, wsgi_tracker.QueryError, wsgi_tracker.StorageError):
        assert issubclass(error, TrackerError)
        assert error.__name__ in wsgi_tracker.__all__


def test_errors_are_of_one_family(tmp_path: Path) -> None:
    for family in (TrackerError, ValueError):
        with pytest.raises(family):
            Tracker(hello, tmp_path / "visits.db", prefix="")


def test_database_that_is_locked_at_start_delays_but_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the secret no visit could be hashed: 83 of 83 were dropped."""
    database = tmp_path / "visits.db"
    Tracker(hello, database, token="right").close()

    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")  # in WAL mode, readers are never locked out
        other.execute("BEGIN EXCLUSIVE")
        tracker = Tracker(hello, database, token="right", ingest=False)
        app = webtest.TestApp(tracker)
        for _ in range(3):
            app.get("/")
        app.authorization = ("Bearer", "right")
        app.get("/api/tracking/summary", status=503)
        other.execute("ROLLBACK")
    summary = app.get("/api/tracking/summary").json

    tracker.close()
    assert (summary["total_hits"], summary["total_unique_users"]) == (3, 1)
    assert "locked" in caplog.messages[0]


AS_NOBODY = """
import logging, sys, tempfile
from pathlib import Path
from nobody import become_nobody
from werkzeug.test import Client
from wsgi_tracker import Tracker
from wsgi_tracker.errors import ConfigurationError

def hello(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

def serve(folder):
    with Tracker(hello, Path(folder) / "visits.db", require_token=False) as tracker:
        print(Client(tracker).get("/").text)
        print(Client(tracker).get("/api/tracking/health").text)

with tempfile.TemporaryDirectory() as folder:
    serve(folder)
logging.basicConfig(stream=sys.stdout, format="%(message)s")
print("-----")
become_nobody()
try:
    serve(sys.argv[1])
except ConfigurationError as error:
    print("refused:", error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder of a test's own, as pytest's are closed to nobody."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        for path in [Path(name), *Path(name).iterdir()]:
            path.chmod(0o777)


def served_by_nobody(folder: Path) -> list[str]:
    said = nobody.run(AS_NOBODY, folder)
    return said[said.index("-----") + 1 :]


def test_folder_that_is_read_only_is_refused(open_folder: Path) -> None:
    open_folder.chmod(0o555)

    (said,) = served_by_nobody(open_folder)

    assert said.startswith("refused: ")
    assert "folder that this process may write to" in said


@pytest.mark.parametrize(
    ("closed", "says"),
    [
        pytest.param(".", ["visits wait in the spool: "], id="folder"),
        pytest.param("visits.db", ["visits wait in the spool: attempt to write"], id="database"),
        pytest.param("visits.db-spool", ["visits are dropped, ", "visits wait "], id="spool"),
        pytest.param(None, [], id="nothing"),
    ],
)
def test_application_starts_where_what_it_has_used_became_read_only(
    closed: str | None, says: list[str], open_folder: Path
) -> None:
    """gunicorn halts when a worker does not boot, and so ended when it replaced one."""
    Tracker(hello, open_folder / "visits.db", token="right").close()
    (open_folder / "visits.db-spool" / "ingest.lock").unlink()
    for path in [*open_folder.rglob("*"), open_folder]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    if closed is not None:
        (open_folder / closed).chmod(0o555 if closed != "visits.db" else 0o444)

    said = served_by_nobody(open_folder)
    (health,) = (json.loads(line) for line in said if line.startswith("{"))

    assert "hello" in said
    assert health["recording"] is (closed != "visits.db-spool")
    assert health["status"] == ("ok" if closed is None else "degraded")
    assert sum(line.startswith("visits ") for line in said) == len(says)
    for begin in says:
        assert any(line.startswith(begin) for line in said), said


def garbage(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(os.urandom(100))


def zeros(database: Path) -> None:
    database.write_bytes(bytes(database.stat().st_size))


def cut(database: Path) -> None:
    os.truncate(database, 50)


@pytest.mark.parametrize("damage", [garbage, zeros, cut])
def test_application_starts_while_the_head_of_its_database_is_damaged(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "visits.db"

    def start() -> webtest.TestApp:
        return webtest.TestApp(Tracker(hello, database, require_token=False, ingest=False))

    start().app.close()
    damage(database)
    app = start()
    app.get("/")
    app.get("/api/tracking/summary", status=503)
    during = [message for message in caplog.messages if "wait in the spool" in message]
    database.unlink()
    summary = app.get("/api/tracking/summary").json
    app.app.close()

    assert summary["total_hits"] == 1
    assert len(during) == 1
    assert "is damaged" in during[0]


@contextmanager
def another_writes(database: Path) -> Iterator[None]:
    """Have another connection write to a database that was used before."""
    Tracker(hello, database, token="right").close()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_outage_at_start_is_logged_once_by_all_that_meet_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Constructor, retention, ingest and purge told of one lock: four lines."""
    database = tmp_path / "visits.db"

    with another_writes(database):
        tracker = Tracker(hello, database, token="right", retention_days=30, ingest=False)
        webtest.TestApp(tracker).get("/")
        tracker._backend.ingester.wake()
        tracker._backend.ingest_thread._purge()
        during = [record.getMessage() for record in caplog.records]
    tracker._backend.ingester.wake()
    tracker.close()

    assert len(during) == 1
    assert during[0].startswith(
        "visits wait in the spool: retention_days=30 does not hold yet: database is locked; "
    )
    assert caplog.messages[1:] == ["visits wait in the spool: works again"]


def test_application_that_starts_while_another_writes_tells_of_no_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever ingests may write for longer than a start waits; that is only told if it lasts."""
    database = tmp_path / "visits.db"

    with another_writes(database):
        tracker = Tracker(hello, database, token="right", ingest=False)
        webtest.TestApp(tracker).get("/")
        at_start = list(caplog.messages)
        tracker._backend.ingester.wake()
        lasting = list(caplog.messages)
    tracker.close()

    assert at_start == []
    assert [message.partition(";")[0] for message in lasting] == [
        "visits wait in the spool: database is locked"
    ]
