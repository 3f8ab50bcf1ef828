"""A visit and its line of JSON: what one request leaves behind.

Spool, storage, export and import share this line; it begins with its timestamp, so that a whole
line can be found behind a torn one. This is the only module that reads ``environ`` for recording
and it runs in the request, so values that come again are encoded once and remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from json.encoder import encode_basestring_ascii as quote
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from .endpoints import UNMATCHED, Endpoints, collapse_ids
from .exclusions import Exclusions
from .visitors import Client, Visitors

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_PATH = 2048
MAX_USER_AGENT = 1024
MAX_NAME = 255
OTHER_METHOD = "(other)"
# RFC 9110, PATCH (RFC 5789), WebDAV (RFC 4918) and QUERY. Anything else is a client's invention,
# and a client must not be able to invent rows in a report.
METHODS = frozenset(
    "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT QUERY PROPFIND PROPPATCH MKCOL COPY MOVE "
    "LOCK UNLOCK REPORT SEARCH".split()
)


@dataclass(frozen=True, slots=True)
class Visit:
    """One recorded request.

    ``timestamp`` is in microseconds since the epoch, UTC; a name's unit ends it elsewhere.
    ``path`` is ``None`` where it equals ``endpoint``. ``error`` is the type of the exception the
    application raised, or ``client_left``. ``user_hash`` is ``None`` where only the hit counts.
    """

    timestamp: int
    user_hash: str | None
    method: str
    endpoint: str
    path: str | None = None
    status: int | None = None
    duration_us: int | None = None
    first_byte_us: int | None = None
    bytes_sent: int | None = None
    error: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    referer: str | None = None
    host: str | None = None

    def line(self) -> bytes:
        """Return the visit as one line of JSON, newline included."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"


PlaceKey: TypeAlias = "tuple[tuple[str | None, ...], str | None, str]"
ClientReader: TypeAlias = "Callable[[WSGIEnvironment], tuple[str | None, ...]]"
FIELDS = tuple(field.name for field in fields(Visit))
# The others are whole numbers.
TEXT_FIELDS = tuple(field.name for field in fields(Visit) if str(field.type).startswith("str"))

# What is read before the application is called: it may change environ in place.
_PLACE = ("REQUEST_METHOD", "HTTP_HOST", "SCRIPT_NAME", "PATH_INFO")
_CLIENT = ("REMOTE_ADDR", "HTTP_USER_AGENT")
_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_SEC_GPC", "HTTP_DNT")
place_of = itemgetter(*_PLACE)


def incomplete_place(environ: WSGIEnvironment) -> tuple[str | None, ...]:
    """Read the place of a request that lacks one of its parts."""
    return tuple(map(environ.get, _PLACE))


def client_reader(headers: int) -> tuple[ClientReader, ClientReader]:
    """Return how to read the first fields of a :class:`Client`: address, agent, so many headers.

    The first of the two raises :exc:`KeyError` where a request lacks one of these; the second
    takes ``None`` for it.
    """
    names = _CLIENT + _HEADERS[:headers]

    def read(environ: WSGIEnvironment) -> tuple[str | None, ...]:
        return tuple(map(environ.get, names))

    return (read if headers else itemgetter(*names)), read


class Fragments:
    """The parts of a line that come again, encoded once; safe to share between threads.

    ``place`` is asked by what ``place_of`` read, the endpoint that was found, and the status
    line; ``client`` by the first fields of a :class:`Client`; ``referer`` by its header. The first
    two are empty where a rule excludes the request; ``encode_place`` and ``encode_client`` are not.
    """

    def __init__(self, visitors: Visitors, exclusions: Exclusions, endpoints: Endpoints) -> None:
        self._visitors = visitors
        self._exclusions = exclusions
        self._endpoints = endpoints
        self.place = Memo(self._place, capacity_bytes=16 << 20)
        self.client = Memo(self._client, capacity_bytes=32 << 20)
        self.referer = Memo(_referer, capacity_bytes=8 << 20)

    def _place(self, key: PlaceKey) -> str:
        (method, _, script_name, path_info), _, _ = key
        excluded = self._exclusions.excludes_place(method or "", path_of(script_name, path_info))
        return "" if excluded else self.encode_place(key)

    def encode_place(self, key: PlaceKey) -> str:
        """Encode what was asked for, and how it ended."""
        (method, host, script_name, path_info), endpoint, status = key
        path = path_of(script_name, path_info)
        code = int(status[:3]) if status[:3].isdecimal() else 0
        if endpoint is not None:
            endpoint = text(endpoint, MAX_PATH, "strict") or UNMATCHED
        elif code == 404 and self._endpoints.folds_not_found:
            endpoint = UNMATCHED
        elif self._endpoints.collapses_ids:
            # Where the application is mounted is no id. A placeholder may be longer than one.
            prefix = text(script_name or "", MAX_PATH)
            endpoint = (prefix + collapse_ids(path[len(prefix) :]))[:MAX_PATH]
        else:
            endpoint = path
        return ",".join(
            (
                f'"method":{quote(method if method in METHODS else OTHER_METHOD)}',
                f'"endpoint":{quote(endpoint)}',
                f'"path":{_quoted(None if path == endpoint else path)}',
                f'"status":{code or "null"}',
                f'"host":{_quoted(host and text(host))}',
            )
        )

    def _client(self, key: tuple[Any, ...]) -> str:
        excluded = self._exclusions.excludes_address(self._visitors.address(Client(*key)))
        return "" if excluded else self.encode_client(key)

    def encode_client(self, key: tuple[Any, ...]) -> str:
        """Encode who asked."""
        client = Client(*key)
        address = text(self._visitors.address(client))
        agent = text(client.user_agent or "", MAX_USER_AGENT)
        return ",".join(
            (
                f'"user_hash":{_quoted(self._visitors.user_hash(client, address, agent))}',
                f'"ip_address":{_quoted(self._visitors.stored_address(client, address))}',
                f'"user_agent":{_quoted(agent or None)}',
            )
        )


def path_of(script_name: str | None, path_info: str | None) -> str:
    """Return the whole path of a request."""
    return text((script_name or "") + (path_info or ""), MAX_PATH) or "/"


def _referer(referer: str | None) -> str:
    """Encode a referer without what may be private: query, fragment, user and password."""
    if not referer:
        return ""
    referer = referer.partition("#")[0].partition("?")[0]
    scheme, separator, rest = referer.partition("//")
    if separator:
        authority, slash, path = rest.partition("/")
        referer = scheme + separator + authority.rpartition("@")[2] + slash + path
    return f',"referer":{quote(text(referer, MAX_PATH))}' if referer else ""


def encode_error(error: str) -> str:
    """Return the fragment that names what went wrong."""
    return f',"error":{quote(text(error))}'


def text(value: str, length: int = MAX_NAME, broken: str = "replace") -> str:
    """Return what ``value`` says, at most ``length`` characters, fit to be stored.

    WSGI strings are bytes decoded as latin-1 (PEP 3333): read again as UTF-8, broken sequences
    replaced; ``"strict"`` takes a value that has any for text. NUL ends a string in C and in
    SQLite's functions, so it is replaced too.
    """
    # Cut first, or a client could make us convert 100 kB: UTF-8 needs at most 4 bytes.
    value = value[: length * 4]
    if not value.isascii():
        try:
            value = value.encode("latin-1").decode("utf-8", broken)
        except UnicodeError:  # already text: from an application, or a careless server
            value = value.encode("utf-8", "replace").decode()
    return value[:length].replace("\0", "\ufffd")


def _quoted(value: str | None) -> str:
    return quote(value) if value else "null"


class Memo(dict[Any, str]):
    """Remember what ``make`` returned, within about ``capacity_bytes``; starts anew when full.

    Not locked: threads that race make the same value twice, and the size is an estimate.
    """

    ENTRY_BYTES = 300  # tuple, string headers and the share of the hash table, measured
    MAX_ENTRY_BYTES = 4096

    def __init__(self, make: Callable[[Any], str], capacity_bytes: int) -> None:
        super().__init__()
        self._make = make
        self._capacity_bytes = self._room = capacity_bytes

    def __missing__(self, key: Any) -> str:
        value = self._make(key)
        size = _length(key) + len(value) + self.ENTRY_BYTES
        if size <= self.MAX_ENTRY_BYTES:  # a client that sends 100 kB must not fill the memory
            self._room -= size
            if self._room < 0:
                self.clear()
                self._room = self._capacity_bytes
            self[key] = value
        return value


def _length(key: Any) -> int:
    if isinstance(key, tuple):
        return sum(map(_length, key))
    return len(key) if isinstance(key, str) else 0
