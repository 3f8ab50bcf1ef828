"""A proxy before a server that can misbehave: cut connections anywhere, keep silent, answer itself.

Each request it gets is read whole, and passed on as its fault says.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

PATIENCE_SECONDS = 60
PIECE_BYTES = 65536
END_OF_HEAD = b"\r\n\r\n"
# Closes a connection at once, with a reset.
AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Cut:
    """End both connections once so many bytes of the request, or else of its answer, went through.

    At once, as a firewall does, or ``quietly``, as the kernel does for a process that was killed.
    """

    bytes: int
    quietly: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Do not pass a request on, and answer this."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Silence:
    """Do not pass a request on, and do not answer until ``over``."""

    over: threading.Event


Fault = Callable[[bytes], "Cut | Answer | Silence | None"]


def no_fault(request: bytes) -> None:
    """Pass every request on."""


def response(status: str, body: bytes) -> bytes:
    """Return an answer as HTTP has it."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class Proxy:
    """Pass requests on to a port of this host; ``fault`` says what else befalls each of them.

    With ``certificate``, it speaks TLS with those who come from then on.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.fault: Fault = no_fault
        self.certificate: ssl.SSLContext | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(PATIENCE_SECONDS)
        with suppress(OSError):
            if self.certificate is not None:
                client = self.certificate.wrap_socket(client, server_side=True)
            while request := _message(client):
                if not self._pass_on(request, client):
                    break
        client.close()

    def _pass_on(self, request: bytes, client: socket.socket) -> bool:
        """Treat one request; False if its connection is to end."""
        fault = self.fault(request)
        if isinstance(fault, Answer):
            client.sendall(fault.data)
            return True
        if isinstance(fault, Silence):
            fault.over.wait(PATIENCE_SECONDS)
            return False
        # A new one each time, as servers end those that were quiet for some seconds.
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            server.settimeout(PATIENCE_SECONDS)
            if isinstance(fault, Cut):
                _cut(fault, request, client, server)
                return False
            server.sendall(request)
            client.sendall(_message(server))
        return True

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """Run a proxy before a port."""
    running = Proxy(port)
    try:
        yield running
    finally:
        running.close()


def _cut(fault: Cut, request: bytes, client: socket.socket, server: socket.socket) -> None:
    server.sendall(request[: fault.bytes])
    if fault.bytes > len(request):
        client.sendall(_message(server)[: fault.bytes - len(request)])
    for end in (server, client):
        if not fault.quietly:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        end.close()


def _message(end: socket.socket) -> bytes:
    """Read a request or an answer, head and body; nothing where the other end has closed."""
    data = b""
    while END_OF_HEAD not in data:
        piece = end.recv(PIECE_BYTES)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(END_OF_HEAD)
    if b"transfer-encoding: chunked" in head.lower():
        while not body.endswith(b"0\r\n\r\n"):
            body += _piece(end)
    else:
        while len(body) < _length(head):
            body += _piece(end)
    return head + END_OF_HEAD + body


def _piece(end: socket.socket) -> bytes:
    piece = end.recv(PIECE_BYTES)
    if not piece:
        raise ConnectionError("the other end has closed")
    return piece


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
