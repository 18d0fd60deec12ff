"""One operation of the API: its route, what it takes, what it answers and who may use it, said in one place."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from pq_adapters.dashboard.api.schemas import Schema, check, from_text, parse
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.roles import Role
from pq_adapters.dashboard.routes import GuardedRoute, dashboard_of, route
from pq_core.plain import plain

if TYPE_CHECKING:
    from pq_adapters.dashboard.app import Dashboard
    from pq_core.client import PQ

PREFIX = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request whose parameters and body fit their schemas. Times are aware datetimes."""

    request: Request
    dashboard: Dashboard
    path: Mapping[str, Any]
    query: Mapping[str, Any]
    body: Any

    @property
    def pq(self) -> PQ:
        """The client."""
        return self.dashboard.pq


Handler = Callable[[Asked], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """``path`` is below PREFIX; ``{name:path}`` may hold slashes. ``answer``: the schema of what ``handler`` returns.

    ``problems``: statuses besides those that every operation may have.
    """

    method: str
    path: str
    name: str
    summary: str
    role: Role
    handler: Handler
    answer: Schema
    tag: str
    status: int = 200
    query: Mapping[str, Schema] = field(default_factory=dict)
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    problems: tuple[int, ...] = ()

    def route(self) -> GuardedRoute:
        """Return the route that serves it."""

        async def endpoint(request: Request) -> Response:
            document = await self.handler(await self._asked(request))
            text = json.dumps(plain(document), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            return Response(text, self.status, media_type="application/json")

        return route(
            PREFIX + self.path, endpoint, role=self.role, methods=[self.method], name=f"api.{self.name}", api=True
        )

    async def _asked(self, request: Request) -> Asked:
        path = {}
        for name, schema in self.parameters.items():
            try:
                path[name] = from_text(schema, request.path_params[name], name)
            except Problem as problem:
                raise Problem(404, "not found", problem.detail) from problem
        query = {}
        for name, value in request.query_params.multi_items():
            if name not in self.query:
                known = ", ".join(self.query) or "none"
                raise Problem(422, "not valid", f"there is no parameter {name!r}; there are: {known}", where=name)
            if name in query:
                raise Problem(422, "not valid", f"{name} is given twice", where=name)
            query[name] = from_text(self.query[name], value, name)
        for name, schema in self.query.items():
            if name not in query and "default" in schema:
                query[name] = schema["default"]
        return Asked(
            request=request,
            dashboard=dashboard_of(request),
            path=path,
            query=query,
            body=await self._body(request),
        )

    async def _body(self, request: Request) -> Any:
        if self.body is None:
            return None
        raw = await request.body()
        if not raw and "required" not in self.body and not self.body.get("minProperties"):
            return {}
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, "unsupported media type", "send Content-Type: application/json")
        return check(self.body, parse(raw), "body")
