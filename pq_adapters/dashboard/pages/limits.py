"""Limits: what one queue may run and who waits for a place under limits of its own, a key's or a function's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import words
from pq_adapters.dashboard.figures import Sum, figures_of
from pq_adapters.dashboard.finding import LANES_OF_KEY, Search, find
from pq_adapters.dashboard.pages.queues import name_in
from pq_adapters.dashboard.pages.tasks import told
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask, run
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core import operating
from pq_core.errors import InvalidOption
from pq_core.operating import QueueRecord
from pq_core.types import Rate

if TYPE_CHECKING:
    from pq_core.client import PQ

SHOWN = 100
"""Rows of what shares a limit."""
_BOUNDS = {
    "queue": "t.queue = (SELECT p ->> 'queue' FROM input)",
    "key": LANES_OF_KEY,
    "name": "right(t.lane, 32) = md5((SELECT p ->> 'name' FROM input))",
}


async def held(pq: PQ, **only: str) -> dict[str, Any]:
    """Return what runs and waits under limits of its own: of one ``queue``, ``key`` or ``name``, or of all."""
    bounds = " AND ".join(_BOUNDS[name] for name in only) or "true"
    [found] = await ask(pq, "held", {**only, "cap": words.CAP}, bounds=bounds, most=SHOWN)
    paused: list[dict[str, Any]] = []
    for one in found["paused"]:
        kind, _, name = one["subject"].partition(":")
        if kind in ("key", "task") and only.get({"key": "key", "task": "name"}[kind], name) == name:
            paused.append({"kind": kind, "name": name, "until": one["paused_until"]})
    return {"lanes": found["lanes"], "paused": [] if "queue" in only else paused, "cut": len(found["lanes"]) >= SHOWN}


async def limits(request: Request) -> Response:
    """Show everything that has limits of its own, or what there is of one key."""
    pq = dashboard_of(request).pq
    key = _text(request, "key")
    if key is None:
        return await page(request, "limits.html", here="queues", key=None, held=await held(pq), rows=[])
    found, running, waiting = await asyncio.gather(
        held(pq, key=key),
        find(pq, Search(state="running", key=key), limit=20),
        find(pq, Search(state="held", key=key), limit=20),
    )
    return await page(
        request, "limits.html", here="queues", key=key, held=found, rows=told([*running.rows, *waiting.rows])
    )


async def queue(request: Request) -> Response:
    """Show one queue and the form for its limits."""
    name = _text(request, "name")
    if name is None:
        raise Problem(422, "this can't be done", "name: say which queue")
    return await _queue(request, name)


async def limit(request: Request) -> Response:
    """Set the limits of a queue, or lift those that are left empty; show the form again with what is wrong."""
    form = await request.form(max_files=0, max_fields=5)
    name = name_in(form)
    lifted = bool(form.get("lift"))
    said = {field: "" if lifted else str(form.get(field) or "").strip() for field in ("concurrency", "rate")}
    try:
        concurrency = _whole(said["concurrency"]) if said["concurrency"] else None
        details = {"concurrency": concurrency, "rate": said["rate"] or None}
        async with dashboard_of(request).changing(request, "queue.limit", name, **details) as pq:
            await pq.alimit_queue(name, concurrency=concurrency, rate=said["rate"] or None)
    except InvalidOption as error:
        return await _queue(request, name, said=said, problem=str(error))
    return back(request, "queue", done="queue-limited", query={"name": name})


async def _queue(
    request: Request, name: str, *, said: dict[str, str] | None = None, problem: str | None = None
) -> Response:
    dashboard = dashboard_of(request)
    queues, rates, found = await asyncio.gather(
        run(dashboard.pq, operating.queues(dashboard.pq.schema)),
        figures_of(dashboard).grouped("queue", "1h"),
        held(dashboard.pq, queue=name),
    )
    one = next((record for record in queues if record.name == name), QueueRecord(name=name))
    return await page(
        request,
        "queue.html",
        status=422 if problem else 200,
        here="queues",
        queue=one,
        rate=rates.get(name, Sum()),
        limit=rate_of(one),
        values=said or {"concurrency": str(one.concurrency_limit or ""), "rate": rate_of(one)},
        problem=problem,
        held=found,
    )


def rate_of(queue: QueueRecord) -> str:
    """Return the rate of a queue as it is written, empty without one."""
    if queue.rate_limit is None:
        return ""
    return str(Rate(queue.rate_limit, queue.rate_period.total_seconds() if queue.rate_period else 1.0))


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidOption(f"concurrency={text!r}: give a whole number, or nothing for no limit") from None


def _text(request: Request, name: str) -> str | None:
    given = request.query_params.get(name, "")
    if "\x00" in given or len(given) > 1000:
        raise Problem(422, "this can't be done", f"{name}: give text of up to 1,000 characters")
    return given or None


def routes() -> list[BaseRoute]:
    """Return the routes. Names go into the query or the body: they may hold any character."""
    return [
        route("/limits", limits, role="viewer"),
        route("/queue", queue, role="viewer"),
        route("/queue/limit", limit, role="operator", methods=["POST"], name="queue_limit"),
    ]
