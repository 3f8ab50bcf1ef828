"""One request under observation: what the application answers, and when that counts as a visit.

Nothing the application or the server could notice is changed. The visit is written before the
block that completes the answer is handed on: servers send their last byte before they call
``close()``, and a worker killed in between would have answered a visit nobody counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from .recorder import Recorder
from .visit import encode_error, incomplete_place, place_of

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    ExcInfo: TypeAlias = (
        "tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]"
    )

RAISED = "500"
NONE = ""  # there was no answer
CLIENT_LEFT = "client_left"
ENDLESS = 1 << 62


class Observation:
    """What is known of one request, from before the application is called to its last byte."""

    __slots__ = (
        "_known_length",
        "_recorder",
        "_server_start_response",
        "_server_write",
        "bytes_sent",
        "client",
        "endpoint",
        "environ",
        "first_byte_us",
        "headers",
        "place",
        "recorded",
        "referer",
        "started_ns",
        "status",
        "timestamp_ns",
    )
    status: str
    first_byte_us: int | str  # 0: with the last

    def __init__(
        self, recorder: Recorder, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.timestamp_ns = time_ns()
        self.started_ns = perf_counter_ns()
        self._recorder = recorder
        self.environ = environ
        self._server_start_response = start_response
        try:
            self.place = place_of(environ)
            self.client = recorder.client_of(environ)
        except KeyError:
            self.place = incomplete_place(environ)
            self.client = recorder.incomplete_client(environ)
        self.referer: str | None = environ.get("HTTP_REFERER")
        self.status = RAISED  # what servers answer when start_response is never called
        self.endpoint: str | None = None
        self.first_byte_us = 0
        self.bytes_sent = 0
        self.recorded = False
        self._known_length: int | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """Stand in for the server's ``start_response``."""
        if exc_info is None:
            self._server_write = self._server_start_response(status, headers)
        else:
            self._server_write = self._server_start_response(status, headers, exc_info)
            self._known_length = None  # of the answer that this one replaces
        self.status = status
        self.headers = headers
        self._find_endpoint()
        return self._write

    def _find_endpoint(self) -> None:
        try:
            self.endpoint = self._recorder.find_endpoint(self.environ)
        except Exception as fault:  # the visit counts under its path
            self._recorder.report(fault)

    def _write(self, data: bytes) -> object:
        self._sends(data)
        return self._server_write(data)

    def watch(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return what to hand to the server in place of ``body``."""
        # Lists and files go back as they are: servers look at the type, for sendfile and, with
        # len() == 1, for Content-Length. They are as good as sent.
        if type(body) is list or isinstance(body, (list, tuple)):
            if not self.recorded:
                self.recorded = True
                self._recorder.record(self, self._sent_with(body))
            return body
        if self._is_file(body):
            if not self.recorded:
                self.recorded = True
                length = self._length()
                self._recorder.record(self, "null" if length == ENDLESS else length)
            return body
        return _SizedBody(self, body) if hasattr(body, "__len__") else _Body(self, body)

    def _sent_with(self, blocks: list[bytes] | tuple[bytes, ...]) -> int:
        if self.place[0] == "HEAD" or (self.status != "200 OK" and self._has_no_body()):
            return 0
        try:
            # One block is what most applications return. Reading its Content-Length would cost
            # each of them 0.5 µs, to be right about one that says less than it sends.
            if len(blocks) == 1:
                return self.bytes_sent + len(blocks[0])
            size = sum(map(len, blocks))
        except TypeError:  # no bytes: the server will say so
            return 0
        return min(self.bytes_sent + size, self._length())

    def _is_file(self, body: Iterable[bytes]) -> bool:
        wrapper = self.environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type):
            return isinstance(body, wrapper)
        return wrapper is not None and hasattr(body, "fileno")

    def _length(self) -> int:
        """Return how many bytes complete the answer; asked from the first block on."""
        if self._known_length is None:
            self._known_length = self._read_length()
        return self._known_length

    def _read_length(self) -> int:
        if self._has_no_body():
            return 0
        try:
            for name, value in self.headers:
                if name.lower() == "content-length" and (length := int(value)) >= 0:
                    return min(length, ENDLESS)
        except (AttributeError, TypeError, ValueError):  # never started, or nonsense
            pass
        return ENDLESS

    def _has_no_body(self) -> bool:
        return self.place[0] == "HEAD" or str(self.status)[:3] in ("204", "304")

    def _sends(self, block: bytes) -> None:
        """Note a block that is about to be handed on."""
        try:
            size = len(block)
        except TypeError:
            return
        if size and not self.first_byte_us:
            self.first_byte_us = (perf_counter_ns() - self.started_ns) // 1000 or 1
        self.bytes_sent += size
        if not self.recorded and self.bytes_sent >= self._length():
            self.complete()

    def complete(self, error: str = "") -> None:
        """Record the visit of an answer that was sent block by block, once."""
        if self.recorded:
            return
        self.recorded = True
        if not self.first_byte_us:
            self.first_byte_us = "null"
        self._recorder.record(self, min(self.bytes_sent, self._length()), error)

    def leave(self) -> None:
        """Note that the server closes the body; before its end, the client is gone."""
        if self.recorded:
            return
        if not hasattr(self, "headers"):  # start_response was not called
            if self.bytes_sent:  # the server refused these bytes, and answered 500
                return self.complete()
            self.status = NONE
        self.complete("" if self._length() == 0 else encode_error(CLIENT_LEFT))

    def fail(self, error: BaseException) -> None:
        """Note that the application raised; a status that was sent stays what it is."""
        if not self.recorded:
            if not self.bytes_sent:
                self.status = RAISED
            if not hasattr(self, "headers"):  # start_response was not called
                self._find_endpoint()
            self.complete(encode_error(type(error).__name__))


class _Body:
    """The application's body, handed on block by block."""

    __slots__ = ("_body", "_closed", "_next", "_observation")

    def __init__(self, observation: Observation, body: Iterable[bytes]) -> None:
        self._observation = observation
        self._body = body
        self._closed = False
        self._next: Callable[[], bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        # Once: who chains a first block before the rest asks for the iterator's iterator.
        if self._next is None:
            try:
                self._next = iter(self._body).__next__
            except BaseException as error:
                self._observation.fail(error)
                raise
        return self

    def __next__(self) -> bytes:
        if self._next is None:
            iter(self)
        try:
            block = self._next()  # type: ignore[misc]
        except StopIteration:
            self._observation.complete()
            raise
        except BaseException as error:
            self._observation.fail(error)
            raise
        self._observation._sends(block)
        return block

    def close(self) -> None:
        if self._closed:  # the application is told once, whatever stands around us
            return
        self._closed = True
        self._observation.leave()
        close: Any = getattr(self._body, "close", None)
        if close is not None:
            close()


class _SizedBody(_Body):
    """A body that knows how many blocks it has."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]
