"""Retrying, cancelling and deleting many tasks: first what it would be, then the change, in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.finding import BadFilter, Count, Search, count, find
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.rendering import page
from pq_adapters.dashboard.routes import dashboard_of, path_for, route
from pq_adapters.dashboard.words import CAP
from pq_core.bound import AsyncBoundPQ
from pq_core.filters import FINISHED

Action = Literal["retry", "cancel", "delete"]
BATCH = 500
"""Tasks that are changed in one transaction: nobody waits long for their rows."""

STATES: Mapping[str, tuple[str, ...]] = {
    "retry": ("failed", "cancelled"),
    "cancel": ("waiting", "held", "scheduled", "running"),
    "delete": ("completed", "failed", "cancelled"),
}
"""For which states an action can be asked for by filter. By ids a completed task can be retried as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """What somebody asks for. ``ids``: these alone, whatever the filter says."""

    action: Action
    search: Search
    ids: tuple[int, ...]

    @property
    def possible(self) -> bool:
        """True when the action makes sense for what is chosen."""
        return bool(self.ids) or self.search.state in STATES[self.action]


async def confirm(request: Request) -> Response:
    """Show what would be changed, and how many."""
    bulk = _allowed(request, _asked(request.query_params))
    asked_at = datetime.now(tz=UTC)
    total = await _count(request, replace(bulk, search=_until(bulk.search, asked_at)))
    return await page(
        request, "tasks_bulk.html", here="tasks", bulk=bulk, total=total, asked_at=asked_at.isoformat(), cap=CAP
    )


async def change(request: Request) -> Response:
    """Do it, for those that matched when the count was shown; ``CAP`` tasks at most."""
    form = await request.form(max_files=0, max_fields=CAP)
    bulk = _allowed(request, _asked(form))
    try:
        asked_at = datetime.fromisoformat(str(form.get("asked_at")))
        if asked_at.utcoffset() is None:
            raise ValueError("it says no point in time")
        asked_at = asked_at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Problem(422, "this can't be done", "asked_at is no time: begin again from the list of tasks") from None
    bulk = replace(bulk, search=_until(bulk.search, asked_at))
    done = seen = 0
    if bulk.ids:
        for start in range(0, len(bulk.ids), BATCH):
            done += await _batch(request, bulk, list(bulk.ids[start : start + BATCH]))
    else:
        after: str | None = ""
        while after is not None and seen < CAP:
            # By key, not from the start again: what can't be changed would be found for ever.
            found = await find(dashboard_of(request).pq, bulk.search, after=after, limit=BATCH, columns="t.id")
            if found.rows:
                done += await _batch(request, bulk, [row["id"] for row in found.rows])
            seen += len(found.rows)
            after = found.after
    past = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}[bulk.action]
    back = "" if bulk.ids else bulk.search.query(until=_asked(form).search.parameters().get("until"))
    return RedirectResponse(f"{path_for(request, 'tasks')}?{back}&done=bulk-{past}&n={done}".replace("?&", "?"), 303)


async def _batch(request: Request, bulk: Bulk, ids: list[int]) -> int:
    async with dashboard_of(request).changing(
        request, f"tasks.{bulk.action}", filter=bulk.search.parameters(), ids=ids
    ) as bound:
        changed = await _change(bound, bulk, ids)
        request.state.audit["count"] = changed
    return changed


async def _change(bound: AsyncBoundPQ, bulk: Bulk, ids: list[int]) -> int:
    match bulk.action:
        case "retry":
            return await bound.aretry_many(ids=ids)
        case "cancel":
            return await bound.acancel_many(ids=ids)
        case "delete":
            return await bound.adelete_many(ids=ids, status=FINISHED)


async def _count(request: Request, bulk: Bulk) -> Count:
    if bulk.ids:
        return Count(number=len(bulk.ids), exact=True)
    return await count(dashboard_of(request).pq, bulk.search) if bulk.possible else Count(number=0, exact=True)


def _allowed(request: Request, bulk: Bulk) -> Bulk:
    """Return what was asked for, unless it is not for this one to do: what is deleted does not come back."""
    if bulk.action == "delete" and not request.state.principal.may("admin"):
        raise Problem(403, "not allowed", "deleting tasks needs the role admin")
    return bulk


def _until(search: Search, moment: datetime) -> Search:
    """Leave out what came after the count was taken."""
    return replace(search, until=min(moment, search.until) if search.until else moment)


def _asked(given: QueryParams | FormData) -> Bulk:
    action: Any = given.get("action")
    if action not in get_args(Action):
        raise Problem(422, "this can't be done", f"action={action!r}: give one of {', '.join(get_args(Action))}")
    try:
        search = Search.of(given)
        ids = tuple(int(str(one)) for one in given.getlist("ids"))
    except BadFilter as error:
        raise Problem(422, "this can't be done", str(error)) from None
    except ValueError:
        raise Problem(422, "this can't be done", "ids: give whole numbers") from None
    return Bulk(action=action, search=search, ids=ids)


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/tasks/bulk", confirm, role="operator", name="tasks_bulk"),
        route("/tasks/bulk", change, role="operator", methods=["POST"], name="tasks_bulk_change"),
    ]
