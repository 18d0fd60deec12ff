"""The API's operations on tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pq_adapters.dashboard.api.documents import answer, of, page_of
from pq_adapters.dashboard.api.excerpts import task_excerpts
from pq_adapters.dashboard.api.operation import Asked, Operation
from pq_adapters.dashboard.api.schemas import ANYTHING, FLAG, ID, NAME, TIME, array, integer, obj, seconds, text, word
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask_text
from pq_adapters.dashboard.roles import Role
from pq_core import rows
from pq_core.enqueue_by_name import call_by_name
from pq_core.filters import Filter
from pq_core.types import TaskStatus

PRIORITY = integer(-32768, 32767)
YEAR = 366 * 86400
COUNTED = 100_000
"""Tasks that a count goes up to."""

FILTER: dict[str, Any] = {
    "ids": array(ID, most=1000, least=1),
    "status": array(word(*TaskStatus), most=len(TaskStatus), least=1),
    "queue": NAME,
    "name": NAME,
    "client_id": NAME,
    "error": text(least=1, most=1000, description="text that the error contains, in any case"),
    "priority": PRIORITY,
    "worker_id": ID,
    "schedule_id": ID,
    "since": {**TIME, "description": "finished, or created if it has not finished, at this time or later"},
    "before": {**TIME, "description": "finished, or created if it has not finished, earlier than this"},
}
PAGE: dict[str, Any] = {
    "before_id": {**ID, "description": "only smaller ids: `next` of the page before"},
    "limit": integer(1, 500, default=50),
}
ENQUEUE = obj(
    {
        "task": {**NAME, "description": "the name of a registered task"},
        "args": array(ANYTHING, most=1000),
        "kwargs": {"type": "object"},
        "run_at": TIME,
        "run_in": seconds(0, 100 * YEAR),
        "priority": PRIORITY,
        "queue": NAME,
        "client_id": NAME,
        "on_duplicate": word("raise", "return", "replace"),
        "unique": word("retained", "unfinished"),
        "max_attempts": integer(1, 2**31 - 1),
        "timeout": seconds(0.001, YEAR),
        "headers": {"type": "object", "additionalProperties": text(most=10_000)},
    },
    required=("task",),
)
FUNCTION = answer(name={"type": "string"}, signature={"type": "string"}, doc={"type": ["string", "null"]})


async def functions(asked: Asked) -> Any:
    """List what can be enqueued here."""
    found = asked.pq.registry.tasks()
    return {
        "items": [
            {"name": task.name, "signature": str(task.typed_signature), "doc": task.function.__doc__} for task in found
        ]
    }


async def enqueue(asked: Asked) -> Any:
    """Enqueue a registered task."""
    body = dict(asked.body)
    name, args, kwargs = body.pop("task"), body.pop("args", []), body.pop("kwargs", {})
    if not asked.pq.registry.tasks() and not asked.pq.registry.allowed_modules():
        asked.pq.registry.load()
        if not asked.pq.registry.tasks():
            raise Problem(409, "no tasks are known here", "start it with your application: pq dashboard APP")
    call = call_by_name(asked.pq, name, args, kwargs)
    if "run_in" in body:
        body["run_in"] = timedelta(seconds=body["run_in"])
    replace = body.get("on_duplicate") == "replace"
    if replace:
        del body["on_duplicate"]
    async with asked.dashboard.changing(asked.request, "task.enqueue", task=name) as pq:
        call = call.options(**body) if body else call
        task_id = await (pq.aupsert(call) if replace else pq.aenqueue(call))
        asked.request.state.audit["id"] = int(task_id)
    return {"id": int(task_id)}


async def listing(asked: Asked) -> Any:
    """List tasks, newest first."""
    query = dict(asked.query)
    limit = query.pop("limit")
    found = await task_excerpts(asked.pq, Filter.of("list_tasks", query), limit=limit + 1)
    more = len(found) > limit
    return {"items": found[:limit], "next": found[limit - 1]["id"] if more else None}


async def count(asked: Asked) -> Any:
    """Count the tasks that match."""
    found = await asked.pq.acount(most=COUNTED + 1, **asked.query)
    return {"count": min(found, COUNTED), "more": found > COUNTED}


async def get(asked: Asked) -> Any:
    """Return one task."""
    return found_or_404(await asked.pq.aget_task(asked.path["id"]), asked).shown()


async def attempts(asked: Asked) -> Any:
    """List the attempts of a task that are recorded."""
    task_id, limit = asked.path["id"], asked.query["limit"]
    wanted = {"id": task_id, "after_id": asked.query.get("after_id"), "limit": limit + 1}
    found = rows.attempts(await ask_text(asked.pq, "attempts", wanted))
    if not found:
        found_or_404(await asked.pq.aget_task(task_id), asked)
    return {"items": found[:limit], "next": found[limit - 1].id if len(found) > limit else None}


async def retry(asked: Asked) -> Any:
    """Run a finished task again."""
    return await _change(asked, "task.retry", lambda pq, id_: pq.aretry(id_), "it has not finished")


async def cancel(asked: Asked) -> Any:
    """Cancel a task."""
    reason = asked.body.get("reason")
    return await _change(
        asked, "task.cancel", lambda pq, id_: pq.acancel(id_, reason=reason), "it has finished", reason=reason
    )


async def reschedule(asked: Asked) -> Any:
    """Give a pending task another time or priority."""
    body = dict(asked.body)
    if "run_in" in body:
        body["run_in"] = timedelta(seconds=body["run_in"])
    return await _change(
        asked, "task.reschedule", lambda pq, id_: pq.areschedule(id_, **body), "it is not pending", **asked.body
    )


async def delete(asked: Asked) -> Any:
    """Delete a task that does not run."""
    return await _change(asked, "task.delete", lambda pq, id_: pq.adelete(id_), "it is running")


async def _change(asked: Asked, action: str, do: Any, refusal: str, **details: Any) -> Any:
    task_id = asked.path["id"]
    said = {name: getattr(value, "isoformat", lambda value=value: value)() for name, value in details.items()}
    async with asked.dashboard.changing(asked.request, action, task_id, **said) as pq:
        if not await do(pq, task_id):
            found_or_404(await pq.aget_task(task_id), asked)
            raise Problem(409, "it can't be done as things stand", f"task {task_id}: {refusal}")
    return {"id": task_id, "done": True}


async def bulk_retry(asked: Asked) -> Any:
    """Run all failed and cancelled tasks that match again."""
    return await _bulk(asked, "retry", lambda pq, chosen: pq.aretry_many(**chosen))


async def bulk_cancel(asked: Asked) -> Any:
    """Cancel all unfinished tasks that match."""
    reason = asked.body.get("reason")
    return await _bulk(asked, "cancel", lambda pq, chosen: pq.acancel_many(reason=reason, **chosen))


async def bulk_delete(asked: Asked) -> Any:
    """Delete all tasks that match and don't run."""
    return await _bulk(asked, "delete", lambda pq, chosen: pq.adelete_many(**chosen))


async def _bulk(asked: Asked, what: str, do: Any) -> Any:
    chosen = dict(asked.body["filter"])
    narrowed = _narrowed(what, chosen)
    expected = asked.body.get("expected")
    if asked.body.get("dry_run", False):
        found = await asked.pq.acount(most=COUNTED + 1, **narrowed)
        return {"count": min(found, COUNTED), "more": found > COUNTED, "done": False}
    said = {name: getattr(value, "isoformat", lambda value=value: value)() for name, value in chosen.items()}
    async with asked.dashboard.changing(asked.request, f"tasks.{what}", filter=said) as pq:
        if expected is not None and (found := await pq.acount(most=COUNTED + 1, **narrowed)) != expected:
            raise Problem(409, "the count is another by now", f"{found} match, not {expected}", count=found)
        changed = await do(pq, chosen)
        asked.request.state.audit["count"] = changed
    return {"count": changed, "more": False, "done": True}


def _narrowed(what: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the filter with the states that the change is about, as the change itself has them."""
    finished = [TaskStatus.FAILED, TaskStatus.CANCELLED]
    among = {
        "retry": [TaskStatus.COMPLETED, *finished] if "ids" in chosen else finished,
        "cancel": [TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.RUNNING],
        "delete": [TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.COMPLETED, *finished],
    }[what]
    asked = chosen.get("status")
    return {**chosen, "status": [one for one in among if asked is None or one in asked]}


def found_or_404(found: Any, asked: Asked) -> Any:
    """Return what was found. Raises Problem 404."""
    if found is None:
        raise Problem(404, "not found", f"there is nothing with the id {asked.path['id']}")
    return found


_ONE = {"id": ID}
_DONE = answer(id={"type": "integer"}, done={"type": "boolean"})
_COUNT = answer(count={"type": "integer"}, more={"type": "boolean"})
_BULK = answer(count={"type": "integer"}, more={"type": "boolean"}, done={"type": "boolean"})
_CHOICE = {
    "filter": obj(FILTER, minProperties=1),
    "expected": integer(0, COUNTED, description="refuse with 409 unless so many match"),
    "dry_run": {**FLAG, "description": "only count"},
}
_TAG = "tasks"
OPERATIONS = (
    Operation(method="GET", path="/task-functions", name="list_functions", summary="What can be enqueued",
        role=Role.VIEWER, handler=functions, tag=_TAG,
        answer=answer(items={"type": "array", "items": FUNCTION})),
    Operation(method="POST", path="/tasks", name="enqueue", summary="Enqueue a registered task", role=Role.OPERATOR,
        handler=enqueue, tag=_TAG, status=201, answer=answer(id={"type": "integer"}), body=ENQUEUE, problems=(409,)),
    Operation(method="GET", path="/tasks", name="list_tasks", summary="Tasks that match, newest first",
        role=Role.VIEWER, handler=listing, tag=_TAG, answer=page_of("TaskExcerpt"), query={**FILTER, **PAGE}),
    Operation(method="GET", path="/tasks/count", name="count_tasks", summary="How many tasks match",
        role=Role.VIEWER, handler=count, tag=_TAG, answer=_COUNT, query=FILTER),
    Operation(method="POST", path="/tasks/bulk/retry", name="retry_tasks", summary="Run all that match again",
        role=Role.OPERATOR, handler=bulk_retry, tag=_TAG, answer=_BULK, problems=(409,),
        body=obj(_CHOICE, required=("filter",))),
    Operation(method="POST", path="/tasks/bulk/cancel", name="cancel_tasks", summary="Cancel all that match",
        role=Role.OPERATOR, handler=bulk_cancel, tag=_TAG, answer=_BULK, problems=(409,),
        body=obj({**_CHOICE, "reason": text(most=1000)}, required=("filter",))),
    Operation(method="POST", path="/tasks/bulk/delete", name="delete_tasks", summary="Delete all that match",
        role=Role.ADMIN, handler=bulk_delete, tag=_TAG, answer=_BULK, problems=(409,),
        body=obj(_CHOICE, required=("filter",))),
    Operation(method="GET", path="/tasks/{id}", name="get_task", summary="One task", role=Role.VIEWER, handler=get,
        tag=_TAG, answer=of("Task"), parameters=_ONE),
    Operation(method="DELETE", path="/tasks/{id}", name="delete_task", summary="Delete a task that does not run",
        role=Role.ADMIN, handler=delete, tag=_TAG, answer=_DONE, parameters=_ONE, problems=(409,)),
    Operation(method="GET", path="/tasks/{id}/attempts", name="list_attempts", summary="Its recorded attempts",
        role=Role.VIEWER, handler=attempts, tag=_TAG, answer=page_of("Attempt"), parameters=_ONE,
        query={"after_id": {**ID, "description": "only later ones: `next` of the page before"},
            "limit": integer(1, 200, default=100)}),
    Operation(method="POST", path="/tasks/{id}/retry", name="retry_task", summary="Run a finished task again",
        role=Role.OPERATOR, handler=retry, tag=_TAG, answer=_DONE, parameters=_ONE, problems=(409,)),
    Operation(method="POST", path="/tasks/{id}/cancel", name="cancel_task", summary="Cancel a task, a running one too",
        role=Role.OPERATOR, handler=cancel, tag=_TAG, answer=_DONE, parameters=_ONE, problems=(409,),
        body=obj({"reason": text(most=1000)})),
    Operation(method="POST", path="/tasks/{id}/reschedule", name="reschedule_task",
        summary="Give a pending task another time or priority", role=Role.OPERATOR, handler=reschedule, tag=_TAG,
        answer=_DONE, parameters=_ONE, problems=(409,),
        body=obj({"run_at": TIME, "run_in": seconds(0, 100 * YEAR), "priority": PRIORITY}, minProperties=1)),
)  # fmt: skip
