"""What all hosts of a database agree on, by name.

Rows are only added. Of those of the greatest epoch the first holds, so that of two hosts that say
something at once both go on with the same, as far as their clocks agree; who changes a setting begins
an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .client import Client
from .literals import literal

READ = """
SELECT name, argMin(value, at), max(epoch) FROM settings
WHERE name IN ({names}) AND (name, epoch) IN (SELECT name, max(epoch) FROM settings GROUP BY name)
GROUP BY name"""


class Settings:
    """The settings of one database; ``clock`` returns microseconds.

    ``await_whole`` returns once the server that is asked has what was said to any other.
    """

    def __init__(
        self, client: Client, clock: Callable[[], int], await_whole: Callable[[], None]
    ) -> None:
        self._client = client
        self._clock = clock
        self._await_whole = await_whole

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """Return the values of those of these settings that have one."""
        return {name: value for name, (value, _) in self._rows(names).items() if value is not None}

    def number(self, name: str) -> int | None:
        """Return a setting that is a number, if it has a value."""
        value = self.read([name]).get(name)
        return None if value is None else int(value)

    def keep(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Give each of these settings its value unless it has one; return the values that hold."""
        found = self.read(settings)
        if not found.keys() >= settings.keys():
            self._await_whole()
            known = self._rows(settings)
            self._add(
                {
                    name: (value, known.get(name, (None, 0))[1])
                    for name, value in settings.items()
                    if known.get(name, (None, 0))[0] is None
                }
            )
            self._await_whole()
            found = self.read(settings)
        return found

    def write(self, settings: Mapping[str, str | int | None]) -> None:
        """Give settings these values, whatever they had, ``None`` for none."""
        self._await_whole()
        known = self._rows(settings)
        self._add(
            {
                name: (None if value is None else str(value), known.get(name, (None, 0))[1] + 1)
                for name, value in settings.items()
            }
        )

    def _rows(self, names: Iterable[str]) -> dict[str, tuple[str | None, int]]:
        listed = literal(list(names))
        if not listed:
            return {}
        rows = self._client.rows(READ.replace("{names}", listed))
        return {name: (value, epoch) for name, value, epoch in rows}

    def _add(self, settings: Mapping[str, tuple[str | None, int]]) -> None:
        if not settings:
            return
        now = self._clock()
        rows = ", ".join(
            f"({literal(name)}, {literal(value)}, {literal(epoch)}, {literal(now)})"
            for name, (value, epoch) in settings.items()
        )
        self._client.add(f"INSERT INTO settings (name, value, epoch, at) VALUES {rows}")
