"""What the API says over HTTP: JSON that nobody keeps, and the one shape of errors."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.http import parse_etags
from werkzeug.wrappers import Response

from .auth import ADVICE, Auth

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def json_response(document: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a document."""
    body = json.dumps(document) + "\n"
    return Response(body, status, dict(HEADERS), content_type="application/json")


def unless_known(response: Response, environ: WSGIEnvironment) -> Response:
    """Tag an answer, and leave its body out if the client has it: 304.

    The tag is weak, as what is not in the body, a queue, may differ.
    """
    digest = hashlib.blake2b(response.get_data(), digest_size=16).hexdigest()
    response.set_etag(digest, weak=True)
    if not parse_etags(environ.get("HTTP_IF_NONE_MATCH")).contains_weak(digest):
        return response
    known = Response(status=HTTPStatus.NOT_MODIFIED, headers=response.headers)
    for name in ("Content-Type", "Content-Length"):
        known.headers.pop(name, None)
    return known


def error_response(
    status: HTTPStatus, code: str, message: str, parameter: str | None = None
) -> Response:
    """Return what is wrong."""
    error = {"code": code, "message": message, "parameter": parameter}
    return json_response({"error": error}, status)


def method_not_allowed() -> Response:
    """Refuse what is neither GET nor HEAD."""
    response = error_response(
        HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "reports take GET and HEAD"
    )
    response.headers["Allow"] = "GET, HEAD"
    return response


def unauthorized(auth: Auth, given: str | None) -> Response:
    """Say which token is missing; ``given`` is the header that was sent."""
    if auth.has_token:
        message = "send the header 'Authorization: Bearer <your-api-token>'"
        if given is not None:
            is_bearer = given[:7].lower() == "bearer "
            kind = "no token that is set here" if is_bearer else "no Bearer token"
            message += f"; what it holds is {kind}"
    else:
        message = f"reports need a token here, and none is set: {ADVICE}"
    response = error_response(HTTPStatus.UNAUTHORIZED, "unauthorized", message)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response
