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
AGENTS_PER_STEP = 500
ADD = """
INSERT INTO user_agents (user_agent, class, rule, browser, system, device, at) VALUES {rows}"""


class Agents:
    """What this process knows of the user agents of one database; ``clock`` in microseconds."""

    def __init__(self, client: Client, clock: Callable[[], int]) -> None:
        self._client = client
        self._clock = clock
        self._known: set[bytes] = set()

    def learn(self, data: bytes, *, all_of_them: bool = False) -> None:
        """Decide the class of the user agents in lines that nobody has decided yet."""
        new = set(OF_LINES.findall(data)) - self._known
        classify = load_classifier() if new else None
        if classify is None:
            return
        if len(self._known) > MOST_KNOWN:
            self._known = set()
        named = {_text(quoted): quoted for quoted in new}
        names = list(named)
        for start in range(0, len(names), AGENTS_PER_STEP):
            some = names[start : start + AGENTS_PER_STEP]
            seconds = math.inf if all_of_them else DECIDE_SECONDS
            self._decide(sorted(set(some) - self._decided(some)), classify, seconds)
        self._known |= new

    def anew(self) -> Iterator[None]:
        """Decide all of them by the data that is installed here, a step at a time."""
        classify = load_classifier()
        if classify is None:
            raise ConfigurationError(f"user agents cannot be classified: {NO_CLASSES}")
        last = ""
        while True:
            rows = self._client.rows(
                f"SELECT DISTINCT user_agent FROM user_agents WHERE user_agent > {literal(last)} "
                f"ORDER BY user_agent LIMIT {AGENTS_PER_STEP}"
            )
            if not rows:
                return
            names = [name for (name,) in rows]
            self._decide(names, classify, math.inf)
            last = names[-1]
            yield

    def _decided(self, names: Sequence[str]) -> set[str]:
        rows = self._client.rows(
            f"SELECT DISTINCT user_agent FROM user_agents WHERE user_agent IN ({literal(names)})"
        )
        return {name for (name,) in rows}

    def _decide(self, names: Iterable[str], classify: Classify, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        now, rows = self._clock(), []
        for name in names:
            agent = classify(name)
            of_agent = (agent.agent_class, agent.rule, agent.browser, agent.system, agent.device)
            rows.append(f"({', '.join(map(literal, (name, *of_agent, now)))})")
            if time.monotonic() > deadline:
                break
        if rows:
            self._client.run(ADD.replace("{rows}", ", ".join(rows)))


def _text(quoted: bytes) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""
