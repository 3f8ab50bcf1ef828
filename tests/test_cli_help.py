"""Help that teaches, words that the shell completes, and what to install."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from commands import command, run

from wsgi_tracker.cli import main


def every_command() -> list[Any]:
    return [pytest.param(each, id=name) for name, each in sorted(main.commands.items())]


@pytest.mark.parametrize("each", every_command())
def test_help_says_what_each_option_does(each: click.Command) -> None:
    context = each.make_context(each.name, [], resilient_parsing=True)

    undescribed = [
        param.opts
        for param in each.get_params(context)
        if isinstance(param, click.Option) and not param.help
    ]

    assert undescribed == []
    assert each.help


@pytest.mark.parametrize("each", [pytest.param(main, id="all"), *every_command()])
def test_help_is_no_wider_than_100_columns(
    each: click.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    whole = main.make_context("wsgi-tracker", [], resilient_parsing=True)
    context = whole if each is main else click.Context(each, info_name=each.name, parent=whole)

    shown = each.get_help(context)

    assert [line for line in shown.splitlines() if len(line) > 100] == []
    assert "..." not in "".join(
        line for line in shown.splitlines() if "Tracker(" not in line and "[OPTIONS]" not in line
    )


def examples() -> Iterator[Any]:
    for name, each in sorted(main.commands.items()):
        for line in (each.help or "").splitlines():
            if line.strip().startswith("wsgi-tracker "):
                yield pytest.param(line.strip(), id=f"{name}: {line.strip()}")


@pytest.mark.parametrize("line", [*examples()])
def test_example_of_help_is_understood(line: str) -> None:
    words = shlex.split(line.replace("$(date +%F)", "today"), comments=True)
    name, *arguments = words[1 : next((n for n, w in enumerate(words) if w in "|>"), len(words))]

    context = main.commands[name].make_context(name, arguments)

    with context:
        assert context.command.name == name


@pytest.mark.parametrize(
    ("typed", "begun", "completed"),
    [
        (["breakdown", "--by"], "referer", {"referer", "referer_host"}),
        (["stats", "--period"], "", {"day", "week", "month", "year", "all", "today", "yesterday"}),
        (["trends", "--granularity"], "d", {"day"}),
        (["visits", "--include"], "path,st", {"path,status"}),
        (["configure", "--identity"], "", {"permanent", "daily"}),
        ([], "reb", {"rebuild"}),
    ],
)
def test_shell_completes_words(typed: list[str], begun: str, completed: set[str]) -> None:
    shell = ShellComplete(main, {}, "wsgi-tracker", "_WSGI_TRACKER_COMPLETE")

    assert {item.value for item in shell.get_completions(typed, begun)} == completed


def test_help_says_how_to_complete() -> None:
    line = next(line for line in command("--help").stdout.splitlines() if "eval" in line)
    variable, shell = re.findall(r"\w+", line)[1:3]

    done = run(environ={variable: shell})

    assert "_wsgi_tracker_completion" in done.stdout


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_packages_are_named(missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None; import wsgi_tracker.__main__ as m; m.main()"
    )

    done = run(python=["-c", script])

    assert done.stderr == "the command line needs click and rich: pip install 'wsgi-tracker[cli]'\n"
    assert done.returncode == 1


def test_console_script_is_called_as_its_help_says() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()

    assert '\nwsgi-tracker = "wsgi_tracker.__main__:main"\n' in project
    assert command("--help").stdout.startswith("Usage: wsgi-tracker ")
