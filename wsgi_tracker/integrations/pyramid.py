"""Pyramid's route patterns as endpoints.

    config.include("wsgi_tracker.integrations.pyramid")

Where no view is found for a route that matched, for its method perhaps, the request is unmatched.
Views that are found by traversal alone have no pattern: they count under their paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from pyramid.viewderivers import INGRESS

from ..endpoints import EXPLICIT, UNMATCHED, name_endpoint

if TYPE_CHECKING:
    from pyramid.config import Configurator
    from pyramid.events import NewRequest
    from pyramid.interfaces import IViewDeriverInfo
    from pyramid.request import Request
    from pyramid.response import Response

    View: TypeAlias = "Callable[[Any, Request], Response]"


def includeme(config: Configurator) -> None:
    """Name the endpoints of all views of this configuration, before or after they are added."""
    config.add_subscriber(_begin, "pyramid.events.NewRequest")
    # Below the predicates, above permissions: who is refused a view has found it.
    config.add_view_deriver(
        _naming_view, "wsgi_tracker_endpoint", under=INGRESS, over="secured_view"
    )


def _begin(event: NewRequest) -> None:
    name_endpoint(event.request.environ, None)


def _naming_view(view: View, info: IViewDeriverInfo) -> View:
    def named_view(context: Any, request: Request) -> Response:
        # A view that answers an exception is no endpoint: not found has a view, too.
        if getattr(request, "exception", None) is None:  # DummyRequest has none of these
            _name(request)
        return view(context, request)

    return named_view


def _name(request: Request) -> None:
    route = getattr(request, "matched_route", None)
    if route is not None:
        name_endpoint(request.environ, route.pattern)
    elif request.environ.get(EXPLICIT) == UNMATCHED:
        del request.environ[EXPLICIT]
