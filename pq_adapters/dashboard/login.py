"""Logging in and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.routes import dashboard_of, route


async def login(request: Request) -> Response:
    """Show the form, or go on when there is nothing to log in to."""
    if request.state.principal is not None:
        return RedirectResponse(_next(request, request.query_params.get("next")), 303)
    return await _form(request, status=200, wanted=request.query_params.get("next"))


async def log_in(request: Request) -> Response:
    """Take the key from the form, and begin a session."""
    dashboard = dashboard_of(request)
    form = await request.form(max_files=0, max_fields=10)
    key, wanted = form.get("key"), form.get("next")
    wanted = wanted if isinstance(wanted, str) else None
    try:
        principal = await dashboard.access.by_key(request, key.strip() if isinstance(key, str) else "")
    except Problem as problem:
        return await _form(request, status=problem.status, wanted=wanted, problem=problem)
    known = next((one for one in await dashboard.access.keyring.active() if one.id == principal.key_id), None)
    if known is None:  # revoked in this very moment
        return await _form(request, status=401, wanted=wanted, problem=Problem(401, "unknown key"))
    response = RedirectResponse(_next(request, wanted), 303)
    dashboard.access.sessions.begin(request, response, known)
    return response


async def log_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse(_root(request) + "login", 303)
    dashboard_of(request).access.sessions.end(request, response)
    return response


async def _form(request: Request, *, status: int, wanted: str | None, problem: Problem | None = None) -> Response:
    text = await dashboard_of(request).render(request, "login.html", next=wanted or "", problem=problem)
    return HTMLResponse(text, status, problem.headers if problem is not None else None)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")) + "/"


def _next(request: Request, wanted: str | None) -> str:
    """Return where to go after the login: a path of ours, never another host's."""
    root = _root(request)
    if not wanted or not wanted.startswith(root) or wanted.startswith(("//", "/\\")):
        return root
    if any(ord(character) < 32 or character == "\\" for character in wanted):
        return root
    return wanted


def routes() -> list[BaseRoute]:
    """Return the routes of the login."""
    return [
        route("/login", login, role="public"),
        route("/login", log_in, role="public", methods=["POST"]),
        route("/logout", log_out, role="public", methods=["POST"]),
    ]
