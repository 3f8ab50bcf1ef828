"""Real ClickHouse servers for tests, alone and as a cluster, on free ports of this host."""

from __future__ import annotations

import http.client
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

from needs import require
from servers import PATIENCE_SECONDS
from waiting import wait_until

SERVER = shutil.which("clickhouse-server") or "/usr/sbin/clickhouse-server"
ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")
CLUSTER = "two_shards"
FIRST_PORT, PROCESSES, PORTS = 20_000, 12, 1_000
USER, PASSWORD = "tracker", "of the tests' own"
CONFIG = """<yandex>
<logger><level>warning</level><log>{folder}/server.log</log><errorlog>{folder}/errors.log</errorlog>
<levels><DDLWorker>debug</DDLWorker></levels></logger>
<listen_host>127.0.0.1</listen_host>
<http_port>{http}</http_port><tcp_port>{tcp}</tcp_port>
<interserver_http_port>{between}</interserver_http_port>
<interserver_http_host>127.0.0.1</interserver_http_host>
<path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path>
<format_schema_path>{folder}/schemas/</format_schema_path>
<users_config>users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<timezone>{timezone}</timezone>
<mark_cache_size>67108864</mark_cache_size>
{more}
</yandex>
"""
OF_CLUSTER = """<remote_servers><{cluster}>{shards}</{cluster}></remote_servers>
<macros><shard>{shard}</shard><replica>{replica}</replica></macros>
<zookeeper><node><host>127.0.0.1</host><port>{zookeeper}</port></node>
<session_timeout_ms>1000</session_timeout_ms></zookeeper>
<distributed_ddl><path>/clickhouse/ddl</path></distributed_ddl>
"""
USERS = """<yandex>
<profiles><default><max_threads>2</max_threads>
<!-- what must not matter -->
<skip_unavailable_shards>1</skip_unavailable_shards><timeout_overflow_mode>break</timeout_overflow_mode>
<input_format_allow_errors_num>1000</input_format_allow_errors_num><join_use_nulls>1</join_use_nulls>
</default></profiles>
<users>
<default><password></password><networks><ip>127.0.0.1</ip></networks>
<profile>default</profile><quota>default</quota></default>
<{user}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>
<profile>default</profile><quota>default</quota></{user}>
</users>
<quotas><default></default></quotas>
</yandex>
"""


def require_server() -> None:
    """Skip a test without Debian's server; on the project's own machine, fail."""
    require(Path(SERVER).exists(), "clickhouse-server")


def require_cluster() -> None:
    """Skip a test without what a cluster needs."""
    require_server()
    require(ZOOKEEPER.exists(), "zookeeper")
    require(shutil.which("java"), "java")


def require_chdb() -> None:
    """Skip a test without the engine of today."""
    require(find_spec("chdb"), "chdb")


def _own_ports() -> Iterator[int]:
    """Give ports in turn that no outgoing connection has; whoever tests beside has others."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST_PORT + number % PROCESSES * PORTS
    begin = secrets.randbelow(PORTS)  # tests seed random alike
    return itertools.cycle(first + (begin + count) % PORTS for count in range(PORTS))


_ports = _own_ports()


def quiet_port() -> int:
    """Return a free port that nobody else takes, as a server takes a while to start."""
    while True:
        with suppress(OSError), socket.socket() as probe:
            port = next(_ports)
            probe.bind(("127.0.0.1", port))
            return port


class Node:
    """A server; one that was stopped, or killed, starts again over what it has."""

    def __init__(self, folder: Path, timezone: str = "UTC") -> None:
        self.folder = folder
        self._timezone = timezone
        self.port, self.tcp, self.between = quiet_port(), quiet_port(), quiet_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.more = ""
        self._changes = itertools.count()

    def start(self) -> None:
        """Start, and wait until it answers."""
        for name in ("data", "tmp", "schemas"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.write_config()
        self.give_password(PASSWORD)
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [SERVER, f"--config-file={self.folder}/config.xml"],
                cwd=self.folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_until(lambda: self._answers() or self._process.poll() is not None)  # type: ignore[union-attr]
        if self._process.poll() is not None:
            raise RuntimeError((self.folder / "out").read_text()[-2000:])

    def write_config(self) -> None:
        """Say what it is and what it knows of others; a server that runs reads it within seconds."""
        config = CONFIG.format(
            folder=self.folder,
            http=self.port,
            tcp=self.tcp,
            between=self.between,
            timezone=self._timezone,
            more=self.more,
        )
        self._write("config.xml", config)

    def give_password(self, password: str) -> None:
        """Say what its user's password is; a server that runs reads it within seconds."""
        self._write("users.xml", USERS.format(user=USER, password=password))

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        changed = time.time() + next(self._changes)
        os.utime(path, (changed, changed))  # it looks at whole seconds

    def _answers(self) -> bool:
        with suppress(OSError):
            return bool(self.ask("SELECT 1"))
        return False

    def ask(self, statement: str, **settings: str) -> str:
        """Return what it answers as text; raise :exc:`OSError` where it does not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("POST", f"/?{urlencode(settings)}", statement.encode())
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise OSError(body)
        return body

    def stop(self) -> None:
        """End it, as an operator would."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def one_server(folder: Path, timezone: str = "UTC") -> Iterator[Node]:
    """Run one server."""
    node = Node(folder, timezone)
    with ExitStack() as running:
        running.callback(node.kill)
        node.start()
        yield node


class Engine(Node):
    """Today's engine; see chdb_server.py."""

    def start(self) -> None:
        """Start, and wait until it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            str(Path(__file__).with_name("chdb_server.py")),
            str(self.folder),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """End it, and what it prints to."""
        super().kill()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def engine_of_today(folder: Path) -> Iterator[Node]:
    """Run chdb."""
    engine = Engine(folder)
    try:
        engine.start()
        yield engine
    finally:
        engine.kill()


@contextmanager
def cluster(folder: Path) -> Iterator[Sequence[Node]]:
    """Run two shards, of which the first has a second replica, the last of the three."""
    nodes = [Node(folder / name) for name in ("first", "second", "replica")]
    places = [(1, "a"), (2, "a"), (1, "b")]
    shards = "".join(
        "<shard><internal_replication>true</internal_replication>"
        + "".join(
            f"<replica><host>127.0.0.1</host><port>{node.tcp}</port>"
            f"<user>{USER}</user><password>{PASSWORD}</password></replica>"
            for node, (of, _) in zip(nodes, places, strict=True)
            if of == shard
        )
        + "</shard>"
        for shard in (1, 2)
    )
    with zookeeper(folder / "zookeeper") as port, ExitStack() as running:
        for node, (shard, replica) in zip(nodes, places, strict=True):
            node.more = OF_CLUSTER.format(
                cluster=CLUSTER, shards=shards, shard=shard, replica=replica, zookeeper=port
            )
            running.callback(node.kill)
            node.start()
        wait_until(lambda: all(map(_takes_statements, nodes)))
        yield nodes


def _takes_statements(node: Node) -> bool:
    """Return whether a server takes what is for the whole cluster: before, it crashes over that."""
    return "DDLWorker: Waiting a watch" in (node.folder / "server.log").read_text()


@contextmanager
def zookeeper(folder: Path) -> Iterator[int]:
    """Run ZooKeeper; the result is its port."""
    folder.mkdir(parents=True)
    port = quiet_port()
    (folder / "zoo.cfg").write_text(
        f"tickTime=500\ndataDir={folder}/data\nclientPort={port}\n"
        "clientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
    )
    command = ["java", "-Xmx128m", "-cp", str(ZOOKEEPER)]
    command += ["org.apache.zookeeper.server.quorum.QuorumPeerMain", str(folder / "zoo.cfg")]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: _serves(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _serves(port: int) -> bool:
    """Return whether ZooKeeper does: a server of ClickHouse that comes too soon crashes."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"srvr")
        return b"Mode: standalone" in connection.recv(4096)
    return False


def main() -> None:
    """Run a cluster, or one server, in a folder until somebody presses Enter.

    PYTHONPATH=tests python tests/clickhouse/clickhouses.py cluster FOLDER
    """
    kind, folder = sys.argv[1:]
    with cluster(Path(folder)) if kind == "cluster" else one_server(Path(folder)) as running:
        print(*(node.port for node in (running if kind == "cluster" else [running])), flush=True)
        sys.stdin.read(1)


if __name__ == "__main__":
    main()
