"""The classes of user agents: decided by the host that ingests the first visit of one, before it.

They stand in a table of their own, which all servers have; the newest word on each holds. What
comes too fast to be decided stays unknown until all are classified anew.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ...agents import NO_CLASSES, Classify, load_classifier
from ...errors import ConfigurationError
from .client import Client
from .literals import literal

# In a line, quotes within a string are escaped.
OF_LINES = re.compile(rb'"user_agent":("(?:[^"\\]|\\.)+")')
DECIDE_SECONDS = 1.0  # for those of a batch; one takes 0.1 to 2 ms
MOST_KNOWN = 200_000
KNOWN_SECONDS = 600.0  # until then, one may have been forgotten with all its visits
AGENTS_PER_STEP = 500
ALL = "SELECT DISTINCT user_agent FROM visits WHERE isNotNull(user_agent)"
ADD = """
INSERT INTO user_agents (user_agent, class, rule, browser, system, device, at) VALUES {rows}"""


class Agents:
    """What this process knows of the user agents of one database; ``clock`` in microseconds."""

    def __init__(self, client: Client, clock: Callable[[], int]) -> None:
        self._client = client
        self._clock = clock
        self._known: set[bytes] = set()
        self._forget_at = 0.0

    def learn(self, data: bytes, *, all_of_them: bool = False) -> None:
        """Decide the class of the user agents in lines that nobody has decided yet."""
        if time.monotonic() >= self._forget_at or len(self._known) > MOST_KNOWN:
            self._known, self._forget_at = set(), time.monotonic() + KNOWN_SECONDS
        new = set(OF_LINES.findall(data)) - self._known
        classify = load_classifier() if new else None
        if classify is None:
            return
        named = {_text(quoted): quoted for quoted in new}
        seconds = math.inf if all_of_them else DECIDE_SECONDS
        for some in _slices(list(named)):
            known = self._decided(some)
            known |= self._decide(sorted(set(some) - known), classify, seconds)
            # What is no UTF-8 comes back as something else.
            self._known |= {named[name] for name in known & named.keys()}

    def anew(self) -> Iterator[None]:
        """Decide those of all visits by the data that is installed here, a step at a time."""
        classify = load_classifier()
        if classify is None:
            raise ConfigurationError(f"user agents cannot be classified: {NO_CLASSES}")
        rows = self._client.rows(ALL)
        for some in _slices([name for (name,) in rows]):
            self._decide(some, classify, math.inf)
            yield

    def _decided(self, names: Sequence[str]) -> set[str]:
        rows = self._client.rows(
            f"SELECT DISTINCT user_agent FROM user_agents WHERE user_agent IN ({literal(names)})"
        )
        return {name for (name,) in rows}

    def _decide(self, names: Iterable[str], classify: Classify, seconds: float) -> set[str]:
        """Decide as many as there is time for; return which."""
        deadline = time.monotonic() + seconds
        now, rows, done = self._clock(), [], set()
        for name in names:
            agent = classify(name)
            of_agent = (agent.agent_class, agent.rule, agent.browser, agent.system, agent.device)
            rows.append(f"({', '.join(map(literal, (name, *of_agent, now)))})")
            done.add(name)
            if time.monotonic() > deadline:
                break
        if rows:
            self._client.add(ADD.replace("{rows}", ", ".join(rows)))
        return done


def _slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), AGENTS_PER_STEP):
        yield names[start : start + AGENTS_PER_STEP]


def _text(quoted: bytes) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""
