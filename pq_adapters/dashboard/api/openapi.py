"""The OpenAPI 3.1 document, made of the operations themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pq_adapters.dashboard.api.documents import components
from pq_adapters.dashboard.api.operation import PREFIX, Operation
from pq_core.version import __version__

_PROBLEMS = {
    400: "what was sent is no request",
    401: "no key, or none that is known",
    403: "the role does not allow it, or another site's page asks for it",
    404: "there is no such thing",
    409: "it can't be done as things stand",
    413: "the body is too large",
    415: "the body is not JSON",
    422: "what was sent does not make sense",
    429: "too many wrong keys",
    503: "the database is not ready",
}
_ALWAYS = (400, 401, 403, 422, 429, 503)


def document(operations: Iterable[Operation], *, title: str) -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        path = PREFIX + re.sub(r":path\}", "}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{title} API",
            "version": __version__,
            "description": "Background tasks on Postgres. Errors are problem documents (RFC 9457). "
            "Roles: a viewer reads, an operator also changes, an admin may do everything.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "pq keys create"}},
        },
    }


def _operation(one: Operation) -> dict[str, Any]:
    statuses = {*_ALWAYS, *one.problems}
    if one.parameters:
        statuses.add(404)
    if one.body is not None:
        statuses |= {413, 415}
    found: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": f"Role: {one.role}.",
        "tags": [one.tag],
        "x-role": one.role.value,
        "parameters": [*_parameters("path", one.parameters), *_parameters("query", one.query)],
        "responses": {
            str(one.status): {"description": "done", "content": {"application/json": {"schema": one.answer}}},
            **{str(status): _problem(status) for status in sorted(statuses)},
        },
    }
    if one.body is not None:
        required = bool(one.body.get("required") or one.body.get("minProperties"))
        found["requestBody"] = {"required": required, "content": {"application/json": {"schema": one.body}}}
    return found


def _parameters(place: str, schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, schema in schemas.items():
        parameter: dict[str, Any] = {"name": name, "in": place, "required": place == "path", "schema": schema}
        if schema.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        found.append(parameter)
    return found


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": _PROBLEMS[status],
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
