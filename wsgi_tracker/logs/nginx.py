"""nginx's log_format: variables such as ``$remote_addr`` and ``${status}``, JSON around them or not.

https://nginx.org/en/docs/http/ngx_http_log_module.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .apache import unquoted
from .escapes import BACKSLASHES, NONE
from .fields import (
    ADDRESS,
    BYTES,
    BYTES_WITH_HEADERS,
    CLF_TIME,
    FRACTION_IF_ANY,
    HOST,
    IGNORED,
    METHOD,
    PATH,
    PEER,
    PORT,
    PROTOCOL,
    QUERY,
    REQUEST,
    SERVER_NAME,
    SEVERAL,
    STATUS,
    TARGET,
    USER,
    epoch,
    header,
    moment,
)
from .pattern import Field, PatternFormat, Piece, duration

_PIECE = re.compile(r"\$(?:\{(\w+)\}|(\w+))|([^$]+|\$)", re.ASCII)
_ESCAPE = re.compile(r"escape=(default|json|none)\s+")
_FIELDS = {
    "remote_addr": ADDRESS,
    "realip_remote_addr": PEER,
    "remote_user": USER,
    "msec": epoch(1_000_000, decimals=3),
    "request": REQUEST,
    "request_method": METHOD,
    "request_uri": TARGET,
    "uri": PATH,
    "document_uri": PATH,
    "is_args": Field(r"\??", ".*?"),
    "args": QUERY,
    "query_string": QUERY,
    "server_protocol": PROTOCOL,
    "status": STATUS,
    "body_bytes_sent": BYTES,
    "bytes_sent": BYTES_WITH_HEADERS,
    "request_time": duration(1_000_000),
    "host": HOST,
    "server_name": SERVER_NAME,
    "server_port": PORT,
    "remote_port": PORT,
}


def nginx_format(pattern: str) -> PatternFormat:
    """Return the format of a log_format string; ``escape=...`` may stand before it.

    What its two kinds of escapes write cannot be mistaken for each other.
    """
    escape = _ESCAPE.match(pattern)
    text = pattern[escape.end() :] if escape else pattern
    escapes = NONE if escape and escape[1] == "none" else BACKSLASHES
    return PatternFormat(pattern, list(_pieces(text)), escapes)


def _pieces(pattern: str) -> Iterator[Piece]:
    for braced, bare, literal in _PIECE.findall(pattern):
        if literal:
            yield unquoted(literal)
        else:
            yield from _variable(braced or bare)


def _variable(name: str) -> Iterator[Piece]:
    if name == "time_local":
        yield from moment(CLF_TIME)
    elif name == "time_iso8601":
        yield from moment("%Y-%m-%dT%H:%M:%S")
        yield FRACTION_IF_ANY
        yield from moment("%z")
    elif name.startswith("http_"):
        yield header(name[len("http_") :])
    elif name.startswith("upstream_"):
        yield SEVERAL
    else:
        yield _FIELDS.get(name, IGNORED)
