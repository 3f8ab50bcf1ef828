"""The API described as OpenAPI 3.1, from the declarations that parse its parameters.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from .parameters import NEEDED, Parameter
from .period import zone_names
from .schemas import OF_ERROR, Schema

JSON = "application/json"
DESCRIPTION = "Who visited what: exact numbers of every request that the application answered."


@dataclass(frozen=True, slots=True)
class Operation:
    """One path: what it takes, what it answers, as which types, and of what schema."""

    path: str
    summary: str
    parameters: Iterable[Parameter]
    types: tuple[str, ...] = (JSON,)
    schema: Schema | None = None
    may_be_missing: bool = False


def describe(operations: Iterable[Operation], server: str) -> dict[str, Any]:
    """Return the document; ``server`` is the URL under which the paths are."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wsgi_tracker",
            "version": version("wsgi-tracker"),
            "description": DESCRIPTION,
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": server}],
        "security": [{"token": []}],
        "paths": {f"/{each.path}": {"get": _operation(each)} for each in operations},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": OF_ERROR,
                "TimeZone": {"type": "string", "enum": sorted(zone_names())},
            },
            "responses": {name: _refusal(description) for name, description in REFUSALS.values()},
        },
    }


REFUSALS = {
    "400": ("BadRequest", "A parameter is unknown, repeated or malformed."),
    "401": ("Unauthorized", "The token is missing or wrong."),
    "404": ("NotFound", "There is no such report, or nobody of that name."),
    "405": ("MethodNotAllowed", "Neither GET nor HEAD."),
    "500": ("InternalError", "A fault of the tracker, which its log tells."),
    "503": ("Unavailable", "The database is out of order or busy, or the question takes too long."),
}

KNOWN = {"304": {"description": "The answer is that of the ETag in If-None-Match."}}


def _refusal(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _operation(operation: Operation) -> dict[str, Any]:
    in_path = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    content = {name: _media(operation.schema) for name in operation.types}
    refusals = dict(REFUSALS)
    if not (in_path or operation.may_be_missing):
        del refusals["404"]
    return {
        "operationId": operation.path.partition("/")[0].partition(".")[0],
        "summary": operation.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in in_path
            ),
            *map(_parameter, operation.parameters),
        ],
        "responses": {
            "200": {"description": operation.summary, "content": content},
            **(KNOWN if operation.schema else {}),
            **{
                status: {"$ref": f"#/components/responses/{name}"}
                for status, (name, _) in refusals.items()
            },
        },
    }


def _media(schema: Schema | None) -> dict[str, Any]:
    return {} if schema is None else {"schema": schema}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "required": parameter.default is NEEDED,
        "schema": parameter.schema,
    }
