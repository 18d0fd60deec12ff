"""One schedule: its rhythm and its runs, making and changing it, and what it would do."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.datastructures import FormData, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import ticks, words
from pq_adapters.dashboard.finding import Search, find
from pq_adapters.dashboard.pages.schedules import told
from pq_adapters.dashboard.pages.tasks import PRIORITIES
from pq_adapters.dashboard.pages.tasks import told as told_tasks
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core import payload
from pq_core.client import PQ
from pq_core.cron import find_zone
from pq_core.errors import PQError
from pq_core.schedule_options import build_schedule

COMING = 10
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


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
    return await _form(request, _empty())


async def edit(request: Request) -> Response:
    """Show the form with what is stored."""
    row = await _row(request)
    if words.sensitive(row["options"]):
        raise Problem(
            403, "not shown", "The arguments of this task are declared as sensitive: change it where it is declared."
        )
    return await _form(request, _filled(row))


async def save(request: Request) -> Response:
    """Store what the form says; show it again with what is wrong."""
    form = await request.form(max_files=0, max_fields=50)
    pq = dashboard_of(request).pq
    try:
        call, options = await asyncio.to_thread(_meant, pq, form)
        target = f"{call.task.name} {options['key']}".strip()
        async with dashboard_of(request).changing(
            request, "schedule.save", target, rhythm=_rhythm_words(form)
        ) as bound:
            schedule_id = await bound.aschedule(call, **options)
    except (PQError, ValueError, TypeError) as error:
        return await _form(request, _said(form), problem=str(error), status=422)
    return back(request, "schedule", done="schedule-saved", schedule_id=schedule_id)


async def preview(request: Request) -> Response:
    """Return the next times of what is being typed, as a part of the form."""
    given = request.query_params
    problem, times, zone = None, [], str(given.get("timezone") or "").strip() or None
    try:
        said = _rhythm(given)
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
    from zoneinfo import available_timezones

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
        zones=sorted(zone for zone in available_timezones() if "/" in zone and not zone.startswith(("Etc/", "posix"))),
        priorities=PRIORITIES,
    )


def _empty() -> dict[str, str]:
    return {
        "id": "", "name": "", "key": "", "rhythm": "cron", "cron": "0 9 * * *", "timezone": "", "every": "15",
        "unit": "min", "args": "[]", "kwargs": "{}", "queue": "", "priority": "", "max_attempts": "", "timeout": "",
        "max_concurrent": "1", "catch_up": "latest", "jitter": "",
    }  # fmt: skip


def _filled(row: dict[str, Any]) -> dict[str, str]:
    """Return the form's values for what is stored."""
    every, unit = row["run_every"] or 900.0, "s"
    for name, seconds in _UNITS.items():
        if every % seconds == 0:
            unit = name
    held = row["payload"] or {}
    return {
        **_empty(),
        "id": str(row["id"]), "name": row["name"], "key": row["key"],
        "rhythm": "cron" if row["cron"] is not None else "every", "cron": row["cron"] or "",
        "timezone": row["timezone"] or "", "every": f"{every / _UNITS[unit]:g}", "unit": unit,
        "args": words.pretty(held.get("args") or []), "kwargs": words.pretty(held.get("kwargs") or {}),
        "queue": row["queue"], "priority": str(row["priority"]), "max_attempts": str(row["max_attempts"]),
        "timeout": "" if row["max_runtime_seconds"] is None else f"{row['max_runtime_seconds']:g}",
        "max_concurrent": "" if row["max_concurrent"] is None else str(row["max_concurrent"]),
        "catch_up": row["catch_up"], "jitter": "" if row["jitter"] is None else f"{row['jitter']:g}",
    }  # fmt: skip


def _said(form: FormData) -> dict[str, str]:
    return {name: str(form.get(name, default)) for name, default in _empty().items()}


def _meant(pq: PQ, form: FormData) -> tuple[Any, dict[str, Any]]:
    """Return the call and the options that a form means. Raises PQError or ValueError, whose text is shown."""
    values = {name: value.strip() for name, value in _said(form).items()}
    if not values["name"]:
        raise ValueError("Say which task function it runs.")
    task = pq.registry.resolve(values["name"])
    args, kwargs = _json("args", values["args"] or "[]", list), _json("kwargs", values["kwargs"] or "{}", dict)
    read = payload.decode({"args": args, "kwargs": kwargs}, signature=task.typed_signature)
    call = task.call(*read[0], **read[1])
    own: dict[str, Any] = {}
    if values["queue"]:
        own["queue"] = values["queue"]
    for name in ("priority", "max_attempts"):
        if values[name]:
            own[name] = _whole(name, values[name])
    if values["timeout"]:
        own["timeout"] = _seconds("timeout", values["timeout"])
    options = _rhythm(form)
    options["key"] = values["key"]
    options["max_concurrent"] = _whole("max_concurrent", values["max_concurrent"]) if values["max_concurrent"] else None
    options["catch_up"] = values["catch_up"]
    if values["jitter"]:
        options["jitter"] = timedelta(seconds=_seconds("jitter", values["jitter"]))
    return (call.options(**own) if own else call), options


def _rhythm(given: FormData | QueryParams) -> dict[str, Any]:
    zone = str(given.get("timezone") or "").strip() or None
    if str(given.get("rhythm")) == "every":
        unit = _UNITS.get(str(given.get("unit")), 1.0)
        return {"run_every": timedelta(seconds=_seconds("every", str(given.get("every") or "")) * unit)}
    expression = str(given.get("cron") or "").strip()
    if not expression:
        raise ValueError("Give a cron expression: minute hour day month weekday.")
    find_zone(zone)
    return {"cron": expression, "timezone": zone}


def _rhythm_words(form: FormData) -> str:
    if str(form.get("rhythm")) == "every":
        return f"every {form.get('every')} {form.get('unit')}"
    return f"{form.get('cron')} {form.get('timezone') or 'UTC'}"


def _json(name: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is not JSON: {error}") from None
    if not isinstance(value, kind):
        example = "a list, as [1, 2]" if kind is list else 'an object, as {"region": "eu"}'
        raise ValueError(f"{name}: give {example}")
    return value


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no whole number") from None


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no number") from None
    if not 0 <= value <= 3.2e9:
        raise ValueError(f"{name}: {text!r} is out of bounds")
    return value


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
