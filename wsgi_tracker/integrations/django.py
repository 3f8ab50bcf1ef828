"""Django's routes as endpoints: this middleware goes first in ``settings.MIDDLEWARE``.

    MIDDLEWARE = ["wsgi_tracker.integrations.django.EndpointMiddleware", ...]

What a middleware before it answers, counts under its path; what one behind it answers before a
route was looked for, under ``(unmatched)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from ..endpoints import name_endpoint

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase


class EndpointMiddleware:
    """Name the endpoint of a request after the route that Django resolved it to.

    Works among asynchronous middlewares, too, and does no harm under ASGI.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]
    ) -> None:
        self._get_response = get_response
        self._is_async: bool = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Pass the request on, and name its endpoint when it is answered."""
        if self._is_async:
            return self._answer_async(request)
        try:
            return self._get_response(request)
        finally:
            _name(request)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        try:
            return await self._get_response(request)
        finally:
            _name(request)


def _name(request: HttpRequest) -> None:
    match = request.resolver_match
    if match is None:
        name_endpoint(request.META, None)
    elif match.route is not None:  # a resolver of one's own may know none
        # As Django joins the patterns of include(): the slash in front stands for a caret.
        name_endpoint(request.META, match.route.removeprefix("^"))
