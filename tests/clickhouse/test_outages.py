"""Servers of ClickHouse that are away, slow, full or refuse us: visits wait, and reports say why."""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import clickhouses
import engines
import pytest
from checks import QUEUED, ask, late_summary
from clickhouses import PASSWORD, Node
from disks import full, small_disk
from engines import new_database
from faultapp import answer
from load import Load
from proxy import Answer, Cut, Proxy, Silence, proxy, response
from servers import PATIENCE_SECONDS, Server, report
from waiting import wait_until as wait
from watched import WORKERS, check_answers, messages, server, wait_until
from werkzeug.test import Client

from wsgi_tracker import Tracker
from wsgi_tracker.backend import Backend
from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse.ledger import Ledger

SMALL_SPOOL_BYTES = 1 << 20
REPORTS = "reports answer 503: "


@dataclass(frozen=True, slots=True)
class Setting:
    """A server of a test's own, and the proxy before it."""

    node: Node
    between: Proxy
    folder: Path

    def certify(self, name: str) -> Path:
        """Have the proxy speak TLS by a new certificate; return that."""
        certificate = make_certificate(self.folder / name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.between.certificate = context
        return certificate


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    clickhouses.require_server()
    folder = tmp_path / "node"
    folder.mkdir()
    with (
        small_disk(folder / "data", 64),
        clickhouses.one_server(folder) as node,
        proxy(node.port) as between,
    ):
        yield Setting(node, between, tmp_path)


@contextmanager
def killed(setting: Setting) -> Iterator[None]:
    setting.node.kill()
    yield
    setting.node.start()


@contextmanager
def silent(setting: Setting) -> Iterator[None]:
    silence = Silence(threading.Event())
    setting.between.fault = lambda _: silence
    yield
    setting.between.fault = lambda _: None
    silence.over.set()


@contextmanager
def failing(setting: Setting) -> Iterator[None]:
    setting.between.fault = lambda _: Answer(response("502 Bad Gateway", b"<h1>Sorry</h1>"))
    yield
    setting.between.fault = lambda _: None


@contextmanager
def other(setting: Setting) -> Iterator[None]:
    setting.between.fault = lambda _: Answer(response("200 OK", b"<h1>Welcome</h1>"))
    yield
    setting.between.fault = lambda _: None


@contextmanager
def disk_full(setting: Setting) -> Iterator[None]:
    with full(setting.node.folder / "data"):
        yield


@contextmanager
def password_changed(setting: Setting) -> Iterator[None]:
    setting.node.give_password("another")
    yield
    setting.node.give_password(PASSWORD)


@contextmanager
def not_trusted(setting: Setting) -> Iterator[None]:
    trusted = setting.between.certificate
    setting.certify("other.pem")
    setting.between.fault = lambda _: Cut(0)  # what is connected trusts it already
    yield
    setting.between.certificate = trusted
    setting.between.fault = lambda _: None


def make_certificate(file: Path) -> Path:
    """Make a key and a certificate that only who is told so trusts."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    with file.open("a") as whole:
        whole.write(Path(f"{file}.crt").read_text())
    return file


Begin = Callable[[Setting], AbstractContextManager[None]]
outages = pytest.mark.parametrize(
    ("begin", "says"),
    [
        pytest.param(killed, "does not answer", id="killed"),
        # Who asks just before its end is cut off.
        pytest.param(silent, "does not answer: .*(timed out|closed)", id="silent"),
        pytest.param(failing, "answers 502", id="failing"),
        pytest.param(other, "answers what is no ClickHouse's answer", id="other"),
        pytest.param(disk_full, "No space left|Cannot reserve", id="full"),
        pytest.param(password_changed, "refuses user or password", id="password"),
        pytest.param(
            not_trusted, "does not answer: .*(certificate|closed|reset)", id="not trusted"
        ),
    ],
)


def stored(node: Node, url: str) -> tuple[Counter[int], dict[str, int]]:
    """Return how often each request is stored, the rest of the spool included, and the counts."""
    address = read_address(url)
    with closing(Backend(address, settings={})) as backend:
        wait(lambda: not backend.ingester.catch_up(PATIENCE_SECONDS).size_bytes)
    paths = node.ask(f"SELECT ifNull(path, endpoint) FROM {address.database}.visits").split()
    counts = Ledger(address.spool).entry().counts
    return Counter(int(path.rpartition("/")[2]) for path in paths), dict(counts)


@contextmanager
def tracked(url: str, folder: Path, spool_bytes: int = 64 << 20) -> Iterator[Server]:
    """Serve the application that is tracked in a database of ClickHouse."""
    environ = {"FAULTS_SECRET": engines.SECRET}
    with server(url, spool_bytes, folder=folder, environ=environ) as running:
        yield running


@outages
def test_visits_wait_for_the_end_of_an_outage(
    begin: Begin, says: str, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(setting.between.port, tmp_path)
    if begin is not_trusted:
        url = url.replace("clickhouse://", "clickhouses://")
        monkeypatch.setenv("SSL_CERT_FILE", str(setting.certify("trusted.pem")))
    with tracked(url, tmp_path) as running, Load(lambda: running.port, clients=4) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(100)
        wait_until(load, lambda: ask(running.port).status == 200, "it does not begin")
        with begin(setting):
            wait_until(load, lambda: messages(running)[0], "the outage is not logged")
            load.wait_for(200)
            wait_until(load, lambda: ask(running.port).status == 503, "reports know nothing of it")
            health = report(running.port, "health")
        wait_until(load, lambda: ask(running.port).status == 200, "it does not resume")
        wait_until(load, lambda: messages(running)[1], "its end is not logged")
        load.wait_for(50)
        load.stop()
        reported, _ = late_summary(running.port)

    begun, over = messages(running)
    check_answers(load, running)
    assert reported == load.count
    assert 200 <= health["queued"] <= load.count - health["recorded"]
    assert stored(setting.node, url) == (Counter(load.answered), {"recorded": load.count})
    assert all(re.search(says, line) for line in begun), begun
    # Each process says it once.
    assert 1 <= len(over) <= len(begun) <= WORKERS
    assert running.log.count(REPORTS) <= 2 * WORKERS
    assert PASSWORD not in running.log
    assert quote(PASSWORD) not in running.log


def test_workers_that_start_while_the_server_is_away_serve(
    setting: Setting, tmp_path: Path
) -> None:
    url = new_database(setting.between.port, tmp_path)
    setting.node.kill()
    with tracked(url, tmp_path) as running, Load(lambda: running.port, clients=4) as load:
        load.wait_for_workers(WORKERS)
        load.wait_for(100)
        assert ask(running.port).status == 503
        setting.node.start()
        wait_until(load, lambda: ask(running.port).status == 200, "it does not begin")
        load.stop()
        late_summary(running.port)

    check_answers(load, running)
    assert stored(setting.node, url) == (Counter(load.answered), {"recorded": load.count})


def test_spool_holds_visits_up_to_its_bound(setting: Setting, tmp_path: Path) -> None:
    url = new_database(setting.between.port, tmp_path)
    with (
        tracked(url, tmp_path, SMALL_SPOOL_BYTES) as running,
        Load(lambda: running.port, clients=4) as load,
    ):
        load.wait_for_workers(WORKERS)
        load.wait_for(100)
        with killed(setting):
            wait_until(load, lambda: "visits are dropped" in running.log, "nothing is dropped")
            load.wait_for(100)
            held = sum(
                path.stat().st_size for path in (tmp_path / "visits.db-spool").glob("*.ndjson")
            )
        wait_until(load, lambda: messages(running)[1], "it does not resume")
        load.wait_for(100)
        load.stop()
        late_summary(running.port)
        running.stop()

    check_answers(load, running)
    counted, counts = stored(setting.node, url)
    # It is looked at when a segment begins, which holds a sixteenth at most.
    assert held <= SMALL_SPOOL_BYTES * (1 + WORKERS / 16)
    assert set(counted.values()) == {1}
    assert counts["recorded"] == len(counted)
    assert counts["dropped"] >= 100
    assert sum(counts.values()) == load.count


# --- replicas and shards ------------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Sequence[Node]]:
    clickhouses.require_cluster()
    with clickhouses.cluster(tmp_path / "nodes") as nodes:
        yield nodes


@contextmanager
def tracker(url: str) -> Iterator[Client]:
    """Track an application whose reports ingest."""
    with Tracker(
        answer, url, secret=engines.SECRET, ingest=False, require_token=False
    ) as application:
        yield Client(application)


def visit(client: Client, numbers: range) -> None:
    """Send requests, each by another user."""
    for number in numbers:
        client.get(f"/t/{number}", headers={"User-Agent": f"agent {number}"})


def total(client: Client) -> tuple[int, str | None]:
    """Return the hits that a report tells of, and what could not be counted."""
    found = client.get("/api/tracking/summary")
    assert found.status_code == 200, found.text
    return found.json["total_hits"], found.headers.get(QUEUED)


# Which server is asked, and which of the first shard's two is killed.
@pytest.mark.parametrize(("asked", "victim", "other"), [(0, 2, 0), (1, 0, 2), (1, 2, 0)])
def test_shard_answers_as_long_as_one_of_its_replicas_does(
    asked: int, victim: int, other: int, nodes: Sequence[Node], tmp_path: Path
) -> None:
    url = new_database(nodes[asked].port, tmp_path, clickhouses.CLUSTER)
    with tracker(url) as client:
        visit(client, range(100))
        assert total(client) == (100, None)
        sync(nodes[other], url)
        nodes[victim].kill()
        visit(client, range(100, 200))
        assert total(client) == (200, None)
        nodes[victim].start()
        visit(client, range(200, 300))
        wait(lambda: client.get("/api/tracking/summary").status_code == 200)
        assert total(client) == (300, None)

    assert stored(nodes[asked], url) == (Counter(range(300)), {"recorded": 300})


def test_replica_that_lacks_visits_does_not_answer(nodes: Sequence[Node], tmp_path: Path) -> None:
    url = new_database(nodes[1].port, tmp_path, clickhouses.CLUSTER)
    with tracker(url) as client:
        visit(client, range(100))
        assert total(client) == (100, None)
        sync(nodes[2], url)
        nodes[2].stop()  # it misses the next ones
        visit(client, range(100, 200))
        assert total(client) == (200, None)
        nodes[0].kill()
        nodes[2].start()
        refused = client.get("/api/tracking/summary")
        nodes[0].start()
        wait(lambda: client.get("/api/tracking/summary").status_code == 200)
        assert total(client) == (200, None)

    assert refused.status_code == 503
    assert re.search("lacks visits|tries failed", refused.json["error"]["message"])


def test_answer_lacks_no_shard(nodes: Sequence[Node], tmp_path: Path) -> None:
    url = new_database(nodes[0].port, tmp_path, clickhouses.CLUSTER)
    with tracker(url) as client:
        visit(client, range(100))
        assert total(client) == (100, None)
        nodes[1].kill()
        visit(client, range(100, 200))
        refused = client.get("/api/tracking/summary")
        nodes[1].start()
        wait(lambda: client.get("/api/tracking/summary").status_code == 200)
        wait(lambda: total(client) == (200, None))

    assert refused.status_code == 503
    assert re.search("answers 500: .*(tries failed|replicas)", refused.json["error"]["message"])
    assert stored(nodes[0], url) == (Counter(range(200)), {"recorded": 200})


def sync(replica: Node, url: str) -> None:
    """Wait until a replica has what the others of its shard have."""
    replica.ask(f"SYSTEM SYNC REPLICA {read_address(url).database}.visits_of_shard")
