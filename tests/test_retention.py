"""What is older than retention allows goes, and nothing else; nobody waits for it or sees it go."""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webtest
from counting import classify_new, look
from hypothesis import given, settings
from hypothesis import strategies as st
from recount import count_stats, count_summary, count_trends

from wsgi_tracker import Tracker, Visit, open_storage
from wsgi_tracker.errors import ConfigurationError, StorageError
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.ingest_thread import IngestThread
from wsgi_tracker.period import DAY, HOUR, Granularity
from wsgi_tracker.retention import Retention
from wsgi_tracker.selection import Selection
from wsgi_tracker.storage import Batch, Storage
from wsgi_tracker.storage.sqlite import purge as steps
from wsgi_tracker.storage.sqlite.schema import transaction

pytestmark = pytest.mark.once

NOW = 1_755_081_000_000_000
FLOOR = NOW - 30 * DAY
PATIENCE_SECONDS = 30
STRINGS = {
    "users": "user_hash",
    "endpoints": "endpoint",
    "paths": "path",
    "ip_addresses": "ip_address",
    "user_agents": "user_agent",
    "referers": "referer",
    "hosts": "host",
}


def visit(timestamp: int, mark: Any = "") -> Visit:
    """Make a visit whose every string has a mark."""
    return Visit(
        timestamp,
        f"user{mark}",
        "GET",
        f"/boxes{mark}",
        path=f"/path{mark}",
        status=200,
        ip_address=f"address{mark}",
        user_agent=f"agent{mark}",
        referer=f"referer{mark}",
        host=f"host{mark}",
    )


class Kept:
    """A storage, and how to look at it from outside."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "visits.db"
        self.storage = open_storage(self.database)

    def ingest(self, visits: Iterable[Visit]) -> None:
        data = b"".join(visit.line() for visit in visits)
        self.storage.ingest([], lambda positions: Batch(data), durable=False)
        classify_new(self.storage)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()

    def purge(self, before: int = FLOOR) -> int:
        """Purge, and return in how many steps."""
        return sum(1 for _ in self.storage.purge(before))

    def strings(self) -> dict[str, list[Any]]:
        return {
            table: sorted(row[0] for row in self.sql(f"SELECT DISTINCT {column} FROM {table}"))
            for table, column in STRINGS.items()
        }

    def dangling(self) -> list[Any]:
        return self.sql("PRAGMA foreign_key_check")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.storage.close()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "VISITS_PER_STEP", 3)
    monkeypatch.setattr(steps, "READ_PER_STEP", 4)
    monkeypatch.setattr(steps, "STRINGS_PER_STEP", 2)
    monkeypatch.setattr(steps, "PAGES_PER_STEP", 2)


def assert_reports_are_of(shown: Sequence[Visit], storage: Storage) -> None:
    """Recount all four, over windows that begin before, at and after the floor."""
    newest = sorted((visit.timestamp for visit in shown), reverse=True)
    assert [visit.timestamp for visit in look(storage).visits(limit=1000).visits] == newest
    for start in (0, FLOOR - 1, FLOOR, NOW - DAY):
        inside = [visit for visit in shown if visit.timestamp >= start]
        assert [row.as_json() for row in look(storage).stats(Selection(start))] == count_stats(
            inside
        )
        assert look(storage).summary(Selection(start)).as_json() == count_summary(inside)
        for granularity in Granularity:
            buckets = look(storage).trends(Selection(start), granularity)
            assert [bucket.as_json() for bucket in buckets] == count_trends(
                inside, granularity.value
            )


marks = st.sampled_from(["", 1, 2, 3, 4, 5])
random_visits = st.lists(
    st.builds(
        lambda timestamp, mark, other, path: replace(
            visit(timestamp, mark), user_hash=f"user{other}", path=path
        ),
        st.one_of(
            st.sampled_from([FLOOR - 1, FLOOR, FLOOR + 1]),
            st.integers(FLOOR - 40 * DAY, NOW),
            st.integers(FLOOR - HOUR, FLOOR + HOUR),
        ),
        marks,
        marks,
        st.sampled_from([None, "/path1", "/path2", "/path3"]),
    ),
    max_size=30,
)


@pytest.mark.usefixtures("small_steps")
def test_reports_equal_a_recount_during_a_purge_and_after_it() -> None:
    @settings(max_examples=40)
    @given(random_visits, random_visits)
    def check(before: list[Visit], meanwhile: list[Visit]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            kept = Kept(Path(folder))
            kept.ingest(before)
            shown = [visit for visit in before if visit.timestamp >= FLOOR]
            arriving = iter(meanwhile)

            for _ in kept.storage.purge(FLOOR):
                assert_reports_are_of(shown, kept.storage)
                for late in itertools.islice(arriving, 1):
                    kept.ingest([late])
                    shown += [late] if late.timestamp >= FLOOR else []

            kept.ingest(rest := list(arriving))
            shown += [visit for visit in rest if visit.timestamp >= FLOOR]
            kept.purge()
            assert_reports_are_of(shown, kept.storage)
            assert kept.sql("SELECT count(*) FROM visits") == [(len(shown),)]
            assert kept.dangling() == []
            for table, column in STRINGS.items():
                used = {getattr(visit, column) for visit in shown} - {None}
                assert kept.strings()[table] == sorted(used)
            assert kept.sql(
                "SELECT coalesce(sum(value), 0) FROM counts WHERE name = 'recorded'"
            ) == [(len(before) + len(meanwhile),)]
            kept.storage.close()

    check()


def append(kept: Kept) -> None:
    kept.ingest([visit(NOW, "old")])


def change(kept: Kept) -> None:
    kept.sql("UPDATE user_visits SET path = '/pathold', referer = 'refererold' WHERE id = 12")


def insert_among_others(kept: Kept) -> None:
    kept.sql(
        "INSERT INTO user_visits (id, user_hash, endpoint, method, timestamp_us, path, host)"
        " VALUES (-1, 'u', '/e', 'GET', ?, '/pathold', 'hostold')",
        NOW,
    )


def replace_the_newest(kept: Kept) -> None:
    """Delete the visit with the highest id, which the next one gets then."""
    kept.sql("DELETE FROM user_visits WHERE id = (SELECT max(id) FROM visits)")
    kept.ingest([visit(NOW, "old")])


def change_without_the_view(kept: Kept) -> None:
    kept.sql("UPDATE visits SET path_id = (SELECT id FROM paths WHERE path = '/pathold')")


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    "use_again",
    [append, change, insert_among_others, replace_the_newest, change_without_the_view],
)
def test_string_that_is_used_again_meanwhile_stays(
    use_again: Callable[[Kept], None], tmp_path: Path
) -> None:
    """Whenever it happens: between any two steps."""
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        folder.mkdir()
        kept = Kept(folder)
        kept.ingest([visit(FLOOR - 1, "old") for _ in range(4)])
        kept.ingest([visit(NOW, number) for number in range(12)])
        purge = kept.storage.purge(FLOOR)
        taken = sum(1 for _ in itertools.islice(purge, moment))
        use_again(kept)
        expected = kept.sql("SELECT * FROM user_visits WHERE timestamp_us >= ? ORDER BY id", FLOOR)

        remaining = sum(1 for _ in purge)

        assert kept.dangling() == []
        assert kept.sql("SELECT * FROM user_visits ORDER BY id") == expected
        kept.storage.close()
        if not remaining:
            break
    assert taken > 20


@pytest.mark.usefixtures("small_steps")
def test_string_that_is_used_again_in_the_last_moment_stays(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step has looked at what is new, and before it has the right to write."""
    other, used = Kept(kept.database.parent), []

    @contextmanager
    def late(connection: sqlite3.Connection) -> Iterator[None]:
        for (path,) in kept.sql(
            "SELECT path FROM paths WHERE id NOT IN (SELECT path_id FROM visits) LIMIT 1"
        ):
            other.ingest([visit(NOW, path.removeprefix("/path"))])
            used.append(path)
        with transaction(connection):
            yield

    kept.ingest([visit(FLOOR - 1, number) for number in range(40)])
    monkeypatch.setattr(steps, "transaction", late)
    monkeypatch.setattr(steps, "LONG_SECONDS", math.inf)  # as smaller steps would leave none unused

    kept.purge()
    other.storage.close()

    assert kept.dangling() == []
    assert kept.strings()["paths"] == sorted(used)
    assert 2 < len(used) < 40


@pytest.mark.usefixtures("small_steps")
def test_what_one_purge_could_not_sweep_the_next_one_does(kept: Kept) -> None:
    kept.ingest([visit(FLOOR - 1, "old"), *(visit(NOW, number) for number in range(12))])
    purge = kept.storage.purge(FLOOR)
    for _ in purge:
        if not kept.sql("SELECT 1 FROM visits WHERE timestamp < ?", FLOOR):
            break
    purge.close()  # as when the process dies
    assert "/pathold" in kept.strings()["paths"]

    kept.purge()

    assert "/pathold" not in kept.strings()["paths"]


@pytest.mark.usefixtures("small_steps")
def test_sweep_leaves_note_of_what_another_purge_deleted_meanwhile(tmp_path: Path) -> None:
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        folder.mkdir()
        kept, other = Kept(folder), Kept(folder)
        kept.ingest([visit(FLOOR - 1, "old"), visit(NOW)])
        purge = kept.storage.purge(FLOOR)
        for _ in itertools.islice(purge, moment):
            pass
        kept.ingest([visit(FLOOR - 1, "late"), visit(NOW)])
        for _ in itertools.islice(other.storage.purge(FLOOR), 2):  # then it dies
            pass
        remaining = sum(1 for _ in purge)

        kept.purge()

        assert kept.strings()["paths"] == ["/path"]
        kept.storage.close()
        other.storage.close()
        if not remaining:
            break


@pytest.mark.usefixtures("small_steps")
def test_connections_may_be_closed_between_any_two_steps(kept: Kept) -> None:
    """A fork closes idle ones in the parent too, and so does a checkpoint of another process."""
    kept.ingest([visit(FLOOR - 1, "old"), *(visit(NOW, number) for number in range(12))])

    for _ in kept.storage.purge(FLOOR):
        kept.storage.close()

    assert kept.dangling() == []
    assert len(kept.strings()["paths"]) == 12


@pytest.mark.usefixtures("small_steps")
def test_file_that_takes_the_databases_place_meanwhile_loses_no_string(tmp_path: Path) -> None:
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        folder.mkdir()
        kept = Kept(folder)
        kept.ingest([*(visit(FLOOR - 1, number) for number in range(6)), visit(NOW)])
        kept.storage.close()
        backup = shutil.copy(kept.database, folder / "backup.db")
        purge = kept.storage.purge(FLOOR)
        for _ in itertools.islice(purge, moment):
            pass
        kept.storage.close()
        Path(backup).replace(kept.database)

        remaining = sum(1 for _ in purge)

        assert kept.dangling() == []
        kept.storage.close()
        if not remaining:
            break


def test_step_deletes_few_visits(kept: Kept) -> None:
    kept.ingest([visit(FLOOR - 1 - number, number % 7) for number in range(2100)])
    kept.ingest([visit(NOW)])
    sizes = [2101]

    for _ in kept.storage.purge(FLOOR):
        sizes += [count for (count,) in kept.sql("SELECT count(*) FROM visits")]

    assert sizes[-1] == 1
    assert max(before - after for before, after in itertools.pairwise(sizes)) <= 500


def test_step_whose_commit_takes_long_makes_the_next_ones_smaller(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the statements were timed: what a slow disk had to write was not."""

    class Watch:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    watch, pace = Watch(), steps.Pace(500)

    @contextmanager
    def slow(connection: sqlite3.Connection) -> Iterator[None]:
        with transaction(connection):
            yield
        watch.now += 1

    kept.ingest([visit(NOW)])
    monkeypatch.setattr(steps, "time", watch)
    monkeypatch.setattr(steps, "transaction", slow)
    with kept.storage._file._pool.writer() as connection:  # type: ignore[attr-defined]
        steps.delete_visits(steps.OLD_VISITS, (), pace, connection)

    assert pace.rows == 250


def test_others_write_between_any_two_steps(kept: Kept) -> None:
    kept.ingest([visit(FLOOR - 1 - number, number) for number in range(1200)])
    kept.ingest([visit(NOW)])

    with closing(sqlite3.connect(kept.database, timeout=0, isolation_level=None)) as other:
        for _ in kept.storage.purge(FLOOR):
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")


def test_file_shrinks_and_its_log_stays_small(kept: Kept) -> None:
    kept.ingest(visit(FLOOR - 50 * DAY - number, number) for number in range(6000))
    kept.ingest([visit(NOW)])
    with kept.storage._file._pool.writer() as connection:  # type: ignore[attr-defined]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute("PRAGMA wal_autocheckpoint = 100")
    pages = kept.sql("PRAGMA page_count")[0][0]
    log = kept.database.with_name("visits.db-wal")
    largest, sizes = 0, [pages]

    for _ in kept.storage.purge(FLOOR):
        largest = max(largest, log.stat().st_size)
        sizes += [size for (size,) in kept.sql("PRAGMA page_count")]

    assert kept.sql("PRAGMA page_count")[0][0] < pages / 5
    assert kept.sql("PRAGMA freelist_count")[0][0] <= pages / 100
    # A page of pointers to others may go with them.
    assert max(before - after for before, after in itertools.pairwise(sizes)) in (100, 101)
    assert largest < pages * 4096 / 2


def test_late_visit_is_not_shown_and_goes_with_the_next_purge(kept: Kept) -> None:
    kept.ingest([visit(NOW)])
    kept.purge()
    kept.ingest([visit(FLOOR - 1, "late")])

    assert look(kept.storage).summary().total_hits == 1
    kept.purge()

    assert kept.sql("SELECT endpoint FROM user_visits") == [("/boxes",)]
    assert kept.strings()["paths"] == ["/path"]


def test_database_of_old_visits_alone_is_emptied(kept: Kept) -> None:
    kept.ingest([visit(1, "old"), visit(2, "old")])

    kept.purge()

    assert look(kept.storage).summary().oldest_visit is None
    assert not any(kept.strings().values())
    assert kept.sql("SELECT value FROM counts WHERE name = 'recorded'") == [(2,)]


@pytest.mark.parametrize("days", [-1, True, 1.5, "30", 36_501, 10**30])
def test_retention_is_a_number_of_days(days: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="retention_days is a whole number up to 36500"):
        Tracker(print, tmp_path / "visits.db", retention_days=days)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now * 1000


def run(retention: Retention) -> int:
    """Purge to the end, if it is time; return the number of steps."""
    return sum(1 for _ in iter(retention.step, False)) if retention.is_due() else 0


def test_purge_comes_once_an_hour_whoever_asks(kept: Kept) -> None:
    clock = Clock()
    one, other = Retention(kept.storage, 30, clock), Retention(kept.storage, 30, clock)
    kept.ingest([visit(FLOOR - 1), visit(FLOOR)])

    assert run(one)
    assert kept.sql("SELECT timestamp_us FROM user_visits") == [(FLOOR,)]
    assert not run(other)
    clock.now += HOUR - 1
    assert [one.is_due(), other.is_due()] == [False, False]
    clock.now += 1
    assert run(other)
    assert not run(one)
    assert kept.sql("SELECT count(*) FROM user_visits") == [(0,)]


def test_clock_that_is_set_back_stops_no_purge(kept: Kept) -> None:
    clock = Clock()
    retention = Retention(kept.storage, 30, clock)
    clock.now += 5000 * DAY
    run(retention)
    kept.ingest([visit(NOW)])
    assert look(kept.storage).summary().total_hits == 0

    clock.now = NOW
    assert run(retention)

    assert look(kept.storage).summary().total_hits == 1


def test_retention_given_last_holds_for_all(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock = Clock()
    kept.ingest([visit(FLOOR - 1), visit(NOW)])
    first = Retention(kept.storage, 30, clock)
    first.declare()
    Retention(kept.storage, 90, clock).declare()
    Retention(kept.storage, 90, clock).declare()

    assert run(first)

    assert look(kept.storage).summary().total_hits == 2
    assert [record.getMessage() for record in caplog.records] == [
        "retention_days is 30 from now on, it was 0",
        "retention_days is 90 from now on, it was 30",
    ]


@pytest.mark.parametrize(
    ("days", "left"),
    [
        pytest.param(None, 0, id="no value leaves what holds"),
        pytest.param(0, 1, id="zero keeps all"),
    ],
)
def test_process_that_gives_no_retention_leaves_the_one_that_holds(
    days: int | None, left: int, tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    """It switched retention off for all, without a word of it where it was configured."""
    client = webtest.TestApp(tracked(retention_days=30))
    retention = Retention(tracked(retention_days=days)._backend.storage, days, Clock())
    kept = Kept(tmp_path)
    kept.ingest([visit(FLOOR - 1)])

    run(retention)

    assert kept.sql("SELECT count(*) FROM visits") == [(left,)]
    health = client.get("/api/tracking/health").json
    assert health["retention_days"] == (30 if days is None else days)
    kept.storage.close()


def test_clock_that_is_ahead_for_one_purge_deletes_no_younger_visit(kept: Kept) -> None:
    """All visits were gone for good when it was right again."""
    clock = Clock()
    retention = Retention(kept.storage, 30, clock)
    kept.ingest([visit(FLOOR - 1), visit(FLOOR + 3 * HOUR), visit(NOW)])
    run(retention)

    clock.now += 365 * DAY
    run(retention)
    clock.now = NOW + HOUR
    run(retention)

    assert kept.sql("SELECT timestamp_us FROM user_visits ORDER BY 1") == [
        (FLOOR + 3 * HOUR,),
        (NOW,),
    ]
    assert look(kept.storage).summary().total_hits == 2


def test_purge_makes_up_for_a_pause_an_hour_later(kept: Kept) -> None:
    clock = Clock()
    retention = Retention(kept.storage, 30, clock)
    kept.ingest([visit(FLOOR + DAY), visit(NOW)])
    run(retention)

    left = []
    for pause in (7 * DAY, HOUR):
        clock.now += pause
        run(retention)
        left += kept.sql("SELECT count(*) FROM visits")

    assert left == [(2,), (1,)]


def test_retention_that_comes_after_a_time_without_holds_at_once(kept: Kept) -> None:
    clock = Clock()
    run(Retention(kept.storage, 30, clock))
    kept.storage.set_retention(0)
    kept.ingest([visit(NOW)])
    clock.now += 400 * DAY

    run(Retention(kept.storage, 30, clock))

    assert kept.sql("SELECT count(*) FROM visits") == [(0,)]


def test_longer_retention_comes_in_time_before_the_first_step(kept: Kept) -> None:
    kept.ingest([visit(FLOOR - 1)])
    kept.storage.set_retention(30)
    assert kept.storage.begin_purge(NOW, 30)

    kept.storage.set_retention(90)
    for _ in kept.storage.purge():
        pass

    assert look(kept.storage).summary().total_hits == 1


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("days", [0, 90])
def test_longer_retention_ends_a_purge_under_way(days: int, kept: Kept) -> None:
    kept.storage.set_retention(30)
    kept.ingest([visit(FLOOR - 1, number) for number in range(9)])
    purge = kept.storage.purge(FLOOR)
    next(purge)
    next(purge)

    kept.storage.set_retention(days)
    for _ in purge:
        pass

    assert look(kept.storage).summary().total_hits == 6
    assert kept.dangling() == []


def test_database_that_was_never_told_learns_it_from_the_purge(kept: Kept) -> None:
    retention = Retention(kept.storage, 30, Clock())
    retention.declare()
    kept.sql("DELETE FROM settings WHERE name = 'retention_days'")  # as a replaced one
    kept.ingest([visit(FLOOR - 1)])

    run(retention)

    assert kept.sql("SELECT count(*) FROM visits") == [(0,)]


def test_locked_database_only_delays_retention(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    kept.ingest([visit(FLOOR - 1)])
    kept.storage.set_retention(90)
    retention = Retention(kept.storage, 30, clock)
    with closing(sqlite3.connect(kept.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        retention.declare()
        with pytest.raises(StorageError, match="locked"):
            retention.step()
        other.execute("ROLLBACK")

    assert not retention.is_due()
    clock.now += HOUR // 60
    assert run(retention)

    assert "retention_days=30 does not hold yet" in caplog.text
    assert kept.sql("SELECT count(*) FROM visits") == [(0,)]


def test_only_who_holds_the_ingest_lock_purges_and_lets_it_go_between_steps(kept: Kept) -> None:
    folder = kept.database.with_name("visits.db-spool")
    retention = Retention(kept.storage, 30, Clock())
    thread = IngestThread(Ingester(kept.storage, folder), retention, folder, 1 << 30)
    kept.ingest([visit(FLOOR - 1, number) for number in range(600)])

    with thread._host_lock.held():
        thread._purge()
    assert kept.sql("SELECT count(*) FROM visits") == [(600,)]
    for _ in range(100):
        thread._purge()
        with thread._host_lock.held() as ours:
            assert ours

    assert kept.sql("SELECT count(*) FROM visits") == [(0,)]


def test_tracker_that_ingests_purges_by_itself(
    tracked: Callable[..., Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def end(connection: sqlite3.Connection) -> bool:
        ended.set()
        return False

    monkeypatch.setattr(steps, "give_pages_back", end)
    tracker = tracked(ingest=True, retention_days=1)
    kept = Kept(tmp_path)
    kept.ingest([visit(NOW)])  # years ago
    client = webtest.TestApp(tracker)

    client.get("/boxes")

    assert ended.wait(PATIENCE_SECONDS)
    assert client.get("/api/tracking/summary").json["total_hits"] == 1
    assert kept.sql("SELECT endpoint FROM user_visits") == [("/boxes",)]
    kept.storage.close()


def test_tracker_that_only_records_purges_nothing(
    tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    kept = Kept(tmp_path)
    kept.ingest([visit(NOW)])
    client = webtest.TestApp(tracked(ingest=False, retention_days=1))

    client.get("/boxes")
    client.get("/api/tracking/summary")
    client.app.close()

    assert kept.sql("SELECT count(*) FROM user_visits") == [(2,)]
    kept.storage.close()


def test_many_trackers_start_at_once_with_one_retention(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)
    failed = []

    def start() -> None:
        barrier.wait(PATIENCE_SECONDS)
        try:
            Tracker(print, tmp_path / "visits.db", token="right", retention_days=30).close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    assert failed == []
    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        assert connection.execute(
            "SELECT value FROM settings WHERE name = 'retention_days'"
        ).fetchone() == (30,)
