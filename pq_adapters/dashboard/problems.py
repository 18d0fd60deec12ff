"""Errors as answers: RFC 9457 problem+json for programs, a page for people, and what pq's own errors become."""

from __future__ import annotations

import http
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import psycopg
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pq_core.errors import (
    DatabaseNotConfigured,
    DatabaseUnavailable,
    DuplicateClientId,
    NotMigrated,
    PQError,
    ScheduleNotFound,
    SchemaIncompatible,
    TaskNotFound,
)

if TYPE_CHECKING:
    from pq_adapters.dashboard.app import Dashboard

logger = logging.getLogger("pq.dashboard")


class Problem(Exception):
    """An error that is the answer. ``status``: of HTTP. ``more``: further members of the problem document."""

    def __init__(
        self, status: int, title: str, detail: str = "", *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more


def problem_of(error: Exception) -> Problem:
    """Return what an error of the framework, of pq or of anything else is told as."""
    match error:
        case Problem():
            return error
        case HTTPException():
            title = http.HTTPStatus(error.status_code).phrase.lower()
            return Problem(error.status_code, title, str(error.detail or ""), headers=error.headers)
        case ClientDisconnect():
            return Problem(400, "the request is not whole", "whoever sent it has gone before its end")
        case DuplicateClientId():
            return Problem(409, "client_id is taken", str(error), existing_id=error.existing_id)
        case DatabaseUnavailable() | DatabaseNotConfigured() | NotMigrated() | SchemaIncompatible():
            return Problem(503, "the database is not ready", str(error), headers={"Retry-After": "5"})
        case TaskNotFound() | ScheduleNotFound():
            return Problem(404, "not found", str(error))
        case psycopg.OperationalError():
            return Problem(503, "the database is not ready", str(error), headers={"Retry-After": "5"})
        case psycopg.DataError():
            return Problem(422, "this can't be done", f"the database refuses: {error}".splitlines()[0])
        case PQError():
            return Problem(422, "this can't be done", str(error))
        case _:
            return Problem(500, "internal error", "the log of the dashboard says more")


async def answer(request: Request, problem: Problem) -> Response:
    """Return the response that a problem is: problem+json, a login, or a page."""
    if is_api(request):
        headers = dict(problem.headers)
        if problem.status == 401:
            headers.setdefault("WWW-Authenticate", 'Bearer realm="pq"')
        document = {"type": "about:blank", "title": problem.title, "status": problem.status, "detail": problem.detail}
        body = json.dumps({**document, **problem.more}, ensure_ascii=False)
        return Response(body, problem.status, headers, media_type="application/problem+json")
    from pq_adapters.dashboard.routes import path_for

    if problem.status == 401:
        # What was asked for is where the login leads to, if it can be asked for again.
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if "hx-request" in request.headers:
            # A part of a page asks: the login would stand in its place. The page as a whole goes there.
            shown = urlsplit(request.headers.get("hx-current-url", ""))
            page = shown.path + (f"?{shown.query}" if shown.query else "")
            back = f"?next={quote(page, safe='')}" if page else ""
            return Response(status_code=401, headers={"HX-Redirect": path_for(request, "login") + back})
        wanted = f"?next={quote(path, safe='')}" if request.method == "GET" else ""
        return RedirectResponse(path_for(request, "login") + wanted, 303)
    dashboard: Dashboard = request.app.state.dashboard
    if "hx-request" in request.headers:
        # In the place of what was asked for, whichever part of the page that is: old rows would look like the answer.
        text = await dashboard.render(request, "problem_part.html", problem=problem)
        instead = {"HX-Reswap": "innerHTML", "HX-Reselect": ".note-box"}
        return HTMLResponse(text, problem.status, {**problem.headers, **instead})
    text = await dashboard.render(request, "problem.html", problem=problem)
    return HTMLResponse(text, problem.status, problem.headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer with what an endpoint or the framework raised; an error that nobody foresaw is logged as well."""
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    elif problem.status == 503:
        logger.warning("%s %s: %s", request.method, request.url.path, error)
    return await answer(request, problem)


def is_api(request: Request) -> bool:
    """Tell whether the answer goes to a program."""
    known = getattr(request.state, "api", None)
    if known is not None:
        return bool(known)
    path = request.url.path.removeprefix(str(request.scope.get("root_path", "")))
    return path.startswith("/api/")
