"""A load of so many requests a second, from a process of its own, beside which others are timed."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import common

CONNECTIONS = 8
PATIENCE_SECONDS = 30


@dataclass(slots=True)
class Sent:
    """What was answered, how long each answer took, and how often a connection had to be made anew."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        """Return how many answers a second there were."""
        return len(self.latencies) / self.seconds


@contextmanager
def load(port: int, requests: Sequence[bytes], rate: float, cpu: int) -> Iterator[list[Sent]]:
    """Send requests meanwhile, over and over; the list has one :class:`Sent` at the end."""
    context = multiprocessing.get_context("spawn")
    stop, (receiver, sender) = context.Event(), context.Pipe(duplex=False)
    process = context.Process(target=_send_all, args=(port, requests, rate, cpu, stop, sender))
    process.start()
    sent: list[Sent] = []
    try:
        yield sent
    finally:
        stop.set()
        sent.append(receiver.recv())
        process.join()


def _send_all(
    port: int, requests: Sequence[bytes], rate: float, cpu: int, stop: Event, sender: Any
) -> None:
    common.pin({cpu})
    sent, began = Sent(), time.perf_counter()
    threads = [
        threading.Thread(target=_send, args=(port, requests, rate, number, began, stop, sent))
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent.seconds = time.perf_counter() - began
    sender.send(sent)


def _send(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    first: int,
    began: float,
    stop: Event,
    sent: Sent,
) -> None:
    """Send every eighth request when its time has come, or as soon as the one before is answered."""
    connection = _connect(port)
    for number in itertools.count(first, CONNECTIONS):
        if stop.wait(max(0.0, began + number / rate - time.perf_counter())):
            break
        started = time.perf_counter()
        try:
            _ask(connection, requests[number % len(requests)])
        except OSError:
            sent.errors += 1
            connection.close()
            connection = _connect(port)
        else:
            sent.latencies.append(time.perf_counter() - started)
    connection.close()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def _ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    answer = b""
    while not answer.endswith(common.BODY):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the server has closed the connection")
        answer += part
