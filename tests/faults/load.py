"""A load that knows exactly which of its requests were answered to the last byte."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faultapp import END, blocks_of

PATIENCE_SECONDS = 30
KINDS = "tcs"
AGENTS = 50
INTERRUPTED = b"HTTP/1.1 500 "  # from gunicorn, amid an answer whose application it has ended
REQUESTS_PER_CONNECTION = 12  # then another worker may get the next


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that came whole."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection, kept alive; an answer that is cut off raises :exc:`OSError`."""

    def __init__(self, port: int, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_seconds)
        self._file = self._socket.makefile("rb")

    def get(self, path: str, headers: Sequence[str] = ()) -> Answer:
        """Send a request and read all of its answer."""
        lines = (f"GET {path} HTTP/1.1", "Host: load", *headers, "\r\n")
        self._socket.sendall("\r\n".join(lines).encode())
        status = int(self._line().split(b" ")[1])
        found = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            found[name.lower()] = value.strip()
        body = self._body(found)
        if INTERRUPTED in body:
            raise ConnectionError("cut off")
        return Answer(status, found, body)

    def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self._bytes(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return self._rest()
        body = b""
        while size := self._chunk_size():
            body += self._bytes(size)
            self._line()
        self._line()
        return body

    def _chunk_size(self) -> int:
        line = self._line()
        if line.startswith(INTERRUPTED):
            raise ConnectionError("cut off")
        return int(line, 16)

    def _rest(self) -> bytes:
        """Read to the end of the connection; only the last block says that it came whole."""
        body = self._file.read()
        if not body.endswith(END):
            raise ConnectionError("cut off")
        return body

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("cut off")
        return line[:-2]

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionError("cut off")
        return data

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Load:
    """Clients in threads that send request after request; use it in ``with``.

    They go on until ``stop``, or until ``requests`` were sent. Every id that was sent is in
    ``answered``, in ``unanswered``, or in ``crossed``: answered with what is not its own.
    """

    def __init__(
        self,
        port: Callable[[], int],
        clients: int,
        requests: int | None = None,
        *,
        kinds: str = KINDS,
        requests_per_connection: int = REQUESTS_PER_CONNECTION,
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._port = port
        self._kinds = kinds
        self._requests_per_connection = requests_per_connection
        self._timeout_seconds = timeout_seconds
        self._numbers = iter(itertools.count() if requests is None else range(requests))
        self._stop = threading.Event()
        self._progress = threading.Condition()  # guards the numbers, and the five that follow
        self.answered: set[int] = set()
        self.unanswered: set[int] = set()
        self.crossed: set[int] = set()
        self.workers: set[int] = set()
        self.slowest_seconds = 0.0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Connection(self._port(), self._timeout_seconds) as connection:
                    for _ in range(self._requests_per_connection):
                        if not self._request(connection):
                            break
            except OSError:
                # Its server was killed; the next one listens when the test says so.
                self._stop.wait(0.005)
            except StopIteration:
                return

    def _request(self, connection: Connection) -> bool:
        """Send the next request; False if the connection is not to be used again."""
        with self._progress:
            number = next(self._numbers)
            self.unanswered.add(number)
        agent = f"User-Agent: agent {number % AGENTS}"
        began = time.monotonic()
        answer = connection.get(f"/{self._kinds[number % len(self._kinds)]}/{number}", [agent])
        if "x-worker" not in answer.headers:
            return False  # the server's own: it ended the application's
        with self._progress:
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.unanswered.discard(number)
            self.workers.add(int(answer.headers["x-worker"]))
            (self.answered if _is_own(answer, number) else self.crossed).add(number)
            self._progress.notify_all()
        return answer.headers.get("connection") != "close" and not self._stop.is_set()

    @property
    def count(self) -> int:
        """How many requests were answered up to now."""
        with self._progress:
            return len(self.answered)

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.count + more
        self._wait(lambda: len(self.answered) >= wanted, f"{wanted} answers")

    def wait_for_workers(self, more: int) -> None:
        """Wait until so many more processes have answered."""
        wanted = len(self.workers) + more
        self._wait(lambda: len(self.workers) >= wanted, f"answers of {wanted} processes")

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        with self._progress:
            if not self._progress.wait_for(reached, PATIENCE_SECONDS):
                raise TimeoutError(f"{what} wanted, there are {len(self.answered)} answers")

    def finish(self) -> None:
        """Wait until all of ``requests`` were sent and answered, or lost."""
        for thread in self._threads:
            thread.join(2 * PATIENCE_SECONDS)
            if thread.is_alive():
                raise TimeoutError(f"a client still waits after {self.count} answers")

    def stop(self) -> None:
        """Let every client finish its request."""
        self._stop.set()
        self.finish()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _is_own(answer: Answer, number: int) -> bool:
    return (answer.status, answer.headers.get("x-id"), answer.body) == (
        200,
        str(number),
        b"".join(blocks_of(str(number))),
    )
