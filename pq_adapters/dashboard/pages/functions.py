"""Task functions: what they cost in time, processor and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import svg, words
from pq_adapters.dashboard.figures import RANGES, Sum, figures_of
from pq_adapters.dashboard.finding import Found, Search, find
from pq_adapters.dashboard.known import known_tasks
from pq_adapters.dashboard.pages.limits import held
from pq_adapters.dashboard.pages.tasks import told
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core.statistics import SECONDS, lower_bound

if TYPE_CHECKING:
    from pq_core.client import PQ

LOOKED_AT = 1000
"""Ended tasks whose ledgers are read: exact numbers of lately, beside the statistics of the whole time."""
SHOWN = 10


async def functions(request: Request) -> Response:
    """Show all functions with what they cost."""
    key = _range(request)
    sums = await figures_of(dashboard_of(request)).grouped("name", key)
    known = {task.name: Sum() for task in await asyncio.to_thread(known_tasks, dashboard_of(request).pq)}
    both = {**known, **sums}
    listed = sorted(both.items(), key=lambda item: (-item[1].cpu_seconds, -item[1].count, item[0]))
    most = max((one.cpu_seconds for _, one in listed), default=0.0)
    return await page(
        request, "functions.html", here="functions", functions=listed, most=most, ranges=RANGES, key=key
    )  # fmt: skip


async def function(request: Request) -> Response:
    """Show one function."""
    name = request.query_params.get("name", "")
    if not name or "\x00" in name:
        raise Problem(422, "this can't be done", "name: say which function")
    dashboard, key = dashboard_of(request), _range(request)
    sums, ledgers, done, failed, own = await asyncio.gather(
        figures_of(dashboard).grouped("name", key),
        ask(dashboard.pq, "function_runs", {"name": name}, looked_at=LOOKED_AT),
        find(dashboard.pq, Search(state="completed", name=name), limit=SHOWN),
        find(dashboard.pq, Search(state="failed", name=name), limit=SHOWN),
        held(dashboard.pq, name=name),
    )
    one = sums.get(name, Sum())
    return await page(
        request,
        "function.html",
        here="functions",
        name=name,
        ranges=RANGES,
        key=key,
        one=one,
        histogram=histogram(one.runs or {}),
        used=used(ledgers),
        looked_at=LOOKED_AT,
        rows=_latest(done, failed),
        declared=await asyncio.to_thread(declared, dashboard.pq, name),
        held=own,
    )


def used(ledgers: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return exact percentiles of what the newest tasks used."""

    def of(place: int) -> dict[str, float | None]:
        values = sorted(one[place] for one in ledgers if one[place] is not None)
        if not values:
            return {"p50": None, "p95": None, "max": None}
        return {
            "p50": values[(len(values) - 1) // 2],
            "p95": values[min(int(len(values) * 0.95), len(values) - 1)],
            "max": values[-1],
        }

    return {"count": len(ledgers), "wall": of(3), "cpu": of(4), "memory": of(5)}


def declared(pq: PQ, name: str) -> list[tuple[str, str]]:
    """Return what the function's options say, in words; nothing when this dashboard does not know the function."""
    try:
        options = pq.registry.resolve(name).options_over(pq.defaults)
    except Exception:  # an application's module may raise anything when it is imported
        return []
    return [
        ("Queue", options.queue or "default"),
        ("At once", f"{options.concurrency:,}" if options.concurrency else "no limit"),
        ("Starts", str(options.rate) if options.rate else "no limit"),
        ("Attempts", str(options.max_attempts or 1)),
        ("Timeout", _time(options.timeout)),
        ("Memory limit", words.size(options.memory_limit) if options.memory_limit else "none"),
    ]


def _time(timeout: float | timedelta | None) -> str:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return words.duration(seconds) if seconds else "none"


def histogram(runs: dict[int, int]) -> dict[str, Any] | None:
    """Return the drawing of a histogram of run times, from its lowest to its highest bucket."""
    if not runs:
        return None
    low, high = min(runs), max(runs)
    places = list(range(low, high + 1))
    counts = [float(runs.get(place, 0)) for place in places]
    edges = [words.duration(lower_bound(place, SECONDS)) for place in [*places, high + 1]]
    titles = [f"{edges[i]} to {edges[i + 1]}: {int(count):,}" for i, count in enumerate(counts)]
    top = svg.ceiling(max(counts))
    return {
        "svg": svg.bars(
            [svg.Series("attempts", "p50", counts)], titles, top=top,
            label=f"Run times from {edges[0]} to {edges[-1]}",
        ),
        "top": words.number(top),
        "middle": words.number(top / 2),
        "ticks": svg.axis(edges[:-1], wanted=7),
    }  # fmt: skip


def _latest(*found: Found) -> list[dict[str, Any]]:
    rows = [row for one in found for row in one.rows]
    return told(sorted(rows, key=lambda row: str(row["completed_at"]), reverse=True)[:SHOWN])


def _range(request: Request) -> str:
    key = request.query_params.get("range", "24h")
    return key if key in RANGES else "24h"


def routes() -> list[BaseRoute]:
    """Return the routes. A function's name goes into the query: it may hold any character."""
    return [route("/functions", functions, role="viewer"), route("/function", function, role="viewer")]
