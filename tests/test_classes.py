"""Every user agent is decided once, at ingest; reports choose among the classes, and lose nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import webtest
from commands import command
from counting import look, only
from hosts import Host
from test_agents import REAL

from wsgi_tracker import Tracker, Visit, agents, open_storage
from wsgi_tracker.agents import CLASSES, Agent, data_version, load_classifier
from wsgi_tracker.errors import ConfigurationError
from wsgi_tracker.hostlock import HostLock
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.period import Granularity
from wsgi_tracker.storage import Batch
from wsgi_tracker.storage.sqlite import classes

Client = Callable[..., webtest.TestApp]
BEGIN = 1_755_081_000_000_000
CHROME = REAL["human"][0]
HEALTH = "/api/tracking/health"
PATIENCE_SECONDS = 30


def lines(user_agents: list[str | None]) -> bytes:
    return b"".join(
        Visit(BEGIN + n, f"{hash(agent):032x}", "GET", f"/{n % 7}", user_agent=agent).line()
        for n, agent in enumerate(user_agents)
    )


def sql(host: Host, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(host.database, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def classes_of(host: Host) -> dict[str, str | None]:
    return dict(sql(host, "SELECT user_agent, class FROM user_agents"))


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Have none of the packages, until the value is called."""

    def change(packages: tuple[str, ...]) -> None:
        monkeypatch.setattr(agents, "PACKAGES", packages)
        data_version.cache_clear()
        load_classifier.cache_clear()

    installed = agents.PACKAGES
    change(("crawler-user-agents-which-is-not-installed",))
    yield lambda: change(installed)
    change(installed)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine leave user agents undecided."""
    monkeypatch.setattr(classes, "REST_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def visited(client: Client) -> webtest.TestApp:
    """Return a client whose application was visited by every real user agent."""
    app = client()
    for number, user_agent in enumerate(agent for known in REAL.values() for agent in known):
        app.get(f"/{number % 5}", headers={"User-Agent": user_agent} if user_agent else {})
    return app


@pytest.mark.parametrize("agent_class", CLASSES)
def test_every_report_can_be_of_one_class(agent_class: str, visited: webtest.TestApp) -> None:
    of_class = f"class={agent_class}"
    expected = len(REAL[agent_class])

    stats = visited.get(f"/api/tracking/stats?{of_class}").json
    summary = visited.get(f"/api/tracking/summary?{of_class}").json
    trends = visited.get(f"/api/tracking/trends?{of_class}").json
    visits = visited.get(f"/api/tracking/visits?limit=1000&{of_class}").json

    assert sum(row["hit_count"] for row in stats["stats"]) == expected
    assert summary["total_hits"] == expected
    assert sum(bucket["hits"] for bucket in trends["trends"]) == expected
    assert visits["count"] == expected
    if agent_class != "empty":
        assert {visit["user_agent"] for visit in visits["visits"]} == set(REAL[agent_class])


@pytest.mark.parametrize("agent_class", CLASSES)
def test_class_and_all_others_are_all(agent_class: str, visited: webtest.TestApp) -> None:
    def hits(question: str) -> int:
        return int(visited.get(f"/api/tracking/summary{question}").json["total_hits"])

    everything = sum(len(known) for known in REAL.values())
    assert hits("") == hits("?class=all") == everything
    assert hits(f"?class=-{agent_class}") == everything - len(REAL[agent_class])


def test_answer_of_a_class_has_the_keys_of_the_contract(visited: webtest.TestApp) -> None:
    for report in ("stats", "summary", "trends", "visits"):
        of_all = visited.get(f"/api/tracking/{report}").json
        of_class = visited.get(f"/api/tracking/{report}?class=human").json

        assert list(of_class) == list(of_all)


def test_limit_counts_visits_of_the_class_alone(visited: webtest.TestApp) -> None:
    assert visited.get("/api/tracking/visits?class=search&limit=3").json["count"] == 3


def test_user_agent_is_stored_with_what_is_known_of_it(host: Host) -> None:
    host.segment(lines([CHROME, "GPTBot/1.2"]))
    host.ingest()

    known = sql(host, "SELECT class, rule, browser, system, device FROM user_agents ORDER BY id")
    assert known == [
        ("human", "ua-parser: Chrome", "Chrome", "Windows", None),
        ("ai_training", "name: GPTBot", None, None, None),
    ]
    assert sql(host, "SELECT value FROM settings WHERE name = 'agents_data'") == [(data_version(),)]


def test_user_agent_is_decided_once(host: Host) -> None:
    asked: list[str] = []
    classify = load_classifier()
    assert classify is not None

    def note(user_agent: str) -> Agent:
        asked.append(user_agent)
        return classify(user_agent)

    host.storage._counting._decisions._classify = note  # type: ignore[attr-defined]
    for user_agents in ([CHROME] * 3, [CHROME, "curl/8", None], ["curl/8"] * 2):
        host.segment(lines(user_agents))
        host.ingest()

    assert Counter(asked) == {CHROME: 1, "curl/8": 1}


def test_new_user_agents_that_come_too_fast_stay_unknown_until_all_are_classified_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(lines([CHROME]))
    host.ingest()
    names = [f"curl/{n}" for n in range(4)]
    host.segment(lines(names))
    with monkeypatch.context() as patch:
        patch.setattr(classes, "DECIDE_SECONDS", 0.0)
        patch.setattr(classes, "REST_SECONDS", 0.0)
        host.ingester.run_once()

    decided = classes_of(host)
    unknown = look(host.storage).summary(only("unknown")).total_hits
    rules = sql(host, "SELECT DISTINCT rule FROM user_agents WHERE class = 'unknown'")
    for _ in host.storage.reclassify():
        pass

    assert decided == {CHROME: "human", **dict.fromkeys(names, "unknown"), names[-1]: "tool"}
    assert (unknown, rules) == (3, [("too many at once",)])
    assert look(host.storage).summary(only("tool")).total_hits == 4


def test_new_user_agents_beyond_a_transaction_follow_in_others_at_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "DECIDE_SECONDS", 0.0)
    host.segment(lines([f"curl/{n}" for n in range(50)]))

    host.ingester.run_once()

    assert set(classes_of(host).values()) == {"tool"}


def test_others_ingest_while_what_classifies_is_loaded(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a second on a busy machine: no report of another process waits for that."""
    hits: list[int] = []

    with monkeypatch.context() as patch:

        def load() -> Any:
            patch.undo()
            host.segment(lines([CHROME, "curl/8"]))
            with closing(open_storage(host.database)) as of_another:
                Ingester(of_another, host.folder).run_once()
            hits.append(host.hits())
            return load_classifier()

        patch.setattr(classes, "load_classifier", load)
        host.segment(lines([CHROME]))
        host.ingester.run_once()

    assert hits == [3]
    assert classes_of(host) == {CHROME: "human", "curl/8": "tool"}


def test_user_agent_is_decided_by_whoever_stores_the_next_batch_if_others_came_between(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as others, monkeypatch.context() as patch:

        def load() -> Any:
            others.enter_context(HostLock.of(host.folder).held())
            return load_classifier()

        patch.setattr(classes, "load_classifier", load)
        host.segment(lines([CHROME]))
        host.ingester.run_once()
        before = classes_of(host)

    host.segment(lines(["curl/8"]))
    with closing(open_storage(host.database)) as of_another:
        Ingester(of_another, host.folder).run_once()

    assert before == {CHROME: None}
    assert classes_of(host) == {CHROME: "human", "curl/8": "tool"}


def test_one_thread_loads_what_classifies(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that ingests meanwhile does not wait for it."""
    again: list[bool] = []

    def load() -> Any:
        again.append(host.storage.load_classifier())
        return load_classifier()

    monkeypatch.setattr(classes, "load_classifier", load)
    host.segment(lines([CHROME]))
    host.ingester.run_once()

    assert again == [False]
    assert classes_of(host) == {CHROME: "human"}


FORKING = """
import os, sys, threading
from wsgi_tracker import open_storage, process
from wsgi_tracker.storage import Batch
from wsgi_tracker.storage.sqlite import classes

class Fork:
    def begin(self):
        forking.set()

def load():
    begun.set()
    forking.wait(60)
    for _ in range(300):  # a fork that does not wait is done by then
        os.sched_yield()
    classifier = load_classifier()
    loaded.append(True)
    return classifier

begun, forking, loaded, fork = threading.Event(), threading.Event(), [], Fork()
load_classifier, classes.load_classifier = classes.load_classifier, load
storage = open_storage(sys.argv[1])
storage.ingest([], lambda _: Batch(bytes.fromhex(sys.argv[2])), durable=False)
process.watch_forks(before=fork.begin)
thread = threading.Thread(target=storage.load_classifier)
thread.start()
begun.wait(60)
child = os.fork()
if not child:
    os._exit(0 if loaded else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""


def test_no_fork_comes_in_the_middle_of_what_is_imported(host: Host) -> None:
    """A child that imports the same would wait for a thread that it does not have."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    arguments = [str(host.database), lines([CHROME]).hex()]

    done = subprocess.run(
        [*command, *arguments], check=True, capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.stderr) == ("0\n", "")


def test_check_decides_and_counts_what_nobody_has(host: Host) -> None:
    host.storage.ingest([], lambda _: Batch(lines([CHROME])), durable=False)

    assert host.storage.check() is None
    assert host.storage.facts([]).uncounted == 0
    assert classes_of(host) == {CHROME: "human"}


def test_visits_are_counted_though_the_packages_cannot_be_used(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "load_classifier", lambda: None)
    host.storage.ingest([], lambda _: Batch(lines([CHROME])), durable=False)

    for _ in host.storage.rebuild():
        pass

    assert host.storage.facts([]).uncounted == 0


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        pytest.param("UNDECIDED", "SELECT id FROM nothing LIMIT ?", id="reading"),
        pytest.param("STORE", "UPDATE nothing SET a = ?, b = ?, c = ?, d = ?, e = ?", id="storing"),
    ],
)
def test_visits_are_ingested_though_deciding_fails(
    name: str, statement: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was committed before: what was rejected in it must be kept."""
    host.storage._counting._decisions._classify = None  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(classes, name, statement)
        segment = host.segment(lines([CHROME]) + b"5\n")
        host.ingester.run_once()

    assert host.hits() == 1
    assert host.rejected() == b"5\n"
    assert not segment.exists()
    assert classes_of(host) == {CHROME: None}


def test_worker_that_ends_while_it_decides_keeps_what_was_rejected(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was counted, and its rejected line taken back."""

    def end(*args: Any) -> None:
        raise SystemExit

    host.segment(lines([CHROME]) + b"5\n")
    monkeypatch.setattr(host.storage._counting._decisions, "after", end)  # type: ignore[attr-defined]

    with pytest.raises(SystemExit):
        host.ingester.run_once()

    assert host.hits() == 1
    assert host.rejected() == b"5\n"


def test_visit_inserted_through_the_view_gets_its_class(host: Host) -> None:
    sql(
        host,
        "INSERT INTO user_visits (user_hash, endpoint, method, timestamp_us, user_agent) "
        "VALUES ('a', '/', 'GET', ?, ?)",
        BEGIN,
        CHROME,
    )
    host.segment(b"")
    host.ingest()

    assert look(host.storage).summary(only("human")).total_hits == 1


def test_user_agent_that_is_no_text_is_decided_too(host: Host) -> None:
    sql(host, "INSERT INTO user_agents (user_agent) VALUES (CAST(x'ff' AS TEXT))")
    sql(host, "INSERT INTO user_agents (user_agent) VALUES (x'61')")
    host.segment(b"")
    host.ingest()

    assert sql(host, "SELECT count(*) FROM user_agents WHERE class IS NULL") == [(0,)]


def test_without_the_packages_all_is_unknown_and_health_says_so(
    client: Client, without_data: Callable[[], None]
) -> None:
    app = client()
    app.get("/", headers={"User-Agent": CHROME})
    app.get("/", headers={"User-Agent": ""})

    def hits(agent_class: str) -> int:
        report = app.get(f"/api/tracking/summary?class={agent_class}").json
        return int(report["total_hits"])

    before = hits("unknown"), hits("human"), hits("empty")
    health = app.get(HEALTH).json
    without_data()
    app.get("/")

    assert before == (1, 0, 1)
    assert health["status"] == "ok"
    assert health["warnings"] == [
        "the class of new user agents stays unknown: pip install 'wsgi-tracker[agents]'"
    ]
    assert (hits("unknown"), hits("human"), hits("empty")) == (0, 1, 2)
    assert app.get(HEALTH).json["warnings"] == []


def test_classes_of_older_data_are_named_and_brought_up_to_date(
    tracked: Callable[..., Tracker],
) -> None:
    tracker = tracked()
    app = webtest.TestApp(tracker, extra_environ={"REMOTE_ADDR": "8.8.8.8"})
    app.get("/", headers={"User-Agent": CHROME})
    app.get("/api/tracking/summary")
    with closing(sqlite3.connect(tracker._backend.storage.database)) as connection, connection:
        connection.execute("UPDATE user_agents SET class = 'tool', rule = 'old', browser = NULL")
        connection.execute("UPDATE settings SET value = 'older' WHERE name = 'agents_data'")

    app.get("/", headers={"User-Agent": "curl/8"})
    before = app.get("/api/tracking/summary?class=tool").json["total_hits"]
    (warning,) = app.get(HEALTH).json["warnings"]
    done = command("reclassify", "--database", tracker._backend.storage.database)

    assert before == 2
    assert f"classified by {agents.data_version()}" in done.stdout
    assert warning.startswith("user agents were classified by older, and crawler-user-agents ")
    assert app.get("/api/tracking/summary?class=tool").json["total_hits"] == 1
    assert app.get("/api/tracking/summary?class=human").json["total_hits"] == 1
    assert app.get(HEALTH).json["warnings"] == []


def test_reclassification_takes_small_steps_and_reaches_everything(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"curl/{n}" for n in range(7)]
    host.segment(lines([*names]))
    host.ingest()
    sql(host, "UPDATE user_agents SET class = 'human'")
    sql(host, "UPDATE settings SET value = 'older' WHERE name = 'agents_data'")
    monkeypatch.setattr(classes, "AGENTS_PER_STEP", 3)

    decided = []
    for _ in host.storage.reclassify():
        decided.append(list(classes_of(host).values()).count("tool"))
        host.segment(lines([CHROME]))
        host.ingest()
        assert look(host.storage).summary().total_hits == 7 + len(decided)

    assert decided == [3, 6, 7, 7]
    assert classes_of(host) == {**dict.fromkeys(names, "tool"), CHROME: "human"}
    assert host.storage.facts([]).agents_data == data_version()


def test_reclassification_that_is_given_up_is_still_due(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(lines([f"curl/{n}" for n in range(3)]))
    host.ingest()
    sql(host, "UPDATE settings SET value = 'older' WHERE name = 'agents_data'")
    monkeypatch.setattr(classes, "AGENTS_PER_STEP", 1)

    next(host.storage.reclassify())

    assert host.storage.facts([]).agents_data == "older"


def test_reclassification_without_data_says_what_to_install(
    host: Host, without_data: Callable[[], None]
) -> None:
    with pytest.raises(ConfigurationError, match="pip install"):
        next(host.storage.reclassify())


def test_two_processes_decide_the_same(host: Host) -> None:
    """Each with a connection of its own, at the same time."""
    host.segment(lines([agent for known in REAL.values() for agent in known]))
    host.ingest()
    expected = classes_of(host)
    sql(host, "UPDATE user_agents SET class = NULL")
    barrier = threading.Barrier(2)
    errors: list[Exception] = []

    def work() -> None:
        with closing(open_storage(host.database)) as storage:
            barrier.wait(PATIENCE_SECONDS)
            try:
                for _ in storage.reclassify():
                    pass
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    assert errors == []
    assert classes_of(host) == expected


def test_trends_of_a_class_hold_its_users_and_endpoints_alone(host: Host) -> None:
    host.segment(lines([CHROME, "curl/8", CHROME, "curl/8", "curl/9"]))
    host.ingest()

    (bucket,) = look(host.storage).trends(only("tool"), Granularity.DAY)

    assert (bucket.hits, bucket.unique_users, bucket.unique_endpoints) == (3, 2, 3)
