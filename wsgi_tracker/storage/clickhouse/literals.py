"""How values become text of a statement: the only place where that happens.

Servers before 20 know no parameters, so values are written into statements, escaped as ClickHouse
documents it for its strings: https://clickhouse.com/docs/sql-reference/syntax#string
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

ESCAPES = str.maketrans(
    {
        "\\": r"\\",
        "'": r"\'",
        "\b": r"\b",
        "\f": r"\f",
        "\r": r"\r",
        "\n": r"\n",
        "\t": r"\t",
        "\0": r"\0",
    }
)
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What a regular expression of RE2 takes for more than itself.
SPECIAL = re.compile(r"([^\w\s/%])", re.ASCII)
NOTHING = r"[^\x00-\x{10FFFF}]"


def literal(value: str | int | Iterable[str | int] | None) -> str:
    """Return a value as ClickHouse reads it; of several, the inside of an array or tuple."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        # What is no text in UTF-8, a lone surrogate, is found in nothing that is stored.
        return f"'{value.encode('utf-8', 'replace').decode().translate(ESCAPES)}'"
    return ", ".join(map(literal, value))


def bind(statement: str, values: Mapping[str, str | int | Iterable[str | int] | None]) -> str:
    """Return a statement with each ``{name}`` replaced by the literal of its value."""
    return PLACEHOLDER.sub(lambda found: literal(values[found[1]]), statement)


def glob_pattern(glob: str) -> str:
    """Return a regular expression of RE2 for what a glob matches, as SQLite's GLOB has it.

    ``*`` is any text, ``?`` one character, ``[...]`` one of these, ``[!...]`` none of these. A set
    that does not end matches nothing.
    """
    pattern, place = "", 0
    while place < len(glob):
        character = glob[place]
        place += 1
        if character == "*":
            pattern += ".*"
        elif character == "?":
            pattern += "."
        elif character == "[":
            is_negated = glob[place : place + 1] in ("!", "^")
            begin = place + is_negated
            end = glob.find("]", begin + 1)  # first in a set, it is one of its characters
            if end < 0:
                return NOTHING
            pattern += _set(glob[begin:end], is_negated)
            place = end + 1
        else:
            pattern += _quoted(character)
    return rf"(?s)\A{pattern}\z"


def _set(inside: str, is_negated: bool) -> str:
    parts = []
    while inside:
        first, dash, last = inside[:1], inside[1:2], inside[2:3]
        if dash == "-" and last:
            if first <= last:
                parts.append(f"{_quoted(first)}-{_quoted(last)}")
            inside = inside[3:]
        else:
            parts.append(_quoted(first))
            inside = inside[1:]
    if not parts:
        return "." if is_negated else NOTHING
    return f"[{'^' if is_negated else ''}{''.join(parts)}]"


def _quoted(character: str) -> str:
    return SPECIAL.sub(r"\\\1", character) if character.isascii() else character
