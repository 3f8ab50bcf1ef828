"""Falcon's URI templates as endpoints: this middleware goes first.

    app = falcon.App(middleware=[EndpointMiddleware(), ...])

Sinks and static routes have no template: what they answer counts under its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from falcon import code_to_http_status

from ..endpoints import name_endpoint

if TYPE_CHECKING:
    from falcon import Request, Response


class EndpointMiddleware:
    """Name the endpoint of a request after the URI template that it matched."""

    def process_response(
        self, req: Request, resp: Response, resource: object, req_succeeded: bool
    ) -> None:
        """Read the template; Falcon calls this before it starts the response, errors included."""
        if req.uri_template is None:
            if resource is None and not req_succeeded:
                name_endpoint(req.env, None)
        # Falcon's router does not look at methods; it finds a responder that says 405.
        elif code_to_http_status(resp.status).startswith("405"):
            name_endpoint(req.env, None)
        else:
            name_endpoint(req.env, req.uri_template)
