"""Who may ask: a Bearer token, or a developer's own machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import ConfigurationError, logger

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

TOKEN_VARIABLE = "WSGI_TRACKER_TOKEN"  # noqa: S105 - its name
ADVICE = f"set the environment variable {TOKEN_VARIABLE}, or Tracker(app, token=...)"

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750
_DEVELOPMENT_SERVERS = ("Werkzeug/", "WSGIServer/")  # the latter is wsgiref's and Django's


class Auth:
    """Decide whether a request may read reports.

    Without a token, only a development server asked from this machine and test clients may,
    unless ``require_token`` decides. Where it is ``False``, a token of the environment is not
    asked for; one of ``token`` contradicts it.
    """

    def __init__(
        self, token: str | Iterable[str] | None = None, require_token: bool | None = None
    ) -> None:
        if token is not None and require_token is False:
            raise ConfigurationError(
                "token= and require_token=False contradict each other: give a token to be asked "
                "for, or answer everybody"
            )
        self._digests = [_digest(token.encode()) for token in _tokens(token)]
        if require_token not in (None, True, False):
            raise ConfigurationError(
                f"require_token is None, True or False, given {require_token!r}"
            )
        if require_token and not self._digests:
            raise ConfigurationError(f"require_token=True, but there is no token: {ADVICE}")
        self._require_token = require_token
        if not self._digests and require_token is None:
            logger.warning(
                "no API token: reports answer only on a development server; for others %s", ADVICE
            )

    def allows(self, environ: WSGIEnvironment) -> bool:
        """Return whether this request may be answered."""
        if self._require_token is False:
            return True
        if self._digests:
            return self._has_token(environ)
        return is_test_call(environ) or is_local_development(environ)

    def _has_token(self, environ: WSGIEnvironment) -> bool:
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        digest = _digest(given.strip().encode("utf-8", "replace"))
        # All of them, whichever matches: the time taken tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)

    @property
    def has_token(self) -> bool:
        """Whether a token is set at all."""
        return bool(self._digests)


def is_test_call(environ: WSGIEnvironment) -> bool:
    """Return whether no server made this request, but a test."""
    if environ.get("paste.testing"):
        return True
    return (
        "REMOTE_ADDR" not in environ
        and "SERVER_SOFTWARE" not in environ
        and not any(name.startswith("uwsgi.") for name in environ)
    )


def is_local_development(environ: WSGIEnvironment) -> bool:
    """Return whether a development server was asked from, and as, this machine."""
    is_development = environ.get("SERVER_SOFTWARE", "").startswith(_DEVELOPMENT_SERVERS)
    return is_development and is_local(environ)


def is_local(environ: WSGIEnvironment) -> bool:
    """Return whether this machine was asked by itself, under a name of its own."""
    return (
        _is_loopback(environ.get("REMOTE_ADDR", ""))
        and _is_local_host(environ.get("HTTP_HOST", ""))
        # A proxy on this machine asks from loopback on behalf of the world.
        and not any(name.startswith(("HTTP_FORWARDED", "HTTP_X_FORWARDED")) for name in environ)
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_local_host(host: str) -> bool:
    # Any other name may be a stranger's, resolved to this machine (DNS rebinding).
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)


def split_tokens(text: str) -> list[str]:
    """Return the tokens of the environment's variable, which have commas or spaces between."""
    return text.replace(",", " ").split()


def _tokens(token: str | Iterable[str] | None) -> list[str]:
    if token is None:
        tokens = split_tokens(os.environ.get(TOKEN_VARIABLE, ""))
    else:
        if not isinstance(token, Iterable):
            raise ConfigurationError("token is text, or several of them")
        tokens = [token] if isinstance(token, str) else list(token)
        if not tokens:
            raise ConfigurationError(f"token is empty: {ADVICE}")
    for number, each in enumerate(tokens, 1):
        if not isinstance(each, str) or not _TOKEN.fullmatch(each):
            # The token itself is a secret, and messages end up in logs.
            raise ConfigurationError(
                f"token {number} of {len(tokens)} is not made of letters, digits and -._~+/ alone"
            )
    return tokens


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
