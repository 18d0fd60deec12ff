"""The one way to declare a route: who may use it is said there, and checked before its endpoint is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from pq_adapters.dashboard.problems import Problem, on_error
from pq_adapters.dashboard.roles import Role

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pq_adapters.dashboard.app import Dashboard

Endpoint = Callable[[Request], Awaitable[Response]]

SAFE = frozenset({"GET", "HEAD"})


class GuardedRoute(Route):
    """A route that knows the least role that may use it. ``api``: errors are problem+json, and nobody is redirected."""

    def __init__(
        self, path: str, endpoint: Endpoint, *, role: Role, methods: Sequence[str], name: str | None, api: bool
    ) -> None:
        self.role = role
        self.api = api
        self.inner = endpoint
        unsafe = frozenset(method.upper() for method in methods) - SAFE

        async def guarded(request: Request) -> Response:
            request.state.api = api
            try:
                return await _guard(request, endpoint, self, changes=request.method in unsafe)
            except Exception as error:
                # Here, not in the framework's handler of what nobody has handled: that is outside of all headers.
                return await on_error(request, error)

        super().__init__(path, guarded, methods=list(methods), name=name or getattr(endpoint, "__name__", None))


class PublicFiles(Mount):
    """Files that anybody may have."""

    role = Role.PUBLIC


def route(
    path: str,
    endpoint: Endpoint,
    *,
    role: Role | str,
    methods: Sequence[str] = ("GET",),
    name: str | None = None,
    api: bool = False,
) -> GuardedRoute:
    """Return a route of the dashboard. ``role``: the least one that may use it, ``public`` for anybody.

    ``endpoint`` finds who asks as ``request.state.principal`` (None only where ``role`` is public), and everything
    else through ``dashboard_of(request)``. ``name``: for ``path_for``; by default the function's. A method other than
    GET is a change: it is refused when it comes from another site's page. Raise ``Problem`` to answer with an error.
    """
    return GuardedRoute(path, endpoint, role=Role(role), methods=methods, name=name, api=api)


def public_files(path: str, files: ASGIApp, *, name: str) -> PublicFiles:
    """Return a mount of files that need no login."""
    return PublicFiles(path, app=files, name=name)


def dashboard_of(request: Request) -> Dashboard:
    """Return the dashboard that serves this request: its ``pq``, ``templates`` and ``settings``."""
    dashboard: Dashboard = request.app.state.dashboard
    return dashboard


def path_for(request: Request, name: str, /, **parameters: Any) -> str:
    """Return the path of a route by its name, wherever the dashboard is mounted; without scheme and host."""
    state = request.app.state
    if (named := getattr(state, "routes_by_name", None)) is None:
        # A page asks a hundred times; Starlette would ask every route each time.
        named = state.routes_by_name = {getattr(one, "name", None): one for one in reversed(request.app.routes)}
    owner = named.get(name, request.app)
    return str(request.scope.get("root_path", "")) + str(owner.url_path_for(name, **parameters))


async def _guard(request: Request, endpoint: Endpoint, found: GuardedRoute, *, changes: bool) -> Response:
    dashboard = dashboard_of(request)
    access = dashboard.access
    access.check_host(request)
    role = found.role
    # What any machine may ask needs no look at keys: it has to work when there is no database.
    nobody = role is Role.PUBLIC and found.api
    principal = None if nobody else await access.identify(request)
    request.state.principal = principal
    if role is not Role.PUBLIC:
        if principal is None:
            raise Problem(401, "login needed", "log in, or send a key: Authorization: Bearer pq_…")
        if not principal.may(role):
            raise Problem(403, "not allowed", f"this needs the role {role}; {principal.name} has {principal.role}")
    if changes:
        access.check_origin(request, principal)
    return await endpoint(request)
