"""Who may read reports."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from wsgi_tracker import Tracker
from wsgi_tracker.errors import ConfigurationError

Tracked = Callable[..., Tracker]
GUNICORN = {"SERVER_SOFTWARE": "gunicorn/23.0.0", "REMOTE_ADDR": "127.0.0.1"}


def ask(app: Tracker, **environ: Any) -> tuple[int, dict[str, str], Any]:
    """Ask for a report; return status, headers and document."""
    request: dict[str, Any] = {"PATH_INFO": "/api/tracking/summary", "HTTP_HOST": "example.com"}
    setup_testing_defaults(request)
    request.update(environ)
    started: list[Any] = []
    body = app(request, lambda status, headers, exc_info=None: started.extend([status, headers]))
    return int(started[0][:3]), dict(started[1]), json.loads(b"".join(body))


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param("Bearer right", 200, id="right"),
        pytest.param("bearer right", 200, id="scheme in lower case"),
        pytest.param("Bearer  right ", 200, id="padded"),
        pytest.param("Bearer second", 200, id="second token"),
        pytest.param("", 401, id="none"),
        pytest.param("Bearer", 401, id="empty"),
        pytest.param("Bearer wrong", 401, id="wrong"),
        pytest.param("Bearer Right", 401, id="other case"),
        pytest.param("Bearer right second", 401, id="two"),
        pytest.param("Basic right", 401, id="other scheme"),
        pytest.param("right", 401, id="no scheme"),
        pytest.param("Bearer \xff\xfe", 401, id="no ASCII"),
        pytest.param("Bearer r\u0131ght", 401, id="no latin-1"),
        pytest.param("Bearer \ud800", 401, id="surrogate"),
        pytest.param("Bearer " + "x" * 100_000, 401, id="long"),
    ],
)
@pytest.mark.parametrize("server", [GUNICORN, {"paste.testing": True}], ids=["gunicorn", "test"])
def test_token_decides_where_there_is_one(
    header: str, status: int, server: dict[str, Any], tracked: Tracked
) -> None:
    app = tracked(token=("right", "second"))

    answered, headers, document = ask(app, HTTP_AUTHORIZATION=header, **server)

    assert answered == status
    if status == 401:
        assert headers["WWW-Authenticate"] == "Bearer"
        assert document["error"]["code"] == "unauthorized"
        assert "right" not in json.dumps(document)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        pytest.param("Bearer wrong", "what it holds is no token that is set here", id="token"),
        pytest.param("Basic dXNlcjpyaWdodA==", "what it holds is no Bearer token", id="scheme"),
    ],
)
def test_refusal_tells_a_wrong_token_from_another_scheme(
    header: str, told: str, tracked: Tracked
) -> None:
    _, _, document = ask(tracked(token="right"), HTTP_AUTHORIZATION=header, **GUNICORN)

    assert document["error"]["message"].endswith(told)


def test_tokens_come_from_the_environment(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSGI_TRACKER_TOKEN", "one,two three")
    app = tracked()
    monkeypatch.delenv("WSGI_TRACKER_TOKEN")

    statuses = [
        ask(app, HTTP_AUTHORIZATION=f"Bearer {token}", **GUNICORN)[0]
        for token in ("one", "two", "three", "one,two three")
    ]

    assert statuses == [200, 200, 200, 401]


LOCAL = {
    "SERVER_SOFTWARE": "WSGIServer/0.2 CPython/3.13",
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "localhost:8000",
}


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        pytest.param({}, 200, id="wsgiref or Django"),
        pytest.param({"SERVER_SOFTWARE": "Werkzeug/3.1.3"}, 200, id="Werkzeug"),
        pytest.param({"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:8000"}, 200, id="IPv6"),
        pytest.param({"REMOTE_ADDR": "127.8.0.1", "HTTP_HOST": "127.0.0.1"}, 200, id="127/8"),
        pytest.param({"SERVER_SOFTWARE": "gunicorn/23.0.0"}, 401, id="gunicorn"),
        pytest.param({"SERVER_SOFTWARE": "waitress"}, 401, id="waitress"),
        pytest.param({"SERVER_SOFTWARE": "Apache/2.4 mod_wsgi/5"}, 401, id="mod_wsgi"),
        pytest.param({"SERVER_SOFTWARE": "", "uwsgi.version": b"2"}, 401, id="uWSGI"),
        pytest.param({"REMOTE_ADDR": "192.0.2.7"}, 401, id="peer elsewhere"),
        pytest.param({"REMOTE_ADDR": ""}, 401, id="Unix socket"),
        pytest.param({"REMOTE_ADDR": "localhost"}, 401, id="peer is a name"),
        pytest.param({"HTTP_HOST": "evil.example"}, 401, id="DNS rebinding"),
        pytest.param({"HTTP_HOST": "localhost.evil.example"}, 401, id="name that begins so"),
        pytest.param({"HTTP_HOST": ""}, 401, id="no host"),
        pytest.param({"HTTP_X_FORWARDED_FOR": "1.2.3.4"}, 401, id="X-Forwarded-For"),
        pytest.param({"HTTP_X_FORWARDED_PROTO": "https"}, 401, id="X-Forwarded-Proto"),
        pytest.param({"HTTP_FORWARDED": "for=1.2.3.4"}, 401, id="Forwarded"),
    ],
)
def test_without_token_only_local_development_is_answered(
    environ: dict[str, Any], status: int, tracked: Tracked
) -> None:
    answered, headers, document = ask(tracked(), **{**LOCAL, **environ})

    assert answered == status
    if status == 401:
        assert headers["WWW-Authenticate"] == "Bearer"
        assert "WSGI_TRACKER_TOKEN" in document["error"]["message"]


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        pytest.param({"paste.testing": True, **GUNICORN}, 200, id="WebTest"),
        pytest.param({}, 200, id="neither address nor server"),
        pytest.param({"REMOTE_ADDR": "127.0.0.1"}, 401, id="Flask's client"),
        pytest.param({"uwsgi.node": b"a"}, 401, id="uWSGI"),
    ],
)
def test_without_token_test_calls_are_answered(
    environ: dict[str, Any], status: int, tracked: Tracked
) -> None:
    assert ask(tracked(), **environ)[0] == status


def test_require_token_false_answers_everybody(tracked: Tracked) -> None:
    assert ask(tracked(require_token=False), **GUNICORN)[0] == 200


def test_require_token_false_answers_everybody_whatever_the_environment_holds(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSGI_TRACKER_TOKEN", "right")

    assert ask(tracked(require_token=False), **GUNICORN)[0] == 200


@pytest.mark.parametrize("token", ["right-one", ["right-one", "second"], ""])
def test_token_nobody_would_be_asked_for_is_refused(token: Any, tracked: Tracked) -> None:
    with pytest.raises(ConfigurationError, match=r"token= and require_token=False") as raised:
        tracked(token=token, require_token=False)

    assert "right-one" not in str(raised.value)


def test_require_token_true_asks_development_too(tracked: Tracked) -> None:
    app = tracked(token="right", require_token=True)

    assert ask(app, **LOCAL)[0] == 401
    assert ask(app, HTTP_AUTHORIZATION="Bearer right", **LOCAL)[0] == 200


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"require_token": True}, id="required, none"),
        pytest.param({"token": ""}, id="empty"),
        pytest.param({"token": []}, id="no tokens"),
        pytest.param({"token": "with space"}, id="space"),
        pytest.param({"token": "s\u00e9same"}, id="no ASCII"),
        pytest.param({"token": [7]}, id="number"),
    ],
)
def test_unusable_token_is_refused_without_being_shown(
    options: dict[str, Any], tracked: Tracked
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        tracked(**options)

    assert "space" not in str(raised.value)
    assert "sésame" not in str(raised.value)


def test_log_says_at_start_how_to_set_a_token(
    tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    tracked()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    tracked(token="secret-token")

    assert "WSGI_TRACKER_TOKEN" in warning.getMessage()
    assert caplog.text.count("WARNING") == 0
    assert "secret-token" not in caplog.text


def test_refusal_tells_nothing_about_what_is_there(tracked: Tracked) -> None:
    app = tracked(token="right")

    assert ask(app, PATH_INFO="/api/tracking/nothing", **GUNICORN)[0] == 401
    assert ask(app, REQUEST_METHOD="POST", **GUNICORN)[0] == 401
    assert ask(app, QUERY_STRING="x=1", **GUNICORN)[0] == 401
