"""A line of an access log says what its server meant, whatever a client sent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wsgi_tracker.errors import ConfigurationError
from wsgi_tracker.logs import FORMATS, BadLineError, LogEntry, detect, log_format
from wsgi_tracker.logs.times import Minutes, strftime_regexes
from wsgi_tracker.period import LAST_TIMESTAMP

pytestmark = pytest.mark.once

STAMP = "10/Oct/2000:13:55:36 -0700"
TIMESTAMP = 971_211_336_000_000
LINE = (
    '203.0.113.7 - frank [10/Oct/2000:13:55:36 -0700] "GET /boxes?color=red HTTP/1.1" 200 2326 '
    '"http://example.com/start" "Mozilla/5.0 (X11)"'
)
ENTRY = LogEntry(
    timestamp=TIMESTAMP,
    method="GET",
    target="/boxes?color=red",
    status="200",
    bytes_sent=2326,
    duration_us=None,
    address="203.0.113.7",
    user="frank",
    user_agent="Mozilla/5.0 (X11)",
    referer="http://example.com/start",
    host=None,
    forwarded_for=None,
)
COMMON = ENTRY._replace(user_agent=None, referer=None)
CADDY: dict[str, Any] = {
    "level": "info",
    "ts": 971211336.25,
    "logger": "http.log.access.log0",
    "msg": "handled request",
    "request": {
        "remote_ip": "203.0.113.7",
        "remote_port": "4711",
        "client_ip": "203.0.113.7",
        "method": "GET",
        "host": "example.com:8080",
        "uri": "/boxes?color=red",
        "headers": {
            "User-Agent": ["Mozilla/5.0 (X11)"],
            "Referer": ["http://example.com/start"],
            "X-Forwarded-For": ["192.0.2.1", "192.0.2.2"],
        },
    },
    "user_id": "frank",
    "duration": 0.001234,
    "size": 2326,
    "status": 200,
}
CADDY_ENTRY = ENTRY._replace(
    timestamp=TIMESTAMP + 250_000,
    duration_us=1234,
    host="example.com:8080",
    forwarded_for="192.0.2.1, 192.0.2.2",
)


def read(line: str, name: str = "combined") -> LogEntry:
    return log_format(name).read(line)


def request_read(request: str) -> LogEntry:
    return read(f'h - - [{STAMP}] "{request}" 400 5 "-" "-"')


@pytest.mark.parametrize(
    ("name", "line", "entry"),
    [
        pytest.param("combined", LINE, ENTRY, id="combined"),
        pytest.param("combined", LINE + "\r", ENTRY, id="lines that end as on Windows"),
        pytest.param("common", LINE.partition(' "http')[0], COMMON, id="common"),
        pytest.param(
            "vhost_combined",
            "example.com:80 " + LINE,
            ENTRY._replace(host="example.com"),
            id="vhost_combined",
        ),
        pytest.param(
            "vhost_combined",
            "[2001:db8::1]:8080 " + LINE,
            ENTRY._replace(host="[2001:db8::1]"),
            id="vhost is an address",
        ),
        pytest.param("gunicorn", LINE, ENTRY, id="gunicorn"),
        pytest.param("caddy", json.dumps(CADDY), CADDY_ENTRY, id="caddy"),
    ],
)
def test_known_format_reads_its_line(name: str, line: str, entry: LogEntry) -> None:
    assert read(line, name) == entry


@pytest.mark.parametrize(
    ("pattern", "line", "expected"),
    [
        pytest.param("%a %{c}a", "192.0.2.1 192.0.2.2", {"address": "192.0.2.1"}, id="client"),
        pytest.param("%{c}a", "192.0.2.2", {"address": "192.0.2.2"}, id="peer"),
        pytest.param("%h", "2001:db8::1", {"address": "2001:db8::1"}, id="IPv6"),
        pytest.param("%h", "host.example", {"address": "host.example"}, id="host name"),
        pytest.param("%h %u", "::1 John Doe", {"address": "::1", "user": "John Doe"}, id="user with a space"),
        pytest.param("%m %H", "PUT HTTP/1.1", {"method": "PUT"}, id="method"),
        pytest.param('"%s" %>s', '"302" 200', {"status": "200"}, id="final status"),
        pytest.param("%<s", "302", {"status": "302"}, id="original status"),
        pytest.param("%>s", "-", {"status": ""}, id="no status"),
        pytest.param("%>s", "000", {"status": ""}, id="status 000"),
        pytest.param("%b", "-", {"bytes_sent": 0}, id="dash of %b is 0"),
        pytest.param("%B", "0", {"bytes_sent": 0}, id="%B"),
        pytest.param("%O", "-", {"bytes_sent": None}, id="dash of another is not known"),
        pytest.param("%I %O %b", "9 800 700", {"bytes_sent": 700}, id="body before headers"),
        pytest.param("%D", "1500", {"duration_us": 1500}, id="%D"),
        pytest.param("%T", "2", {"duration_us": 2_000_000}, id="%T"),
        pytest.param("%{ms}T", "7", {"duration_us": 7000}, id="%{ms}T"),
        pytest.param("%{us}T", "7", {"duration_us": 7}, id="%{us}T"),
        pytest.param("%{s}T", "7", {"duration_us": 7_000_000}, id="%{s}T"),
        pytest.param("%T %D", "2 1500000", {"duration_us": 1_500_000}, id="finer duration"),
        pytest.param("%D", "-12", {"duration_us": None}, id="clock set back"),
        pytest.param("%v %V", "a.example b.example", {"host": "b.example"}, id="host"),
        pytest.param("%v %{host}i", "a.example b:80", {"host": "b:80"}, id="host header"),
        pytest.param('"%{USER-AGENT}i"', '"x"', {"user_agent": "x"}, id="case of a header"),
        pytest.param('"%400,501{User-agent}i"', '"-"', {"user_agent": None}, id="condition"),
        pytest.param('"%!200,304{Referer}i"', '"x"', {"referer": "x"}, id="negated condition"),
        pytest.param("%!200,304>s", "404", {"status": "404"}, id="condition and choice"),
        pytest.param("%{X-Forwarded-For}i", "1.1.1.1, ::1", {"forwarded_for": "1.1.1.1, ::1"}, id="forwarded for"),
        pytest.param("%f %k %L %P %X %p %{canonical}p", "/a 0 - 1 + 80 80", {}, id="the rest"),
        pytest.param("%{A}o %{B}e %{C}n %{D}C %{x}Z", "- a b c d", {}, id="other notes"),
        pytest.param("<%{Vendor}x> %>s", "<a b> 200", {"status": "200"}, id="ends with a literal"),
        pytest.param("100%% %>s", "100% 200", {"status": "200"}, id="percent"),
        pytest.param('\\"%>s\\"', '"200"', {"status": "200"}, id="quotes as in a configuration"),
        pytest.param("%u", '""', {"user": None}, id="user that is empty"),
    ],
)  # fmt: skip
def test_apache_directive(pattern: str, line: str, expected: dict[str, Any]) -> None:
    entry = read(f"[{STAMP}] | {line} | GET / HTTP/1.1", f"%t | {pattern} | %r")

    if "%m" in pattern:  # the request says it, too
        entry = read(f"[{STAMP}] | {line} | /", f"%t | {pattern} | %U")
    blank = dict.fromkeys(LogEntry._fields) | {"address": "", "status": ""}
    blank |= {"timestamp": TIMESTAMP, "method": "GET", "target": "/"}
    assert entry._asdict() == blank | expected


@pytest.mark.parametrize(
    ("pattern", "line", "target"),
    [
        pytest.param('%t "%m %U%q %H"', '"GET /a?b=%20 HTTP/1.1"', "/a?b=%20", id="query"),
        pytest.param('%t "%m %U%q %H"', '"GET /a HTTP/1.1"', "/a", id="no query"),
        pytest.param('%t "%m %U%q %H"', '"GET /a b HTTP/1.1"', "/a b", id="space in the path"),
        pytest.param('%t "%m %U%q %H"', '"GET /a b?c HTTP/1.1"', "/a b?c", id="space and query"),
        pytest.param('%t %U "%r"', '/index.html "GET /?a HTTP/1.1"', "/?a", id="beside a request"),
    ],
)
def test_target_of_apache_is_put_together(pattern: str, line: str, target: str) -> None:
    assert read(f"[{STAMP}] {line}", pattern)[1:3] == ("GET", target)


@pytest.mark.parametrize(
    ("variables", "line", "expected"),
    [
        pytest.param("$remote_addr", "::1", {"address": "::1"}, id="address"),
        pytest.param("$realip_remote_addr", "::1", {"address": "::1"}, id="peer"),
        pytest.param("${remote_user}x", "annx", {"user": "ann"}, id="braces"),
        pytest.param("$status", "499", {"status": "499"}, id="status"),
        pytest.param("$bytes_sent $body_bytes_sent", "9 7", {"bytes_sent": 7}, id="bytes"),
        pytest.param("$request_time", "0.123", {"duration_us": 123_000}, id="duration"),
        pytest.param("$upstream_response_time $request_time", "0.1, 2.0 : - 0.003", {"duration_us": 3000}, id="upstream"),
        pytest.param("$http_host $host $server_name", "a b c", {"host": "a"}, id="http_host"),
        pytest.param("$server_name $host", "c b", {"host": "b"}, id="host"),
        pytest.param('"$http_x_forwarded_for"', '"1.1.1.1, ::1"', {"forwarded_for": "1.1.1.1, ::1"}, id="forwarded for"),
        pytest.param('"$http_x_forwarded_for"', '"1.1.1.1 or 1=1"', {"forwarded_for": "1.1.1.1 or 1=1"}, id="forged"),
        pytest.param('"$http_user_agent"', '"\\x22\\xC3\\xA9"', {"user_agent": '"Ã©'}, id="escape"),
        pytest.param("$ssl_client_s_dn|$status", "CN=a, O=b|200", {"status": "200"}, id="unknown"),
        pytest.param("$scheme://$host$tail $status", "http://a/b 200", {"host": "a", "status": "200"}, id="side by side"),
    ],
)  # fmt: skip
def test_nginx_variable(variables: str, line: str, expected: dict[str, Any]) -> None:
    pattern = f'{variables} [$time_local] "$request"'

    entry = read(f'{line} [{STAMP}] "GET / HTTP/1.1"', pattern)

    blank = dict.fromkeys(LogEntry._fields) | {"address": "", "status": ""}
    blank |= {"timestamp": TIMESTAMP, "method": "GET", "target": "/"}
    assert entry._asdict() == blank | expected


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        pytest.param("$request_method $request_uri", "GET /a?b", id="request_uri"),
        pytest.param("$request_method $uri$is_args$args", "GET /a?b", id="uri and args"),
        pytest.param("$uri $request_method $args", "/a GET b", id="in any order"),
        pytest.param("$request_method $scheme://$host$request_uri", "GET http://h/a?b", id="URL"),
    ],
)
def test_target_of_nginx_is_put_together(pattern: str, line: str) -> None:
    assert read(f"{line} 1700000000.123", pattern + " $msec")[:3] == (
        1_700_000_000_123_000,
        "GET",
        "/a?b",
    )


@pytest.mark.parametrize("escape", ["", "escape=json ", "escape=default "])
def test_log_format_of_nginx_may_be_json(escape: str) -> None:
    pattern = (
        escape + '{ "time": "$time_iso8601", "request": "$request", "status": $status, '
        '"ip":"$remote_addr", "took":"$request_time", "client":{"agent":"$http_user_agent"} }'
    )
    line = (
        '{ "time": "2000-10-10T13:55:36-07:00", "request": "GET /\\"a\\\\ HTTP/1.1", '
        '"status": 200, "ip":"::1", "took":"0.050", "client":{"agent":"a\\u0001\\/\\n\xc3"} }'
    )

    entry = read(line, pattern)

    assert entry[:6] == (TIMESTAMP, "GET", '/"a\\', "200", None, 50_000)
    assert (entry.address, entry.user_agent) == ("::1", "a\1/\n\xc3")


def test_log_format_of_nginx_may_escape_nothing() -> None:
    entry = read(
        f'{STAMP} "GET / HTTP/1.1" "a\\x22b"', 'escape=none $time_local "$request" "$http_referer"'
    )

    assert entry.referer == "a\\x22b"


@pytest.mark.parametrize(
    ("pattern", "line", "expected"),
    [
        pytest.param("%(D)s", "1500", {"duration_us": 1500}, id="microseconds"),
        pytest.param("%(M)s", "15", {"duration_us": 15_000}, id="milliseconds"),
        pytest.param("%(L)s", "0.000123", {"duration_us": 123}, id="decimal seconds"),
        pytest.param("%(T)d", "3", {"duration_us": 3_000_000}, id="seconds"),
        pytest.param("%(B)s", "None", {"bytes_sent": None}, id="no bytes"),
        pytest.param("%({X-Forwarded-For}i)s", "::1", {"forwarded_for": "::1"}, id="header"),
        pytest.param("%({HTTP_HOST}e)s", "a:80", {"host": "a:80"}, id="header in environ"),
        pytest.param("%({remote_addr}e)s", "::1", {"address": "::1"}, id="environ"),
        pytest.param("%({server}o)s %(p)s", "- <12>", {}, id="ignored"),
        pytest.param("%% %(s)s", "% 200", {"status": "200"}, id="percent"),
        pytest.param('"%(a)s"', '"C:\\x41\\\\"q\\" end\\"', {"user_agent": 'C:\\x41\\"q" end\\'}, id="backslashes"),
    ],
)  # fmt: skip
def test_gunicorn_atom(pattern: str, line: str, expected: dict[str, Any]) -> None:
    entry = read(f'[{STAMP}] "GET / HTTP/1.1" {line}', f'%(t)s "%(r)s" {pattern}')

    blank = dict.fromkeys(LogEntry._fields) | {"address": "", "status": ""}
    blank |= {"timestamp": TIMESTAMP, "method": "GET", "target": "/"}
    assert entry._asdict() == blank | expected


def test_gunicorn_tells_method_path_and_query_apart() -> None:
    entry = read(f"[{STAMP}] GET /a b=c", "%(t)s %(m)s %(U)s %(q)s")

    assert entry[1:3] == ("GET", "/a?b=c")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"ts": "2000-10-10T13:55:36.5-07:00"}, {"timestamp": TIMESTAMP + 500_000}, id="ISO 8601"),
        pytest.param({"ts": "2000-10-10T20:55:36Z"}, {"timestamp": TIMESTAMP}, id="ISO 8601, UTC"),
        pytest.param({"ts": 971211336}, {"timestamp": TIMESTAMP}, id="whole seconds"),
        pytest.param({"status": 0}, {"status": ""}, id="status 0"),
        pytest.param({"status": True}, {"status": ""}, id="status is none"),
        pytest.param({"duration": -1.0}, {"duration_us": None}, id="negative duration"),
        pytest.param({"duration": "1.5ms"}, {"duration_us": None}, id="duration in words"),
        pytest.param({"size": 1e300}, {"bytes_sent": None}, id="huge size"),
        pytest.param({"user_id": ""}, {"user": None}, id="nobody"),
    ],
)  # fmt: skip
def test_caddy_value(changed: dict[str, Any], expected: dict[str, Any]) -> None:
    entry = read(json.dumps(CADDY | changed), "caddy")

    assert entry == CADDY_ENTRY._replace(**expected)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"client_ip": "::1"}, {"address": "::1"}, id="client behind proxies"),
        pytest.param({"host": "bücher.example"}, {"host": "b\xc3\xbccher.example"}, id="Unicode"),
        pytest.param({"uri": "http://a/b", "host": ""}, {"target": "/b", "host": "a"}, id="proxy"),
        pytest.param({"headers": []}, {"user_agent": None, "referer": None, "forwarded_for": None}, id="no headers"),
        pytest.param({"method": None, "uri": 5}, {"method": "", "target": ""}, id="other types"),
    ],
)  # fmt: skip
def test_caddy_request(changed: dict[str, Any], expected: dict[str, Any]) -> None:
    line = json.dumps(CADDY | {"request": CADDY["request"] | changed}, ensure_ascii=False)

    entry = read(line.encode().decode("latin-1"), "caddy")

    assert entry == CADDY_ENTRY._replace(**expected)


@pytest.mark.parametrize(
    ("peer", "address"),
    [("192.0.2.1:4711", "192.0.2.1"), ("[2001:db8::1]:4711", "2001:db8::1"), ("", "")],
)
def test_old_caddy_logs_address_and_port(peer: str, address: str) -> None:
    line = json.dumps(CADDY | {"request": {"remote_addr": peer}})

    assert read(line, "caddy").address == address


@pytest.mark.parametrize(
    ("request_line", "method", "target"),
    [
        pytest.param("-", "", "", id="dash"),
        pytest.param("", "", "", id="nothing"),
        pytest.param("\\x16\\x03\\x01\\x02\\x00", "", "", id="TLS"),
        pytest.param("\\x16\\x03 \\x01 HTTP/1.1", "", "", id="TLS with spaces"),
        pytest.param("\\x00", "", "", id="NUL"),
        pytest.param("\0\x16\xff", "", "", id="raw bytes"),
        pytest.param("GET", "GET", "", id="method alone"),
        pytest.param("GET /", "GET", "/", id="no protocol"),
        pytest.param("GET /a b HTTP/1.1", "GET", "/a b", id="space"),
        pytest.param("GET  /a  HTTP/1.1", "GET", "/a", id="spaces around the target"),
        pytest.param("GET /a HTTP/1.1 HTTP/1.0", "GET", "/a HTTP/1.1", id="last protocol"),
        pytest.param("GET /a HTTP/2", "GET", "/a", id="HTTP/2"),
        pytest.param("GET /\\xc3\\xa9\\\\n HTTP/1.1", "GET", "/\xc3\xa9\\n", id="escapes"),
        pytest.param('GET /\\"a\\" HTTP/1.1', "GET", '/"a"', id="escaped quotes"),
        pytest.param('GET /"a" HTTP/1.1', "GET", '/"a"', id="raw quotes"),
        pytest.param("M-SEARCH * HTTP/1.1", "M-SEARCH", "*", id="asterisk"),
        pytest.param("CONNECT a:443 HTTP/1.1", "CONNECT", "a:443", id="CONNECT"),
        pytest.param("G{T / HTTP/1.1", "", "", id="method is no token"),
        pytest.param("GET /\r HTTP/1.1", "GET", "/\r", id="carriage return"),
    ],
)
def test_broken_request_is_an_entry(request_line: str, method: str, target: str) -> None:
    entry = request_read(request_line)

    assert entry[1:6] == (method, target, "400", 5, None)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        pytest.param("http://a.example/b?c", "/b?c", "a.example", id="path"),
        pytest.param("HTTPS://a.example:8080", "/", "a.example:8080", id="no path"),
        pytest.param("http://a.example?c", "/?c", "a.example", id="query alone"),
        pytest.param("http://u:p@a.example/", "/", "a.example", id="password"),
        pytest.param("http:///b", "/b", None, id="no host"),
        pytest.param("/b?c=http://a.example/", "/b?c=http://a.example/", None, id="in the query"),
    ],
)
def test_target_that_names_a_host_keeps_path_and_query(
    target: str, path: str, host: str | None
) -> None:
    entry = request_read(f"GET {target} HTTP/1.1")

    assert (entry.target, entry.host) == (path, host)


def test_host_that_is_logged_goes_before_that_of_the_target() -> None:
    line = f'a:80 h - - [{STAMP}] "GET http://b/ HTTP/1.1" 200 0 "-" "-"'

    assert read(line, "vhost_combined").host == "a"


@pytest.mark.parametrize(
    ("logged", "agent"),
    [
        pytest.param("-", None, id="dash"),
        pytest.param("", None, id="empty"),
        pytest.param("--", "--", id="two dashes"),
        pytest.param('a \\"b\\" c', 'a "b" c', id="escaped quotes"),
        pytest.param('a "b" c', 'a "b" c', id="raw quotes"),
        pytest.param("a\\\\", "a\\", id="backslash at the end"),
        pytest.param("a\\", "a\\", id="raw backslash at the end"),
        pytest.param('a\\\\\\"', 'a\\"', id="backslash and quote"),
        pytest.param("\\t\\n\\r\\v\\b\\x00", "\t\n\r\v\b\0", id="control characters"),
        pytest.param("\\xC3\\xa9", "\xc3\xa9", id="bytes"),
        pytest.param("a\\\\x41\\q", "a\\x41\\q", id="no escapes"),
        pytest.param("\0\r\xff", "\0\r\xff", id="raw control characters"),
    ],
)
def test_user_agent_is_what_the_client_sent(logged: str, agent: str | None) -> None:
    entry = read(LINE.replace("Mozilla/5.0 (X11)", logged))

    assert entry == ENTRY._replace(user_agent=agent)


@pytest.mark.parametrize(
    ("directive", "logged", "expected"),
    [
        pytest.param("%{%d/%b/%Y:%H:%M:%S %z}t", STAMP, "2000-10-10T20:55:36Z", id="as %t"),
        pytest.param("%{begin:%F %T}t", "2000-10-10 20:55:36", "2000-10-10T20:55:36Z", id="begin"),
        pytest.param("%{end:%F %T}t", "2000-10-10 20:55:36", "2000-10-10T20:55:36Z", id="end"),
        pytest.param("%{%FT%T%z}t", "2000-10-10T22:55:36+02:00", "2000-10-10T20:55:36Z", id="ISO 8601"),
        pytest.param("%{%FT%T}t.%{msec_frac}t%{%z}t", "2000-10-10T20:55:36.250+0000", "2000-10-10T20:55:36.25Z", id="ms"),
        pytest.param("%{%FT%T}t.%{usec_frac}t", "2000-10-10T20:55:36.000001", "2000-10-10T20:55:36.000001Z", id="µs"),
        pytest.param("%{sec}t", "971211336", "2000-10-10T20:55:36Z", id="seconds"),
        pytest.param("%{sec}t.%{usec_frac}t", "971211336.250000", "2000-10-10T20:55:36.25Z", id="seconds and µs"),
        pytest.param("%{%s}t", "971211336", "2000-10-10T20:55:36Z", id="seconds of strftime"),
        pytest.param("%{msec}t", "971211336250", "2000-10-10T20:55:36.25Z", id="milliseconds"),
        pytest.param("%{usec}t", "971211336000001", "2000-10-10T20:55:36.000001Z", id="microseconds"),
        pytest.param("%t %{usec}t", f"[{STAMP}] 971211336000001", "2000-10-10T20:55:36.000001Z", id="the finer"),
        pytest.param("%t %{end:sec}t", f"[{STAMP}] 5", "2000-10-10T20:55:36Z", id="begin before end"),
        pytest.param("%{%c}t", "Tue Oct 10 20:55:36 2000", "2000-10-10T20:55:36Z", id="locale's"),
        pytest.param("%{%D %r}t", "10/10/00 08:55:36 PM", "2000-10-10T20:55:36Z", id="American"),
        pytest.param("%{%D %r}t", "10/10/00 12:05:36 AM", "2000-10-10T00:05:36Z", id="midnight"),
        pytest.param("%{%Y %j %R %Z}t", "2000 284 20:55 GMT", "2000-10-10T20:55:00Z", id="day of the year"),
        pytest.param("%{%A, %e. %B %Y %T}t", "Friday,  1. September 2000 01:02:03", "2000-09-01T01:02:03Z", id="words"),
        pytest.param("%{%F%%%T%n}t", "2000-10-10%20:55:36\n", "2000-10-10T20:55:36Z", id="literals"),
        pytest.param("%{%F %T}t", "2016-12-31 23:59:60", "2016-12-31T23:59:59Z", id="leap second"),
    ],
)  # fmt: skip
def test_time_is_read_as_its_format_says(directive: str, logged: str, expected: str) -> None:
    entry = read(f'{logged} "GET / HTTP/1.1"', f'{directive} "%r"')

    # fromisoformat of Python 3.10 takes neither Z nor other numbers of decimals
    seconds, _, fraction = expected.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(seconds).replace(tzinfo=timezone.utc)
    assert entry.timestamp == int(moment.timestamp()) * 1_000_000 + int(fraction.ljust(6, "0"))


@pytest.mark.parametrize(
    ("logged", "reason"),
    [
        pytest.param("31/Feb/2000:13:55:36 -0700", "there is no such date", id="day"),
        pytest.param("10/Okt/2000:13:55:36 +0200", "there is no such date", id="German month"),
        pytest.param("10/Oct/2000:24:00:00 +0000", "there is no such date", id="hour"),
        pytest.param("10/Oct/2000:13:55:61 +0000", "does not have the shape", id="second"),
        pytest.param("10/Oct/2000:13:55:36 +9900", "there is no such date", id="zone"),
        pytest.param("01/Jan/1970:00:00:00 +0100", "1970 to 9999", id="before the epoch"),
        pytest.param("31/Dec/9999:23:59:59 -0100", "1970 to 9999", id="after 9999"),
    ],
)
def test_impossible_time_is_a_bad_line(logged: str, reason: str) -> None:
    with pytest.raises(BadLineError, match=reason):
        read(LINE.replace(STAMP, logged))


def test_last_moment_of_the_calendar_is_read() -> None:
    line = '9999-12-31T23:59:60.999999 "GET / HTTP/1.1"'

    assert read(line, '%{%FT%T}t.%{usec_frac}t "%r"').timestamp == LAST_TIMESTAMP


def test_minutes_are_remembered_within_bounds() -> None:
    """A log of years would fill the memory with minutes that do not come again."""
    minutes = Minutes("".join(strftime_regexes("%F %R")))

    starts = [
        minutes[f"{datetime.fromtimestamp(minute * 60, timezone.utc):%Y-%m-%d %H:%M}"]
        for minute in range(15_000)
    ]

    assert starts == [minute * 60_000_000 for minute in range(15_000)]
    assert len(minutes) <= 10_000


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        pytest.param("combined", "x" * 100, "the line does not have the shape of combined: '" + "x" * 60 + "'...", id="other shape"),
        pytest.param("combined", "example.com:80 " + LINE, f"the line does not have the shape of combined: 'example.com:80 {LINE[:45]}'...", id="vhost"),
        pytest.param("%t %r", "", "the line does not have the shape of %t %r: ''", id="empty"),
        pytest.param("combined", LINE.replace("10/Oct", "31/Feb"), "there is no such date: '31/Feb/2000:13:55: -0700'", id="no date"),
        pytest.param("caddy", "{", "the line is no JSON: '{'", id="no JSON"),
        pytest.param("caddy", "[" * 100_000, "the line is no JSON: '" + "[" * 60 + "'...", id="deep JSON"),
        pytest.param("caddy", "5", "the line tells of no request that was handled: '5'", id="no object"),
        pytest.param("caddy", json.dumps(CADDY | {"msg": "NOP"}), f"the line tells of no request that was handled: {json.dumps(CADDY)[:60]!r}...", id="other message"),
        pytest.param("caddy", '{"msg":"handled request"}', "the line tells of no request that was handled: '{\"msg\":\"handled request\"}'", id="no request"),
        pytest.param("caddy", json.dumps(CADDY | {"ts": float("nan")}), "ts is seconds since the epoch, or ISO 8601; given 'nan'", id="no number"),
        pytest.param("caddy", json.dumps(CADDY | {"ts": None}), "ts is seconds since the epoch, or ISO 8601; given 'None'", id="no time"),
        pytest.param("caddy", json.dumps(CADDY | {"ts": 1e11 * 9}), "the time is not in the years 1970 to 9999: '900000000000.0'", id="far"),
    ],
)  # fmt: skip
def test_bad_line_says_why(name: str, line: str, reason: str) -> None:
    with pytest.raises(BadLineError) as caught:
        read(line, name)

    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        pytest.param("nonsense", "is one of combined, common, vhost_combined", id="no pattern"),
        pytest.param("", "given ''", id="empty"),
        pytest.param("%h %t", "what was asked for", id="no request"),
        pytest.param("%h %r", "year, month, day", id="no time"),
        pytest.param("%{%H:%M}t %r", "year, month, day", id="no date"),
        pytest.param("%{%Q}t %r", "strftime has no %Q", id="strftime"),
        pytest.param("%t %r %", "given '%'", id="percent alone"),
        pytest.param("$remote_addr", "what was asked for", id="nginx without request"),
        pytest.param("%(t)s", "what was asked for", id="gunicorn without request"),
    ],
)
def test_pattern_that_cannot_work_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        log_format(pattern)


def test_every_known_format_has_its_name() -> None:
    assert [log_format(name).name for name in FORMATS] == list(FORMATS)


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        pytest.param([LINE] * 3, "combined", id="combined"),
        pytest.param(["example.com:80 " + LINE], "vhost_combined", id="vhost_combined"),
        pytest.param([LINE.partition(' "http')[0]], "common", id="common"),
        pytest.param([json.dumps(CADDY)], "caddy", id="caddy"),
        pytest.param(["", "garbage", LINE, " "], "combined", id="half, and blank ones"),
        pytest.param(["garbage", "garbage", LINE], None, id="a third"),
        pytest.param([LINE.replace("203.0.113.7", "2001:db8::1")], "combined", id="IPv6"),
        pytest.param([LINE.replace('"M', '"M"')], "combined", id="raw quote"),
        pytest.param(['{"timestamp":1755081000000000,"method":"GET"}'], None, id="export"),
        pytest.param(["", "\t"], None, id="blank"),
        pytest.param([], None, id="none"),
    ],
)
def test_format_is_known_by_its_lines(lines: list[str], name: str | None) -> None:
    known = detect(lines)

    assert (known and known.name) == name


# Each with the escapes of its server, and with all that an entry has.
APACHE = (
    '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i" "%{Host}i" "%{X-Forwarded-For}i" %D'
)
NGINX = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer"'
    ' "$http_user_agent" "$http_host" "$http_x_forwarded_for" $request_time'
)
NGINX_JSON = (
    '{"ip":"$remote_addr","user":"$remote_user","time":"$msec","request":"$request",'
    '"status":$status,"size":$body_bytes_sent,"referer":"$http_referer","agent":"$http_user_agent",'
    '"host":"$http_host","for":"$http_x_forwarded_for","took":$request_time}'
)
GUNICORN = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" "%({host}i)s" '
    '"%({x-forwarded-for}i)s" %(D)s'
)
NAMED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\b": "\\b"}


def apache_escaped(text: str) -> str:
    return "".join(NAMED.get(c) or (c if " " <= c <= "~" else f"\\x{ord(c):02x}") for c in text)


def nginx_escaped(text: str) -> str:
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02X}" for c in text)


def gunicorn_escaped(text: str) -> str:
    return text.replace('"', '\\"').encode().decode("latin-1")  # it writes latin-1 text as UTF-8


def json_escaped(text: str) -> str:
    named = {c: escape for c, escape in NAMED.items() if c != "\v"} | {"\f": "\\f"}
    return "".join(named.get(c) or (c if c >= " " else f"\\u{ord(c):04x}") for c in text)


def stamp(entry: LogEntry) -> str:
    moment = datetime.fromtimestamp(entry.timestamp // 1_000_000, timezone.utc)
    return f"{moment:%d/%b/%Y:%H:%M:%S +0000}"


def combined_line(entry: LogEntry, escaped: Callable[[str], str], took: str) -> str:
    """Write an entry as Apache, nginx and gunicorn do, each with its own escapes."""
    request = escaped(f"{entry.method} {entry.target} HTTP/1.1")
    texts = (entry.referer, entry.user_agent, entry.host, entry.forwarded_for)
    quoted = " ".join(f'"{escaped("-" if text is None else text)}"' for text in texts)
    return (
        f'{entry.address} - {entry.user or "-"} [{stamp(entry)}] "{request}" '
        f"{entry.status or '-'} {entry.bytes_sent} {quoted} {took}"
    )


def nginx_json_line(entry: LogEntry) -> str:
    values = [entry.referer, entry.user_agent, entry.host, entry.forwarded_for]
    referer, agent, host, forwarded_for = (json_escaped(value or "") for value in values)
    request = json_escaped(f"{entry.method} {entry.target} HTTP/1.1")
    return (
        f'{{"ip":"{entry.address}","user":"{entry.user or ""}",'
        f'"time":"{entry.timestamp // 1_000_000}.000","request":"{request}",'
        f'"status":{entry.status or "000"},"size":{entry.bytes_sent},"referer":"{referer}",'
        f'"agent":"{agent}","host":"{host}","for":"{forwarded_for}","took":{seconds(entry)}}}'
    )


def caddy_line(entry: LogEntry) -> str:
    def text(value: str | None) -> str:
        return (value or "").encode("latin-1").decode()

    headers = {
        "User-Agent": entry.user_agent,
        "Referer": entry.referer,
        "X-Forwarded-For": entry.forwarded_for,
    }
    request = {
        "remote_ip": entry.address,
        "method": entry.method,
        "host": text(entry.host),
        "uri": text(entry.target),
        "headers": {name: [text(value)] for name, value in headers.items() if value is not None},
    }
    said = {
        "ts": entry.timestamp / 1e6,
        "msg": "handled request",
        "request": request,
        "user_id": entry.user or "",
        "duration": (entry.duration_us or 0) / 1e6,
        "size": entry.bytes_sent,
        "status": int(entry.status or 0),
    }
    return json.dumps(said, ensure_ascii=False).encode().decode("latin-1")


def seconds(entry: LogEntry) -> str:
    return f"{(entry.duration_us or 0) / 1e6:.3f}"


def texts(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    text = st.text(alphabet, min_size=1, max_size=30)
    # A dash is what a server writes for nothing, and one before a space would look like it.
    return text.filter(lambda value: not value.startswith("-"))


def entries(text: st.SearchStrategy[str]) -> st.SearchStrategy[LogEntry]:
    address = st.ip_addresses().map(str)
    targets = text.map(lambda value: "/" + value.rstrip(" "))
    return st.builds(
        LogEntry,
        timestamp=st.integers(0, 9_999_999_999).map(lambda seconds: seconds * 1_000_000),
        method=st.sampled_from(["GET", "POST", "M-SEARCH", "x!#$%&'*+.^_`|~9"]),
        target=targets,
        status=st.sampled_from(["200", "404", "499", ""]),
        bytes_sent=st.integers(0, 10**15),
        duration_us=st.integers(0, 10**9 - 1).map(lambda milliseconds: milliseconds * 1000),
        address=address,
        user=st.none() | st.from_regex(r"[a-z@.]{1,9}( [a-z]{1,9})?", fullmatch=True),
        user_agent=st.none() | text,
        referer=st.none() | text,
        host=st.none() | st.from_regex(r"[a-z]{1,9}(:[0-9]{1,5})?", fullmatch=True),
        forwarded_for=st.none() | st.lists(address, min_size=1).map(", ".join),
    )


BYTES = texts(st.characters(max_codepoint=255) | st.sampled_from('"\\ /-[]nx'))
# gunicorn writes control characters as they come, so that they would end a line.
# A backslash before a quote would look like an escape: there its lines have two meanings.
PRINTED = texts(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\\"))
UNICODE = texts(st.characters(codec="utf-8")).map(lambda text: text.encode().decode("latin-1"))


@given(entries(BYTES))
def test_apache_line_is_read_as_it_was_meant(entry: LogEntry) -> None:
    line = combined_line(entry, apache_escaped, str(entry.duration_us))

    assert read(line, APACHE) == entry


@given(entries(BYTES))
def test_nginx_line_is_read_as_it_was_meant(entry: LogEntry) -> None:
    line = combined_line(entry, nginx_escaped, seconds(entry))

    assert read(line, NGINX) == entry


@given(entries(BYTES))
def test_nginx_line_of_json_is_read_as_it_was_meant(entry: LogEntry) -> None:
    assert read(nginx_json_line(entry), NGINX_JSON) == entry


@given(entries(PRINTED))
def test_gunicorn_line_is_read_as_it_was_meant(entry: LogEntry) -> None:
    line = combined_line(entry, gunicorn_escaped, str(entry.duration_us))

    assert read(line, GUNICORN) == entry


@given(entries(UNICODE))
def test_caddy_line_is_read_as_it_was_meant(entry: LogEntry) -> None:
    assert read(caddy_line(entry), "caddy") == entry


PATTERNS = [
    *FORMATS,
    APACHE,
    NGINX,
    NGINX_JSON,
    GUNICORN,
    "escape=none $uri$args $upstream_addr $scheme$host$request_uri $time_iso8601",
    '%h %{a}x%{b}x%u %{X-Forwarded-For}i "%m %U%q %H" %{%c}t.%{usec_frac}t %{sec}t %B',
]


@pytest.fixture(scope="module", params=[pytest.param(p, id=p.partition(" ")[0]) for p in PATTERNS])
def known(request: pytest.FixtureRequest) -> Any:
    return log_format(request.param)


def reads_or_refuses(known: Any, line: str) -> None:
    try:
        entry = known.read(line)
    except BadLineError:
        return
    assert 0 <= entry.timestamp <= LAST_TIMESTAMP
    assert entry.status == "" or len(entry.status) == 3


LINES = [
    LINE,
    f"example.com:80 {LINE}",
    json.dumps(CADDY),
    *(combined_line(CADDY_ENTRY, escaped, "0.1") for escaped in (apache_escaped, nginx_escaped)),
    nginx_json_line(CADDY_ENTRY),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_are_read_or_refused(known: Any, line: bytes) -> None:
    reads_or_refuses(known, line.decode("latin-1"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(LINES), st.integers(0, 400), st.integers(0, 20), st.binary(max_size=20))
def test_damaged_line_is_read_or_refused(
    known: Any, line: str, at: int, length: int, damage: bytes
) -> None:
    reads_or_refuses(known, line[:at] + damage.decode("latin-1") + line[at + length :])


HOSTILE = st.text(st.sampled_from('" -\\[]{}:,/?.0a\r'), min_size=1, max_size=8)


def seconds_to_read(known: Any, line: str) -> float:
    began = time.process_time()
    reads_or_refuses(known, line)
    return time.process_time() - began


@settings(max_examples=30)
@given(st.sampled_from(LINES), st.integers(0, 300), HOSTILE)
def test_hostile_line_takes_linear_time(known: Any, line: str, at: int, unit: str) -> None:
    """A second is a hundred times what 200 kB take, and a thousandth of what their square would."""
    hostile = line[:at] + unit * (200_000 // len(unit)) + line[at:]

    assert seconds_to_read(known, hostile) < 1


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(" ", id="spaces"),
        pytest.param('"', id="quotes"),
        pytest.param('" "', id="ends of fields"),
        pytest.param("\\", id="backslashes"),
        pytest.param('\\"', id="escaped quotes"),
        pytest.param("a", id="letters"),
        pytest.param('" 200 5 "', id="numbers between quotes"),
        pytest.param(", 1.1.1.1", id="addresses"),
        pytest.param(f' [{STAMP}] "', id="times"),
    ],
)
@pytest.mark.parametrize("at", [0, 14, 20, 55, 75, -3])
def test_megabyte_is_read_or_refused_at_once(known: Any, unit: str, at: int) -> None:
    line = LINE[:at] + unit * (1_000_000 // len(unit)) + LINE[at:]

    assert seconds_to_read(known, line) < 1
