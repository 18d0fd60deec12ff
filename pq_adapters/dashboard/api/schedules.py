"""The API's operations on schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from pq_adapters.dashboard.api.documents import answer, list_of, of
from pq_adapters.dashboard.api.excerpts import LATEST_TICK, schedule_excerpt, task_excerpts
from pq_adapters.dashboard.api.operation import Asked, Operation
from pq_adapters.dashboard.api.schemas import ANYTHING, FLAG, ID, NAME, TIME, array, integer, obj, seconds, text, word
from pq_adapters.dashboard.api.tasks import PRIORITY, YEAR, found_or_404
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.roles import Role
from pq_core.enqueue_by_name import call_by_name
from pq_core.filters import Filter
from pq_core.schedule_preview import next_times, next_times_of

RHYTHM: dict[str, Any] = {
    "cron": text(least=1, most=200),
    "run_every": seconds(0.001, 100 * YEAR),
    "timezone": text(least=1, most=100),
}
OPTIONS: dict[str, Any] = {
    **RHYTHM,
    "args": array(ANYTHING, most=1000),
    "kwargs": {"type": "object"},
    "active": FLAG,
    "max_concurrent": integer(0, 2**31 - 1),
    "catch_up": word("latest", "all", "skip"),
    "catch_up_limit": integer(1, 2**31 - 1),
    "jitter": seconds(0, YEAR),
    "start_at": TIME,
    "end_at": TIME,
    "client_id": NAME,
    "queue": NAME,
    "priority": PRIORITY,
    "timeout": seconds(0.001, YEAR),
    "max_attempts": integer(1, 2**31 - 1),
}
_OF_TASK = ("queue", "priority", "timeout", "max_attempts")


async def listing(asked: Asked) -> Any:
    """List schedules by name and key."""
    return {"items": [schedule_excerpt(one) for one in await asked.pq.alist_schedules(**asked.query)]}


async def create(asked: Asked) -> Any:
    """Declare a schedule, or change the one of the same task and key."""
    body = dict(asked.body)
    return {"id": await _declare(asked, "schedule.put", body.pop("task"), body.pop("key", ""), body)}


async def replace(asked: Asked) -> Any:
    """Give a schedule another definition."""
    known = found_or_404(await asked.pq.aget_schedule(asked.path["id"]), asked)
    return {"id": await _declare(asked, "schedule.put", known.name, known.key, dict(asked.body))}


async def _declare(asked: Asked, action: str, task: str, key: str, body: dict[str, Any]) -> int:
    call = call_by_name(asked.pq, task, body.pop("args", []), body.pop("kwargs", {}))
    said = {name: body.pop(name) for name in _OF_TASK if name in body}
    for name in ("run_every", "jitter"):
        if name in body:
            body[name] = timedelta(seconds=body[name])
    if body.get("max_concurrent") == 0:
        body["max_concurrent"] = None
    async with asked.dashboard.changing(asked.request, action, f"{task} {key}".strip()) as pq:
        schedule_id = await pq.aschedule(call.options(**said) if said else call, key=key, **body)
        asked.request.state.audit["id"] = schedule_id
    return schedule_id


async def get(asked: Asked) -> Any:
    """Return one schedule."""
    return found_or_404(await asked.pq.aget_schedule(asked.path["id"]), asked).shown()


async def remove(asked: Asked) -> Any:
    """Delete a schedule."""
    return await _change(asked, "schedule.delete", lambda pq, id_: pq.aunschedule(id_))


async def pause(asked: Asked) -> Any:
    """Pause a schedule."""
    return await _change(asked, "schedule.pause", lambda pq, id_: pq.apause_schedule(id_))


async def resume(asked: Asked) -> Any:
    """Let a schedule go on."""
    return await _change(asked, "schedule.resume", lambda pq, id_: pq.aresume_schedule(id_))


async def _change(asked: Asked, action: str, do: Any) -> Any:
    schedule_id = asked.path["id"]
    async with asked.dashboard.changing(asked.request, action, schedule_id) as pq:
        found_or_404(await do(pq, schedule_id) or None, asked)
    return {"id": schedule_id, "done": True}


async def run_now(asked: Asked) -> Any:
    """Run a schedule now."""
    schedule_id = asked.path["id"]
    found_or_404(await asked.pq.aget_schedule(schedule_id), asked)
    async with asked.dashboard.changing(asked.request, "schedule.run", schedule_id) as pq:
        task_id = await pq.arun_schedule_now(schedule_id)
        asked.request.state.audit["task"] = int(task_id)
    return {"id": int(task_id)}


async def runs(asked: Asked) -> Any:
    """List the tasks that a schedule made."""
    found_or_404(await asked.pq.aget_schedule(asked.path["id"]), asked)
    chosen = Filter(schedule_id=asked.path["id"])
    return {"items": await task_excerpts(asked.pq, chosen, limit=asked.query["limit"], order=LATEST_TICK)}


async def upcoming(asked: Asked) -> Any:
    """Return the next times of a schedule."""
    known = found_or_404(await asked.pq.aget_schedule(asked.path["id"]), asked)
    times = next_times_of(known, after=asked.query.get("after", datetime.now(tz=UTC)))
    return {"items": list(islice(times, asked.query["count"]))}


async def preview(asked: Asked) -> Any:
    """Return the next times of a cron expression or an interval."""
    query = dict(asked.query)
    count, after = query.pop("count"), query.pop("after", datetime.now(tz=UTC))
    if ("cron" in query) == ("run_every" in query):
        raise Problem(422, "not valid", "give one of cron and run_every")
    every = query.get("run_every")
    times = next_times(
        cron=query.get("cron"),
        run_every=None if every is None else timedelta(seconds=every),
        timezone=query.get("timezone"),
        after=after,
    )
    return {"items": list(islice(times, count))}


_ONE = {"id": ID}
_DONE = answer(id={"type": "integer"}, done={"type": "boolean"})
_ID = answer(id={"type": "integer"})
_TIMES = answer(items={"type": "array", "items": {"type": "string", "format": "date-time"}})
_UPCOMING = {"count": integer(1, 100, default=10), "after": TIME}
_TAG = "schedules"
OPERATIONS = (
    Operation(method="GET", path="/schedules", name="list_schedules", summary="Schedules by name and key",
        role=Role.VIEWER, handler=listing, tag=_TAG, answer=list_of("ScheduleExcerpt"),
        query={"name": NAME, "app": text(), "active": FLAG, "limit": integer(1, 1000, default=1000)}),
    Operation(method="POST", path="/schedules", name="put_schedule",
        summary="Declare a schedule, or change the one of the same task and key", role=Role.OPERATOR, handler=create,
        tag=_TAG, status=201, answer=_ID, problems=(404, 409),
        body=obj({"task": NAME, "key": text(), **OPTIONS}, required=("task",))),
    Operation(method="GET", path="/schedules/preview", name="preview_schedule",
        summary="The next times of an expression or an interval", role=Role.VIEWER, handler=preview, tag=_TAG,
        answer=_TIMES, query={**RHYTHM, **_UPCOMING}),
    Operation(method="GET", path="/schedules/{id}", name="get_schedule", summary="One schedule", role=Role.VIEWER,
        handler=get, tag=_TAG, answer=of("Schedule"), parameters=_ONE),
    Operation(method="PUT", path="/schedules/{id}", name="replace_schedule", summary="Another definition",
        role=Role.OPERATOR, handler=replace, tag=_TAG, answer=_ID, parameters=_ONE, problems=(409,),
        body=obj(OPTIONS, minProperties=1)),
    Operation(method="DELETE", path="/schedules/{id}", name="delete_schedule", summary="Delete it; its tasks stay",
        role=Role.OPERATOR, handler=remove, tag=_TAG, answer=_DONE, parameters=_ONE),
    Operation(method="POST", path="/schedules/{id}/pause", name="pause_schedule", summary="Pause it",
        role=Role.OPERATOR, handler=pause, tag=_TAG, answer=_DONE, parameters=_ONE),
    Operation(method="POST", path="/schedules/{id}/resume", name="resume_schedule", summary="Let it go on",
        role=Role.OPERATOR, handler=resume, tag=_TAG, answer=_DONE, parameters=_ONE),
    Operation(method="POST", path="/schedules/{id}/run", name="run_schedule", summary="Run it now",
        role=Role.OPERATOR, handler=run_now, tag=_TAG, status=201, answer=_ID, parameters=_ONE, problems=(409,)),
    Operation(method="GET", path="/schedules/{id}/runs", name="list_runs", summary="The tasks it made, latest first",
        role=Role.VIEWER, handler=runs, tag=_TAG, answer=list_of("TaskExcerpt"), parameters=_ONE,
        query={"limit": integer(1, 500, default=50)}),
    Operation(method="GET", path="/schedules/{id}/next", name="next_times", summary="Its next times",
        role=Role.VIEWER, handler=upcoming, tag=_TAG, answer=_TIMES, parameters=_ONE, query=_UPCOMING),
)  # fmt: skip
