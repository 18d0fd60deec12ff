"""Queues: how much waits where, and whether anything may start."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.figures import figures_of
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import run
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core import operating
from pq_core.operating import QueueRecord

HOUR = timedelta(hours=1)


PAGE = 100
LONGEST = 1000
"""Characters of what a page is narrowed by."""


async def queues(request: Request) -> Response:
    """Show the queues, a page at a time."""
    dashboard = dashboard_of(request)
    found, rates = await asyncio.gather(
        run(dashboard.pq, operating.queues(dashboard.pq.schema)), figures_of(dashboard).grouped("queue", "1h")
    )
    return await page(request, "queues.html", here="queues", **context(request, found, rates))


def context(request: Request, found: list[QueueRecord], rates: dict[str, Any]) -> dict[str, Any]:
    """Return what the list of queues needs: the page that ``?search=…&after=…`` says."""
    search = request.query_params.get("search", "").strip()[:LONGEST]
    after = request.query_params.get("after") or None
    matching = narrowed(found, search=search, after=None)
    rest = narrowed(matching, search=None, after=after)
    shown = rest[:PAGE]
    most = max((queue.due + queue.running + queue.scheduled for queue in found), default=0)
    return {
        "queues": shown,
        "matching": len(matching),
        "search": search,
        "place": after,
        "after": shown[-1].name if len(rest) > PAGE else None,
        "most": most,
        "rates": rates,
    }


def narrowed(found: list[QueueRecord], *, search: str | None, after: str | None) -> list[QueueRecord]:
    """Return the queues whose name contains ``search``, in any case, and comes later than ``after``."""
    wanted = (search or "").casefold()
    return [one for one in found if wanted in one.name.casefold() and (after is None or one.name > after)]


async def pause(request: Request) -> Response:
    """Let no worker start tasks of a queue."""
    name = name_in(await request.form(max_files=0, max_fields=5))
    async with dashboard_of(request).changing(request, "queue.pause", name) as pq:
        await pq.apause_queue(name, by=request.state.principal.name)
    return back(request, "queues", done="queue-paused")


async def resume(request: Request) -> Response:
    """End a pause."""
    name = name_in(await request.form(max_files=0, max_fields=5))
    async with dashboard_of(request).changing(request, "queue.resume", name) as pq:
        await pq.aresume_queue(name)
    return back(request, "queues", done="queue-resumed")


def name_in(form: FormData) -> str:
    """Return the queue that a form is about. Raises Problem 422 when it says none."""
    name = form.get("queue")
    if not isinstance(name, str) or not name:
        raise Problem(422, "this can't be done", "queue: say which one")
    return name


def routes() -> list[BaseRoute]:
    """Return the routes. Names of queues go in the body: they may hold any character."""
    return [
        route("/queues", queues, role="viewer"),
        route("/queues/pause", pause, role="operator", methods=["POST"], name="queue_pause"),
        route("/queues/resume", resume, role="operator", methods=["POST"], name="queue_resume"),
    ]
