"""What is written of commands is what they say themselves."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from commands import command

from wsgi_tracker.cli import SECTIONS

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "commands.md"
README = (ROOT / "README.md").read_text()
COMMANDS = [each for commands in SECTIONS.values() for each in commands]


def help_of(*names: str) -> str:
    """Return a help as a terminal of 80 columns shows it."""
    return "\n".join(line.rstrip() for line in command(*names, "--help").stdout.splitlines())


def section(name: str) -> str:
    """Return what the reference says of a command."""
    return f"## {name}\n\n```text\n{help_of(name)}\n```\n"


@pytest.mark.parametrize("each", COMMANDS, ids=lambda each: str(each.name))
def test_reference_says_what_the_help_says(each: click.Command) -> None:
    assert section(str(each.name)) in REFERENCE.read_text()


def test_reference_has_no_other_command() -> None:
    told = re.findall(r"^## (\S+)$", REFERENCE.read_text(), re.MULTILINE)

    assert told == [each.name for each in COMMANDS]


def test_readme_lists_every_command() -> None:
    rows = re.findall(r"^\| `wsgi-tracker (\S+)` \| (.*) \|$", README, re.MULTILINE)

    assert rows == [(each.name, each.get_short_help_str(200)) for each in COMMANDS]


if __name__ == "__main__":  # writes the reference
    text = REFERENCE.read_text()
    head = text.partition("\n## ")[0].rstrip()
    REFERENCE.write_text("\n".join([head + "\n", *(section(str(each.name)) for each in COMMANDS)]))
