"""How a server writes quotes, backslashes and control characters so that a line stays readable.

While a line is taken apart, escapes that a field's end could be mistaken for are hidden behind
characters that no line holds, as it is latin-1: so a quoted field is all up to the next quote.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .entry import latin_1

_BACKSLASH, _QUOTE = "\u0100", "\u0101"
_MEANINGS = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "b": "\b",
    "f": "\f",
    "/": "/",
    '"': '"',
    "\\": "\\",
}
_ESCAPES = re.compile(
    r"""\\x([0-9A-Fa-f]{2}) | \\u([0-9A-Fa-f]{4}) | \\([nrtvbf/"\\]) | ([\u0100\u0101])""",
    re.VERBOSE,
)


class Escapes(NamedTuple):
    """``hide`` is done to a line before it is taken apart, ``show`` to what was found in it."""

    hide: Callable[[str], str]
    show: Callable[[str], str]


def _hide(line: str) -> str:
    return line.replace("\\\\", _BACKSLASH).replace('\\"', _QUOTE)


def _show(text: str) -> str:
    if "\\" not in text and text.isascii():  # nor anything hidden: most fields of a line
        return text
    return _ESCAPES.sub(_meaning, text)


def _meaning(escape: re.Match[str]) -> str:
    byte, character, letter, hidden = escape.groups()
    if byte:
        return chr(int(byte, 16))
    if character:
        return latin_1(chr(int(character, 16)))
    return _MEANINGS[letter] if letter else "\\" if hidden == _BACKSLASH else '"'


# Those of Apache and nginx, and of JSON: no server writes what means another thing in the other.
BACKSLASHES = Escapes(_hide, _show)
# Gunicorn's: a backslash stays what it is, unless a quote follows.
QUOTES = Escapes(
    lambda line: line.replace('\\"', _QUOTE),
    lambda text: text.replace(_QUOTE, '"').replace('\\"', '"'),
)
NONE = Escapes(lambda line: line, lambda text: text)
