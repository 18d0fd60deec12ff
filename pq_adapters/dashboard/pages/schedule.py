"""One schedule: its rhythm and its runs, making and changing it, and what it would do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import schedule_forms as forms
from pq_adapters.dashboard import ticks, words
from pq_adapters.dashboard.finding import Search, find
from pq_adapters.dashboard.pages import calls
from pq_adapters.dashboard.pages.schedules import told
from pq_adapters.dashboard.pages.tasks import PRIORITIES
from pq_adapters.dashboard.pages.tasks import told as told_tasks
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core.errors import PQError
from pq_core.schedule_options import build_schedule

COMING = 10


async def schedule(request: Request) -> Response:
    """Show one schedule, its next times and its last tasks."""
    pq = dashboard_of(request).pq
    row, now = await _row(request), datetime.now(tz=UTC)
    runs = await find(pq, Search(schedule=row["id"]), limit=20)
    problem, times = row["error"], []
    try:
        start = max(filter(None, [now, words.moment(row["start_at"])]))
        times = ticks.coming(ticks.rhythm_of(row, now), after=start, end=words.moment(row["end_at"]), count=COMING)
    except PQError as error:
        problem = str(error)
    return await page(
        request,
        "schedule.html",
        here="schedules",
        schedule=told(row, now=now),
        coming=_shown(times, row["timezone"]),
        rows=told_tasks(runs.rows),
        problem=problem,
    )


async def new(request: Request) -> Response:
    """Show the form for a schedule that is not there yet."""
    return await _form(request, forms.empty())


async def edit(request: Request) -> Response:
    """Show the form with what is stored."""
    row = await _row(request)
    if words.sensitive(row["options"]):
        raise Problem(
            403, "not shown", "The arguments of this task are declared as sensitive: change it where it is declared."
        )
    if row["name"] == calls.NAME and (values := calls.filled(row)) is not None:
        return await calls.form(request, values)
    return await _form(request, forms.filled(row))


async def save(request: Request) -> Response:
    """Store what the form says; show it again with what is wrong."""
    said = forms.said(await request.form(max_files=0, max_fields=50))
    pq = dashboard_of(request).pq
    try:
        call, options = await asyncio.to_thread(forms.meant, pq, {**said, "rhythm": _kind(said)})
        before = await forms.stored(pq, said)
        target = f"{call.task.name} {options['key']}".strip()
        async with dashboard_of(request).changing(
            request, "schedule.save", target, rhythm=forms.rhythm_words(said)
        ) as bound:
            schedule_id = await forms.store(bound, pq.schema, call, options, before)
    except (PQError, ValueError, TypeError) as error:
        return await _form(request, said, problem=str(error), status=422)
    return back(request, "schedule", done="schedule-saved", schedule_id=schedule_id)


def _kind(said: Mapping[str, str]) -> str:
    return "every" if said["rhythm"] == "every" else "cron"


async def preview(request: Request) -> Response:
    """Return the next times of what is being typed, as a part of the form."""
    given = request.query_params
    problem, times, zone = None, [], str(given.get("timezone") or "").strip() or None
    try:
        said = forms.rhythm(given)
        options = build_schedule(said, what="schedule")
        now = datetime.now(tz=UTC)
        times = await asyncio.to_thread(ticks.coming, options.rhythm(now), after=now, count=COMING)
    except (PQError, ValueError) as error:
        problem = str(error).removeprefix("schedule: ")
    return await page(request, "schedule_preview.html", coming=_shown(times, zone), zone=zone or "UTC", problem=problem)


async def pause(request: Request) -> Response:
    """Let no tick become a task."""
    return await _switch(request, "schedule.pause", active=False)


async def resume(request: Request) -> Response:
    """End a pause."""
    return await _switch(request, "schedule.resume", active=True)


async def run_now(request: Request) -> Response:
    """Make a task beside the rhythm, and show it."""
    row = await _row(request)
    async with dashboard_of(request).changing(request, "schedule.run", _target(row)) as pq:
        task_id = await pq.arun_schedule_now(row["id"])
        request.state.audit["task"] = int(task_id)
    return back(request, "task", done="schedule-run", task_id=int(task_id))


async def remove(request: Request) -> Response:
    """Delete a schedule; its tasks stay."""
    row = await _row(request)
    async with dashboard_of(request).changing(request, "schedule.delete", _target(row)) as pq:
        done = await pq.aunschedule(row["id"])
    return back(request, "schedules", done="schedule-deleted" if done else "schedule-gone")


async def _switch(request: Request, action: str, *, active: bool) -> Response:
    row = await _row(request)
    async with dashboard_of(request).changing(request, action, _target(row)) as pq:
        done = await (pq.aresume_schedule(row["id"]) if active else pq.apause_schedule(row["id"]))
    word = ("schedule-resumed" if active else "schedule-paused") if done else "schedule-gone"
    if (await request.form(max_files=0, max_fields=5)).get("to") == "list":
        return back(request, "schedules", done=word)
    return back(request, "schedule", done=word, schedule_id=row["id"])


async def _row(request: Request) -> dict[str, Any]:
    schedule_id = request.path_params["schedule_id"]
    found = await ask(dashboard_of(request).pq, "schedules", {"id": schedule_id, "limit": 1})
    if not found:
        raise Problem(404, "no such schedule", f"There is no schedule {schedule_id}: deleted, or never there.")
    row: dict[str, Any] = found[0]
    return row


def _target(row: dict[str, Any]) -> str:
    return f"{row['name']} {row['key']}".strip()


def _shown(times: list[datetime], zone: str | None) -> list[dict[str, Any]]:
    return [{"at": at, "there": ticks.in_zone(at, zone)} for at in times]


async def _form(request: Request, values: dict[str, str], *, problem: str | None = None, status: int = 200) -> Response:
    registry = dashboard_of(request).pq.registry
    try:
        await asyncio.to_thread(registry.load)
    except Exception as error:  # an application's module may raise anything when it is imported
        problem = problem or f"the application's tasks can't be loaded: {error}"
    return await page(
        request,
        "schedule_form.html",
        status=status,
        here="schedules",
        values=values,
        problem=problem,
        names=registry.names(),
        zones=forms.zones(),
        priorities=PRIORITIES,
    )


def routes() -> list[BaseRoute]:
    """Return the routes."""

    def change(path: str, endpoint: Any, name: str) -> BaseRoute:
        return route(path, endpoint, role="operator", methods=["POST"], name=name)

    return [
        route("/schedules/new", new, role="operator", name="schedule_new"),
        route("/schedules/preview", preview, role="viewer", name="schedule_preview"),
        change("/schedules/save", save, "schedule_save"),
        route("/schedules/{schedule_id:int}", schedule, role="viewer"),
        route("/schedules/{schedule_id:int}/edit", edit, role="operator", name="schedule_edit"),
        change("/schedules/{schedule_id:int}/pause", pause, "schedule_pause"),
        change("/schedules/{schedule_id:int}/resume", resume, "schedule_resume"),
        change("/schedules/{schedule_id:int}/run", run_now, "schedule_run"),
        change("/schedules/{schedule_id:int}/delete", remove, "schedule_delete"),
    ]
