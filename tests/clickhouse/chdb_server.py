"""Today's ClickHouse behind HTTP, for tests: chdb is its engine as a library, and opens no port.

    python chdb_server.py FOLDER

It prints its port. What is tested with it is what we send and how it is answered; not the HTTP of a
server, nor users or clusters.
"""

from __future__ import annotations

import gzip
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb

# Of the protocol, not of the engine.
OF_HTTP = {"query", "database", "default_format", "query_id", "wait_end_of_query"}
INSERT = re.compile(r"INSERT INTO (.*) FORMAT JSONEachRow", re.DOTALL)


class Handler(BaseHTTPRequestHandler):
    """Answer one statement at a time."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer's body waits for its header to be acknowledged
    connection_of_engine: Any
    lock = threading.Lock()

    def do_POST(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        try:
            with self.lock:
                answer, status = self._run(parameters, body), 200
        except Exception as error:
            answer, status = str(error).encode(), 500
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-ClickHouse-Server-Display-Name", "chdb")
        self.end_headers()
        self.wfile.write(answer)

    def _run(self, parameters: dict[str, str], body: bytes) -> bytes:
        engine = self.connection_of_engine
        engine.query(f"USE {parameters.get('database', 'default')}")
        settings = ", ".join(
            f"{name} = {value if value.replace('.', '').isdigit() else repr(value)}"
            for name, value in parameters.items()
            if name not in OF_HTTP
        )
        settings = f" SETTINGS {settings}" if settings else ""
        form = parameters.get("default_format", "TabSeparated")
        if found := INSERT.fullmatch(parameters.get("query", "")):
            with tempfile.NamedTemporaryFile() as file:
                file.write(body)
                file.flush()
                engine.query(
                    f"INSERT INTO {found[1]} FROM INFILE '{file.name}'{settings} FORMAT JSONEachRow"
                )
            return b""
        statement = body.decode()
        if statement.lstrip().startswith("SELECT"):
            statement += settings
        return bytes(engine.query(statement, form).bytes() or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    """Serve the engine's data in a folder."""
    Handler.connection_of_engine = chdb.connect(str(Path(sys.argv[1]) / "data"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
