"""The JSON API below /api/v1."""

from __future__ import annotations

from typing import Any

from starlette.routing import BaseRoute

from pq_adapters.dashboard.api import schedules, system, tasks
from pq_adapters.dashboard.api.openapi import document
from pq_adapters.dashboard.api.operation import Asked, Operation
from pq_adapters.dashboard.roles import Role


async def _openapi(asked: Asked) -> Any:
    described = document(OPERATIONS, title=asked.dashboard.settings.title)
    return {**described, "servers": [{"url": str(asked.request.scope.get("root_path", "")) or "/"}]}


OPERATIONS: tuple[Operation, ...] = (
    *tasks.OPERATIONS,
    *schedules.OPERATIONS,
    *system.OPERATIONS,
    Operation(
        method="GET",
        path="/openapi.json",
        name="openapi",
        summary="This document",
        role=Role.VIEWER,
        handler=_openapi,
        tag="access",
        answer={"type": "object"},
    ),
)


def routes() -> list[BaseRoute]:
    """Return the routes of the API."""
    return [operation.route() for operation in OPERATIONS]
