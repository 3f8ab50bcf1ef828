"""Which requests are no visits: rules on path, method and address, or the application's own word.

They are still counted, as ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import TYPE_CHECKING, TypeAlias

from .addresses import Network, is_within
from .errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Rule: TypeAlias = "str | Callable[[WSGIEnvironment], object]"


class Exclusions:
    """Rules of ``exclude``, any of which excludes a request.

    A path glob begins with a slash or an asterisk, and its ``*`` matches slashes, too; then there
    are methods, addresses and networks, and callables on environ.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        if isinstance(rules, str) or not isinstance(rules, Iterable):
            raise ConfigurationError(
                f"exclude is a list of rules, as ('/static/*',); given {rules!r}"
            )
        self.callables: list[Callable[[WSGIEnvironment], object]] = []
        self._methods: set[str] = set()
        self._networks: list[Network] = []
        globs: list[str] = []
        for rule in rules:
            if callable(rule):
                self.callables.append(rule)
            elif isinstance(rule, str) and rule.startswith(("/", "*")):
                globs.append(rule)
            elif isinstance(rule, str) and re.fullmatch("[A-Z]+", rule):
                self._methods.add(rule)
            else:
                self._networks.append(_network(rule))
        self._paths = re.compile("|".join(map(translate, globs))) if globs else None

    def excludes_place(self, method: str, path: str) -> bool:
        """Return whether requests with this method, or of this path, are excluded."""
        return method in self._methods or bool(self._paths and self._paths.match(path))

    def excludes_address(self, address: str) -> bool:
        """Return whether requests of a client with this address are excluded."""
        return bool(self._networks) and is_within(address, self._networks)


def _network(rule: object) -> Network:
    try:
        if not isinstance(rule, str):  # ip_network() takes numbers, too
            raise ValueError("no text")
        return ipaddress.ip_network(rule)
    except ValueError as error:
        raise ConfigurationError(
            f"exclude takes path globs such as '/static/*', methods such as 'OPTIONS', addresses, "
            f"networks such as '10.0.0.0/8', and callables; given {rule!r}: {error}"
        ) from error
