"""Which format a log has: by name, by the pattern in its server's configuration, or by its lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ConfigurationError
from .apache import COMBINED, COMMON, VHOST_COMBINED, apache_format
from .caddy import CaddyFormat
from .entry import BadLineError, LogFormat
from .gunicorn import DEFAULT, GunicornFormat
from .nginx import nginx_format

_KNOWN: dict[str, Callable[[], LogFormat]] = {
    "combined": lambda: apache_format(COMBINED, "combined"),
    "common": lambda: apache_format(COMMON, "common"),
    "vhost_combined": lambda: apache_format(VHOST_COMBINED, "vhost_combined"),
    "caddy": CaddyFormat,
    "gunicorn": lambda: GunicornFormat(DEFAULT, "gunicorn"),
}
FORMATS = tuple(_KNOWN)
# From the most particular: of two that fit, the one that says more. Gunicorn's looks like combined.
_DETECTED = ("caddy", "vhost_combined", "combined", "common")


def log_format(name_or_pattern: str) -> LogFormat:
    """Return a known format, or that of a LogFormat, log_format or access_log_format string."""
    if make := _KNOWN.get(name_or_pattern):
        return make()
    if "%(" in name_or_pattern:
        return GunicornFormat(name_or_pattern)
    if name_or_pattern.count("$") > name_or_pattern.count("%"):
        return nginx_format(name_or_pattern)
    if "%" in name_or_pattern:
        return apache_format(name_or_pattern)
    raise ConfigurationError(
        f"a log format is one of {', '.join(FORMATS)}, or a pattern as '%h %t \"%r\" %>s' of "
        f"Apache or '$remote_addr [$time_local] \"$request\"' of nginx; given {name_or_pattern!r}"
    )


def detect(lines: Sequence[str]) -> LogFormat | None:
    """Return the format that fits at least half of the lines, blank ones aside."""
    lines = [line for line in lines if line.strip()]
    for name in _DETECTED:
        known = log_format(name)
        if lines and 2 * sum(_fits(known, line) for line in lines) >= len(lines):
            return known
    return None


def _fits(known: LogFormat, line: str) -> bool:
    try:
        known.read(line)
    except BadLineError:
        return False
    return True
