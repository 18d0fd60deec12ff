"""The list of tasks: filters, pages by key, and what can be done with all that match."""

from __future__ import annotations

import asyncio
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
    typed = {**search.parameters(), **(given if problem else {})}
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
        typed=typed,
        first="after" not in given,
        states=[(state, search.query(state=state)) for state in ("", *STATES)],
        withins=WITHIN,
        priorities=PRIORITIES,
        names=await names(request),
    )


async def jump(request: Request) -> Response:
    """Go to the task with an id, or to those with a client_id or of a function."""
    pq = dashboard_of(request).pq
    asked = request.query_params.get("q", "").strip().removeprefix("#").replace("\x00", "")[:1000]
    if asked.isascii() and asked.isdecimal() and len(asked) < 19 and await pq.aget_task(int(asked)) is not None:
        return RedirectResponse(path_for(request, "task", task_id=int(asked)), 303)
    return RedirectResponse(f"{path_for(request, 'tasks')}?{(await _meant(request, asked)).query()}", 303)


async def _meant(request: Request, asked: str) -> Search:
    """Return the filter that somebody means who types this: a client_id if a task has it, else a function's name."""
    by_client_id = Search(client_id=asked)
    if not asked or (await find(dashboard_of(request).pq, by_client_id, limit=1, columns="t.id")).rows:
        return by_client_id
    known = {*await names(request), *dashboard_of(request).pq.registry.names()}
    like = [name for name in known if asked.lower() in name.lower()]
    name = asked if asked in known else like[0] if len(like) == 1 else None
    return by_client_id if name is None else Search(name=name)


async def names(request: Request) -> list[str]:
    """Return names of task functions for the filter to suggest."""
    pq = dashboard_of(request).pq
    found = await ask(pq, "names", {})
    return [name for [name] in found]


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row how it ended, in words."""
    for row in rows:
        # One that was put back or asked to run later has text of its own, or of an attempt before: no failure of it.
        row["failing"] = row["status"] == "pending" and row["outcome"] in words.FAILURES
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
