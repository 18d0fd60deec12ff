"""The list of tasks: filters, pages by key, and what can be done with all that match."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import words
from pq_adapters.dashboard.finding import STATES, WITHIN, BadFilter, Count, Found, Search, count, find
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import page
from pq_adapters.dashboard.routes import dashboard_of, path_for, route

PRIORITIES = ((100, "critical"), (75, "high"), (50, "normal"), (25, "low"), (0, "batch"))


async def tasks(request: Request) -> Response:
    """Show the tasks that match."""
    pq = dashboard_of(request).pq
    given = request.query_params
    problem = None
    found, total = Found(rows=[], after=None, exhausted=True), Count(number=0, exact=True)
    try:
        search = Search.of(given)
        found, total = await asyncio.gather(find(pq, search, after=given.get("after", "")), count(pq, search))
    except BadFilter as error:
        search, problem = Search(), str(error)
    return await page(
        request,
        "tasks.html",
        status=422 if problem else 200,
        here="tasks",
        search=search,
        rows=told(found.rows),
        found=found,
        total=total,
        problem=problem,
        first="after" not in given,
        states=[(state, search.query(state=state)) for state in ("", *STATES)],
        withins=WITHIN,
        priorities=PRIORITIES,
        names=await names(request),
    )


async def jump(request: Request) -> Response:
    """Go to the task with an id or a client_id."""
    pq = dashboard_of(request).pq
    asked = request.query_params.get("q", "").strip().removeprefix("#")
    if asked.isascii() and asked.isdecimal() and len(asked) < 19 and await pq.aget_task(int(asked)) is not None:
        return RedirectResponse(path_for(request, "task", task_id=int(asked)), 303)
    query = replace(Search(), client_id=asked).query()
    return RedirectResponse(f"{path_for(request, 'tasks')}?{query}", 303)


async def names(request: Request) -> list[str]:
    """Return names of task functions for the filter to suggest."""
    pq = dashboard_of(request).pq
    found = await ask(pq, "names", {})
    return [name for [name] in found]


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row how it ended, in words."""
    for row in rows:
        if row["sensitive"]:
            row["said"] = "error text hidden"
        elif row["status"] == "pending":
            row["said"] = words.brief(words.exception(row["error"]) or "")
        else:
            row["said"] = words.outcome(row["outcome"], row["error"], row["ledger"], row["memory_limit"])
    return rows


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/tasks", tasks, role="viewer"),
        route("/jump", jump, role="viewer"),
    ]
