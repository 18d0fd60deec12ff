"""The list of tasks: filters, pages by key, and what can be done with all that match."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
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
    sort = given.get("sort", "")
    typed = {**search.parameters(), **(given if problem else {})}
    return await page(
        request,
        "tasks.html",
        status=422 if problem else 200,
        here="tasks",
        search=search,
        rows=sorted_by(told(found.rows), sort),
        sort=sort,
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


SORTS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda row: row["name"],
    "state": lambda row: (row["status"], row["due"]),
    "id": lambda row: row["id"],
    "queue": lambda row: (row["queue"], -row["priority"]),
    "attempts": lambda row: row["attempts"],
    "took": lambda row: _took(row),
    "when": lambda row: _when(row),
}


def sorted_by(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Return the rows of a page in another order: ``took``, or ``-took`` for the longest first.

    Of one page: an order that no index has would read the whole table for it.
    """
    key = SORTS.get(sort.removeprefix("-"))
    return rows if key is None else sorted(rows, key=key, reverse=sort.startswith("-"))


def _took(row: dict[str, Any]) -> float:
    started = words.moment(row["started_at"])
    if row["status"] == "running" and started is not None:
        return (datetime.now(tz=UTC) - started).total_seconds()
    took = (row["ledger"] or {}).get("wall")
    return -1.0 if took is None else float(took)


def _when(row: dict[str, Any]) -> datetime:
    waits = row["status"] == "pending" and not row["due"]
    shown = row["run_at"] if waits else row["completed_at"] or row["started_at"] or row["created_at"]
    return words.moment(shown) or datetime.min.replace(tzinfo=UTC)


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
