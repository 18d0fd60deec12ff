"""The list of schedules: when each comes next, and what became of its last ticks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import svg, ticks
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import page
from pq_adapters.dashboard.routes import dashboard_of, route

PAGE = 50


async def schedules(request: Request) -> Response:
    """Show all schedules, a page at a time."""
    search = request.query_params.get("search", "").strip().replace("\x00", "")
    after = _after(request.query_params.get("after"))
    rows = await ask(
        dashboard_of(request).pq, "schedules", {"limit": PAGE + 1, "search": search or None, "after": after}
    )
    more = len(rows) > PAGE
    now = datetime.now(tz=UTC)
    shown = [told(row, now=now) for row in rows[:PAGE]]
    following = json.dumps([shown[-1]["name"], shown[-1]["key"]]) if more else None
    return await page(
        request,
        "schedules.html",
        here="schedules",
        schedules=shown,
        search=search,
        after=following,
        first=after is None,
    )


def told(row: dict[str, Any], *, now: datetime) -> dict[str, Any]:
    """Add to a row what is shown of it."""
    past = ticks.history(row, now=now)
    failed = sum(tick.kind == "failed" for tick in past)
    skipped = sum(tick.kind == "skipped" for tick in past)
    label = f"The last {len(past)} ticks: {failed} failed, {skipped} skipped" if past else "No tick yet"
    row["history"] = past
    row["strip"] = svg.strip([(tick.kind, tick.told()) for tick in past], label=label)
    row["rhythm"] = ticks.in_words(row)
    row["zone"] = row["timezone"] or "UTC"
    row["next_there"] = ticks.in_zone(row["next_run"], row["timezone"])
    row["last_there"] = ticks.in_zone(row["last_run"], row["timezone"])
    return row


def _after(text: str | None) -> list[str] | None:
    if text is None:
        return None
    try:
        place = json.loads(text)
    except ValueError:
        place = None
    if not isinstance(place, list) or len(place) != 2 or not all(isinstance(part, str) for part in place):
        raise Problem(422, "this can't be done", "after: this is no place of this list; begin at its first page")
    return place


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [route("/schedules", schedules, role="viewer")]
