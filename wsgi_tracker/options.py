"""What an option of Tracker may be; each mistake is told before anything is opened.

Not here: options that a part of the tracker reads by itself, as the token and trusted proxies.
"""

from __future__ import annotations

import math
import re
from typing import Any

from .errors import ConfigurationError
from .period import load_zone

LONGEST_RETENTION_DAYS = 36_500
SMALLEST_SPOOL_BYTES = 4 * 4096


def check_application(app: Any) -> None:
    """Refuse what is no WSGI application, such as the name of one."""
    if not callable(app):
        raise ConfigurationError(f"app is a WSGI application, given a {type(app).__name__}")


def check_prefix(prefix: str) -> None:
    """Refuse what no path can begin with."""
    if not isinstance(prefix, str) or not re.fullmatch(r"(/[^/?#]+)+", prefix):
        raise ConfigurationError(
            "prefix begins with a slash, ends without one, and has no ? or #, as '/api/tracking'; "
            f"given {prefix!r}"
        )


def check_retention(days: int | None) -> None:
    """Refuse what is no number of days; ``None`` leaves it to others, 0 is for ever."""
    is_number = isinstance(days, int) and not isinstance(days, bool)
    if days is not None and not (is_number and 0 <= days <= LONGEST_RETENTION_DAYS):
        raise ConfigurationError(
            f"retention_days is a whole number up to {LONGEST_RETENTION_DAYS}, 0 to keep all; "
            f"given {days!r}"
        )


def check_timezone(name: str | None) -> None:
    """Refuse what is no time zone; ``None`` leaves it to the database."""
    if name is not None:
        load_zone(name)


def check_flags(**flags: bool) -> None:
    """Refuse what is only true or false in a way, as the string ``"0"``."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigurationError(f"{name} is True or False, given {value!r}")


def check_spool_size(max_bytes: int) -> None:
    """Refuse what holds no more than a few segments, the smallest of which have 4096 bytes."""
    check_positive("max_spool_bytes", max_bytes)
    if max_bytes < SMALLEST_SPOOL_BYTES:
        raise ConfigurationError(
            f"max_spool_bytes is at least {SMALLEST_SPOOL_BYTES}, given {max_bytes}"
        )


def check_positive(name: str, value: int) -> None:
    """Refuse what counts nothing."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} is a whole number above 0, given {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Refuse what is no length of time."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} is a number of seconds above 0, given {value!r}")
