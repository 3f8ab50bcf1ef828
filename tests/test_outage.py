"""A lasting fault is logged once, another one by itself, and nobody can fill the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from calls import answering, environ, serve

from wsgi_tracker import Tracker
from wsgi_tracker.errors import Outage, StorageError

Tracked = Callable[..., Tracker]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def raised(make: Callable[[], Any]) -> Exception:
    """Return what ``make`` raises, with its traceback."""
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def here(kind: type[Exception] = KeyError, text: str = "x") -> Exception:
    def fail() -> None:
        raise kind(text)

    return raised(fail)


def elsewhere(kind: type[Exception] = KeyError, text: str = "x") -> Exception:
    def fail() -> None:
        raise kind(text)

    return raised(fail)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_lasting_problem_is_logged_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outage = Outage("nothing works", clock=clock)

    for _ in range(3):
        outage.report("full")
        outage.report("locked")
        clock.now += 100_000
    outage.over()
    outage.over()
    outage.report("full")

    assert [record.getMessage() for record in caplog.records] == [
        "nothing works: full",
        "nothing works: locked",
        "nothing works: works again",
        "nothing works: full",
    ]


@pytest.mark.parametrize(
    ("pause", "expected"),
    [
        pytest.param(59.9, ["out: disk I/O"], id="the same outage"),
        pytest.param(60, ["out: disk I/O", "out: read-only"], id="another"),
    ],
)
def test_problem_soon_after_another_is_the_same_outage(
    pause: float, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only disk was logged twice, as what SQLite says of it changes."""
    clock = Clock()
    outage = Outage("out", clock=clock)

    outage.report("disk I/O")
    clock.now += pause
    outage.report("read-only")
    outage.report("read-only")

    assert logged(caplog) == expected


def test_bug_is_known_by_its_type_and_the_line_that_raised_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("bug")
    bugs = [here(KeyError, "a"), here(KeyError, "b"), here(ValueError, "c"), elsewhere()]

    for error in bugs * 2:
        outage.report_bug(error)

    assert logged(caplog) == ["bug: 'a'", "bug: c", "bug: 'x'"]
    assert all(record.exc_info for record in caplog.records)


def test_one_outage_of_storage_is_one_fault_wherever_it_is_met(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage("bug")

    outage.report_bug(here(StorageError, "locked"))
    outage.report_bug(elsewhere(StorageError, "not known yet"))

    assert logged(caplog) == ["bug: locked"]


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        pytest.param([59.9] * 5, 1, id="goes on"),
        pytest.param([60], 2, id="comes again after a minute"),
        pytest.param([30, 60, 30], 2, id="goes on, and comes again"),
    ],
)
def test_fault_that_is_not_met_for_a_while_is_over(
    pauses: list[float], expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    outage = Outage("bug", forget_seconds=60, clock=clock)

    outage.report_bug(here())
    for pause in pauses:
        clock.now += pause
        outage.report_bug(here())

    assert len(logged(caplog)) == expected


def test_many_kinds_of_fault_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outage = Outage("bug", forget_seconds=60, clock=clock)
    kinds = [type(f"Kind{number}", (Exception,), {}) for number in range(200)]

    for kind in kinds * 3:
        outage.report_bug(here(kind))

    assert len(logged(caplog)) == len(outage._met) == Outage.MAX_KINDS + 1

    clock.now += 60
    outage.report_bug(here(kinds[-1]))
    assert len(logged(caplog)) == Outage.MAX_KINDS + 2
    assert len(outage._met) == 1


def test_error_of_our_own_needs_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    Outage("bug").report_bug(here(StorageError, "the disk is full"))  # type: ignore[arg-type]
    Outage("bug").report_bug(here(KeyError))

    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


# --- the recorder's ------------------------------------------------------------------------------


def faulty(environ: Any) -> str:
    path = environ["PATH_INFO"]
    if path.startswith("/key"):
        raise KeyError(path)
    if path.startswith("/other-key"):
        raise KeyError(path)
    return "/boxes"


def test_client_that_alternates_between_bugs_has_each_logged_once(
    tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the last kind was known: two bugs in turn were logged with each request."""
    app = tracked(answering([b"a"]), endpoint=faulty)

    for number in range(10):
        serve(app, environ(f"/key/{number}"))
        serve(app, environ(f"/other-key/{number}"))
        serve(app, environ("/boxes"))

    assert logged(caplog) == [
        "a visit was not recorded: '/key/0'",
        "a visit was not recorded: '/other-key/0'",
    ]


def test_bug_that_comes_again_after_a_minute_is_logged_again(
    tracked: Tracked, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    app = tracked(answering([b"a"]), endpoint=faulty)
    monkeypatch.setattr(app._recorder._outage, "_clock", clock)

    for seconds in (0, 1, 60, 1):
        clock.now += seconds
        serve(app, environ("/key"))

    assert len(logged(caplog)) == 2


def test_exception_that_cannot_say_what_it_is_costs_no_request(
    tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def endpoint(environ: Any) -> str:
        raise MuteError

    app = tracked(answering([b"a"]), endpoint=endpoint)

    assert serve(app, environ()) == ("200 OK", b"a")
    assert logged(caplog) == ["a visit was not recorded: MuteError"]
