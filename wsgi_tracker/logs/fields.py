"""What fields of log formats mean, whatever a server calls them; of two the better one counts."""

from __future__ import annotations

from collections.abc import Iterator

from ..period import SECOND
from .entry import TOKEN
from .pattern import END, Field, Piece, number, text
from .times import strftime_regexes

_WORD = r"[^ ,\"]{1,256}"
CLF_TIME = "%d/%b/%Y:%H:%M:%S %z"

ADDRESS = text("address")
PEER = text("address", rank=1)
USER = Field(f'(?:-|""|(?P<user>[^{END}]+))?', '(?:-|""||(?P<user>(?!- ).+?))')
REQUEST = Field(
    rf"(?:(?P<method>{TOKEN}) (?P<target>[^ {END}]+) HTTP/\d(?:\.\d)?|(?P<request>[^{END}]*))",
    "(?P<request>.*?)",
)
METHOD = text("method", rank=1)
TARGET = text("target", rank=1)
PATH = text("path", ends="?", rank=2)._replace(loose=text("path").loose)
QUERY = text("query", rank=2)
QUERY_BEHIND_MARK = Field(rf"(?:\?(?P<query>[^{END}]*)|-)?", r"(?:\?(?P<query>.*?)|-|)", rank=2)
STATUS = Field(r"(?:-|000|(?P<status>\d{3}))?")
FIRST_STATUS = STATUS._replace(rank=1)  # before a redirection within the server
BYTES = number("bytes_sent")
BYTES_WITH_HEADERS = number("bytes_sent", rank=1)
CLF_BYTES = Field(r"(?P<bytes_sent>\d{1,18}|(?=-))-?")  # a dash is none, which is known
PROTOCOL = Field(r"(?:HTTP/\d(?:\.\d)?|-)?")
PORT = Field(r"(?:\d{1,5}|-)?")
HOST_HEADER = text("host", ends="/")
HOST = text("host", ends="/", rank=1)
SERVER_NAME = text("host", ends="/", rank=2)
FRACTION = Field(r"(?P<fraction>\d{3}(?:\d{3})?)")
FRACTION_IF_ANY = Field(r"(?:\.(?P<fraction>\d{1,9}))?")
# Several values with commas and colons, as each proxy and each internal redirection adds one.
_SEVERAL = rf"(?:{_WORD}(?:(?:, ?| : ){_WORD}){{0,99}})"
SEVERAL = Field(f"{_SEVERAL}?", ".*?")
FORWARDED_FOR = text("forwarded_for")._replace(regex=f"(?:-|(?P<forwarded_for>{_SEVERAL}))?")
IGNORED = Field(f"[^{END}]*", ".*?")

_HEADERS = {
    "user-agent": text("user_agent"),
    "referer": text("referer"),
    "host": HOST_HEADER,
    "x-forwarded-for": FORWARDED_FOR,
}


def header(name: str) -> Field:
    """Return the field of a request header, in any spelling."""
    return _HEADERS.get(name.lower().replace("_", "-"), IGNORED)


def moment(strftime: str, *, rank: int = 0) -> Iterator[Field]:
    """Yield fields of a time as strftime writes it."""
    for regex in strftime_regexes(strftime):
        yield Field(regex, rank=rank, scale=SECOND)


def epoch(scale: int, decimals: int = 0) -> Field:
    """Return the field of a time as so many times ``scale`` microseconds since the epoch."""
    finer = ("fraction",) if decimals or scale < SECOND else ()
    behind = rf"\.\d{{{decimals}}}" if decimals else ""
    # It says more than any date, and the more the finer it is.
    rank = -2 if finer else -1
    return Field(rf"(?P<epoch>\d{{1,18}}{behind})", "", rank, scale, finer)


def pieces_of_clf_time() -> list[Piece]:
    """Return the time of the common log format, in its brackets."""
    return ["[", *moment(CLF_TIME), "]"]
