"""The overview: how much is done, what fails, what waits and for how long, right now and lately."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import svg, words
from pq_adapters.dashboard.figures import RANGES, Series, Sum, figures_of
from pq_adapters.dashboard.pages.failures import groups_of
from pq_adapters.dashboard.pages.workers import context as workers_context
from pq_adapters.dashboard.reading import ask, run
from pq_adapters.dashboard.rendering import page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core import operating
from pq_core.operating import COUNTED, QueueRecord

T = TypeVar("T")

RECENT = 5
"""Minutes over which the rate of now is taken: those that are over."""
TOP = 10
LATEST = 1_000
"""Failed tasks among which the latest groups are found."""


async def overview(request: Request) -> Response:
    """Show it."""
    dashboard = dashboard_of(request)
    key = request.query_params.get("range", "1h")
    key = key if key in RANGES else "1h"
    figures = figures_of(dashboard)
    (hour, series), (by_name, by_queue), queues, [live], failures = await asyncio.gather(
        _both(figures.series("1h"), figures.series(key)),
        _both(figures.grouped("name", key), figures.grouped("queue", key)),
        run(dashboard.pq, operating.queues(dashboard.pq.schema)),
        ask(dashboard.pq, "live", {"tasks": []}),
        groups_of(dashboard.pq, within=key, limit=5, looked_at=LATEST),
    )
    functions = sorted(by_name.items(), key=lambda item: (-item[1].count, item[0]))
    lanes = sorted(
        {queue.name: queue for queue in queues}.items(), key=lambda item: (-item[1].due - item[1].running, item[0])
    )
    return await page(
        request,
        "overview.html",
        here="overview",
        ranges=RANGES,
        key=key,
        functions=functions[:TOP],
        more_functions=len(functions) - TOP,
        lanes=lanes[:TOP],
        by_queue=by_queue,
        failures=failures,
        nothing=not (series.whole.count or queues or live["workers"]),
        **tiles(hour, queues, live),
        **charts(series),
    )


async def _both(first: Awaitable[T], second: Awaitable[T]) -> tuple[T, T]:
    return await first, await second


def tiles(hour: Series, queues: list[QueueRecord], live: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in the tiles at the top."""
    # Without the minute that is not over: it would always seem to break down.
    ended = [float(one.count) for one in hour.fine[:-1]]
    bad = [float(one.bad) for one in hour.fine[:-1]]
    recent = hour.fine[-RECENT - 1 : -1]
    due = sum(queue.due for queue in queues)
    held = sum(queue.held for queue in queues)
    longest = max(queues, key=lambda queue: queue.oldest_wait if queue.due else 0.0, default=None)
    return {
        "held": held,
        "rate": sum(one.count for one in recent) / RECENT,
        "hour": hour.whole,
        "rate_spark": svg.spark(ended, label="Attempts per minute over the last hour"),
        "bad_spark": svg.spark(bad, kind="bad", label="Failed attempts per minute over the last hour"),
        "due": f"{due:,}+" if any("due" in queue.more for queue in queues) else f"{due:,}",
        "scheduled": min(sum(queue.scheduled for queue in queues), COUNTED),
        "scheduled_more": any("scheduled" in queue.more for queue in queues),
        "longest": longest if longest is not None and longest.due else None,
        "paused": [queue.name for queue in queues if queue.paused],
        **{name: value for name, value in workers_context(live).items() if name != "more"},
    }


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the words around it."""

    svg: Any
    top: str
    middle: str
    ticks: list[str]


def charts(series: Series) -> dict[str, Any]:
    """Return the drawings of a range."""
    labels = [f"{at:{series.range.label}}" for at in series.times]
    top = svg.ceiling(max((one.count for one in series.fine), default=0))
    titles = [
        f"{at:%a %d %b %H:%M} UTC: {one.ok:,} succeeded, {one.bad:,} failed"
        + (f", {one.other:,} others" if one.other else "")
        for at, one in zip(series.times, series.fine, strict=True)
    ]
    throughput = svg.bars(
        [
            svg.Series("failed", "bad", [one.bad for one in series.fine]),
            svg.Series("succeeded", "ok", [one.ok for one in series.fine]),
            svg.Series("others", "calm", [one.other for one in series.fine]),
        ],
        titles,
        top=top,
        label=f"Attempts over the last {series.range.title.lower()}: {series.whole.ok:,} succeeded, "
        f"{series.whole.bad:,} failed",
    )
    step = words.duration(series.range.step.total_seconds())
    return {
        "series": series,
        "step": "minute" if step == "1 min" else "hour" if step == "1 h" else step,
        "throughput": Chart(throughput, words.number(top), words.number(top / 2), svg.axis(labels)),
        "waits": _percentiles(series, "wait", "Waited"),
        "runs": _percentiles(series, "run", "Ran"),
    }


def _percentiles(series: Series, what: str, word: str) -> Chart:
    def of(one: Sum, share: float) -> float | None:
        return one.wait(share) if what == "wait" else one.run(share)

    middle, high = [of(one, 0.5) for one in series.coarse], [of(one, 0.95) for one in series.coarse]
    top = svg.ceiling(max((value for value in high if value is not None), default=1.0))
    titles = [
        f"{at:%a %d %b %H:%M} UTC: half {word.lower()} {words.duration(p50)} at most, 95 % {words.duration(p95)}"
        for at, p50, p95 in zip(series.coarse_times, middle, high, strict=True)
    ]
    drawing = svg.lines(
        [svg.Series("p95", "p95", high), svg.Series("p50", "p50", middle)],
        titles,
        top=top,
        label=f"{word}: half at most {words.duration(of(series.whole, 0.5))}, 95 % at most "
        f"{words.duration(of(series.whole, 0.95))}",
    )
    labels = [f"{at:{series.range.label}}" for at in series.coarse_times]
    return Chart(drawing, words.duration(top), words.duration(top / 2), svg.axis(labels, wanted=5))


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [route("/", overview, role="viewer")]
