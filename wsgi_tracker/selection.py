"""Which visits a question is about: a span of time, and filters. How they are found is not here."""

from __future__ import annotations

from dataclasses import dataclass

FILTERS = (
    "endpoint method status class path host referer referer_host browser system user_agent error "
    "ip_address user_hash"
).split()
# What visits can be broken down by.
BREAKDOWNS = (
    "referer referer_host user_agent browser system class status method host path error ip_address"
).split()


@dataclass(frozen=True, slots=True)
class Filter:
    """Visits whose ``name`` is one of ``values`` or, ``excluded``, all others.

    A value with ``*``, ``?`` or ``[`` is a glob, too, in which ``*`` matches slashes, unless
    ``is_exact``; of a status it may be ``4xx``. ``None`` is that of visits that have none.
    """

    name: str
    values: tuple[str | None, ...]
    excluded: bool = False
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Visits from ``start`` to before ``end``, or to the last one, that all ``filters`` let through.

    In microseconds since the epoch.
    """

    start: int = 0
    end: int | None = None
    filters: tuple[Filter, ...] = ()

    @property
    def agent_class(self) -> str | None:
        """The class of user agents that visits are to be of; of a selection that is simple."""
        if not self.filters:
            return None
        (only,) = self.filters
        return only.values[0]

    @property
    def is_simple(self) -> bool:
        """Whether it reaches to now, over all visitors or those of one class."""
        return self.end is None and (
            not self.filters
            or (
                len(self.filters) == 1
                and self.filters[0].name == "class"
                and len(self.filters[0].values) == 1
                and not self.filters[0].excluded
            )
        )


def of_class(agent_class: str | None) -> tuple[Filter, ...]:
    """Return filters that let one class of user agents through, or all."""
    return () if agent_class is None else (Filter("class", (agent_class,)),)
