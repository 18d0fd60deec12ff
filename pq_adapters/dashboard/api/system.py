"""The API's operations on queues, workers, statistics, keys and the audit log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pq_adapters.dashboard.api.documents import answer, list_of, page_of
from pq_adapters.dashboard.api.operation import Asked, Operation
from pq_adapters.dashboard.api.schemas import ID, NAME, TIME, array, integer, obj, text, word
from pq_adapters.dashboard.pages.queues import narrowed
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.roles import Role
from pq_core.statistics_request import DIMENSIONS


async def queues(asked: Asked) -> Any:
    """List the queues by name."""
    limit = asked.query["limit"]
    found = narrowed(await asked.pq.aqueues(), search=asked.query.get("search"), after=asked.query.get("after"))
    return {"items": found[:limit], "next": found[limit - 1].name if len(found) > limit else None}


async def pause_queue(asked: Asked) -> Any:
    """Pause a queue."""
    name = asked.path["name"]
    async with asked.dashboard.changing(asked.request, "queue.pause", name) as pq:
        changed = await pq.apause_queue(name, by=asked.request.state.principal.name)
    return {"name": name, "changed": changed}


async def resume_queue(asked: Asked) -> Any:
    """Resume a queue."""
    name = asked.path["name"]
    async with asked.dashboard.changing(asked.request, "queue.resume", name) as pq:
        changed = await pq.aresume_queue(name)
    return {"name": name, "changed": changed}


async def limit_queue(asked: Asked) -> Any:
    """Set the limits of a queue; what is left out is not limited."""
    name, said = asked.path["name"], {"concurrency": asked.body.get("concurrency"), "rate": asked.body.get("rate")}
    async with asked.dashboard.changing(asked.request, "queue.limit", name, **said) as pq:
        changed = await pq.alimit_queue(name, **said)
    return {"name": name, "changed": changed}


async def workers(asked: Asked) -> Any:
    """List the workers."""
    return {"items": await asked.pq.aworkers()}


async def drain(asked: Asked) -> Any:
    """Let a worker end what it runs and stop."""
    worker_id = asked.path["id"]
    async with asked.dashboard.changing(asked.request, "worker.drain", worker_id) as pq:
        if not await pq.adrain_worker(worker_id):
            raise Problem(404, "not found", f"no live worker has the id {worker_id}")
    return {"id": worker_id, "done": True}


async def stop(asked: Asked) -> Any:
    """Let a worker interrupt what it runs and stop."""
    worker_id = asked.path["id"]
    async with asked.dashboard.changing(asked.request, "worker.stop", worker_id) as pq:
        if not await pq.astop_worker(worker_id):
            raise Problem(404, "not found", f"no live worker has the id {worker_id}")
    return {"id": worker_id, "done": True}


async def statistics(asked: Asked) -> Any:
    """Return what attempts came to."""
    query = dict(asked.query)
    if "since" in query:
        query.pop("last", None)
    elif "last" in query:
        query["last"] = timedelta(seconds=query["last"])
    else:
        query["last"] = timedelta(hours=1)
    if "step" in query:
        query["step"] = timedelta(seconds=query["step"])
    found = await asked.pq.astatistics(**query)
    return {
        "items": [
            {
                "time": row.time,
                "queue": row.queue,
                "name": row.name,
                "outcome": row.outcome,
                "count": row.count,
                "wait_seconds": row.wait_seconds,
                "run_seconds": row.run_seconds,
                "cpu_seconds": row.cpu_seconds,
                "wait_p50": row.wait(0.5),
                "wait_p95": row.wait(0.95),
                "run_p50": row.run(0.5),
                "run_p95": row.run(0.95),
                "memory_p50": row.peak_memory(0.5),
                "memory_p95": row.peak_memory(0.95),
                "memory_max": row.peak_memory(1.0),
            }
            for row in found
        ]
    }


async def keys(asked: Asked) -> Any:
    """List the keys."""
    return {"items": await asked.pq.alist_keys()}


async def create_key(asked: Asked) -> Any:
    """Make a key."""
    body = asked.body
    async with asked.dashboard.changing(asked.request, "key.create", name=body["name"], role=body["role"]) as pq:
        made = await pq.acreate_key(
            body["name"],
            role=body["role"],
            expires_at=body.get("expires_at"),
            created_by=asked.request.state.principal.name,
        )
        asked.request.state.audit["id"] = made.id
    asked.dashboard.access.keyring.forget()
    return {"id": made.id, "name": made.name, "role": made.role, "key": made.key}


async def revoke_key(asked: Asked) -> Any:
    """Revoke a key."""
    key_id = asked.path["id"]
    async with asked.dashboard.changing(asked.request, "key.revoke", key_id) as pq:
        if not await pq.arevoke_key(key_id):
            raise Problem(404, "not found", f"there is no key {key_id} that is not revoked")
    asked.dashboard.access.keyring.forget()
    return {"id": key_id, "done": True}


async def audit_log(asked: Asked) -> Any:
    """List what was done, the latest first."""
    limit = asked.query["limit"]
    found = await asked.pq.aaudit_log(limit=limit + 1, before_id=asked.query.get("before_id"))
    return {"items": found[:limit], "next": found[limit - 1].id if len(found) > limit else None}


async def whoami(asked: Asked) -> Any:
    """Say who asks."""
    principal = asked.request.state.principal
    return {"name": principal.name, "role": principal.role, "key_id": principal.key_id}


_NUMBER = {"type": "number"}
_TEXT = {"type": ["string", "null"]}
_PERCENTILE = {"type": ["number", "null"]}
_STATISTICS = answer(
    time={"type": ["string", "null"], "format": "date-time"},
    queue=_TEXT,
    name=_TEXT,
    outcome=_TEXT,
    count={"type": "integer"},
    **dict.fromkeys(("wait_seconds", "run_seconds", "cpu_seconds"), _NUMBER),
    **dict.fromkeys(
        ("wait_p50", "wait_p95", "run_p50", "run_p95", "memory_p50", "memory_p95", "memory_max"), _PERCENTILE
    ),
)
_DONE = answer(id={"type": "integer"}, done={"type": "boolean"})
_QUEUE = {"name": NAME}
_CHANGED = answer(name={"type": "string"}, changed={"type": "boolean"})
_DAYS = 86400 * 366
OPERATIONS = (
    Operation(method="GET", path="/whoami", name="whoami", summary="Whose key this is", role=Role.VIEWER,
        handler=whoami, tag="access", answer=answer(name={"type": "string"}, role={"type": "string"},
            key_id={"type": ["integer", "null"]})),
    Operation(method="GET", path="/queues", name="list_queues", summary="Queues with what waits in them",
        role=Role.VIEWER, handler=queues, tag="queues", answer=page_of("Queue", "string"),
        query={"search": NAME, "after": {**NAME, "description": "only later names: `next` of the page before"},
            "limit": integer(1, 1000, default=500)}),
    Operation(method="POST", path="/queues/{name:path}/pause", name="pause_queue", summary="Nothing of it is started",
        role=Role.OPERATOR, handler=pause_queue, tag="queues", answer=_CHANGED, parameters=_QUEUE),
    Operation(method="POST", path="/queues/{name:path}/resume", name="resume_queue", summary="End its pause",
        role=Role.OPERATOR, handler=resume_queue, tag="queues", answer=_CHANGED, parameters=_QUEUE),
    Operation(method="PUT", path="/queues/{name:path}/limits", name="limit_queue",
        summary="How much of it runs at once and starts in a time; what is left out is not limited", role=Role.OPERATOR,
        handler=limit_queue, tag="queues", answer=_CHANGED, parameters=_QUEUE,
        body=obj({"concurrency": integer(1, 2**31 - 1), "rate": text(least=1, description="as 10/s, 100/m, 1/30s")})),
    Operation(method="GET", path="/workers", name="list_workers", summary="Workers with a lease", role=Role.VIEWER,
        handler=workers, tag="workers", answer=list_of("Worker")),
    Operation(method="POST", path="/workers/{id}/drain", name="drain_worker",
        summary="It ends what it runs, and stops", role=Role.ADMIN, handler=drain, tag="workers", answer=_DONE,
        parameters={"id": ID}),
    Operation(method="POST", path="/workers/{id}/stop", name="stop_worker",
        summary="It interrupts what it runs, puts it back, and stops", role=Role.ADMIN, handler=stop, tag="workers",
        answer=_DONE, parameters={"id": ID}),
    Operation(method="GET", path="/statistics", name="statistics", summary="What attempts came to", role=Role.VIEWER,
        handler=statistics, tag="statistics",
        answer={"type": "object", "properties": {"items": {"type": "array", "items": _STATISTICS}},
            "required": ["items"]},
        query={"by": array(word(*DIMENSIONS), most=4, least=1), "last": integer(60, _DAYS), "since": TIME,
            "until": TIME, "step": integer(60, _DAYS, description="seconds, whole minutes, with by=time"),
            "queue": NAME, "name": NAME, "outcome": NAME}),
    Operation(method="GET", path="/keys", name="list_keys", summary="Keys, revoked ones included", role=Role.ADMIN,
        handler=keys, tag="access", answer=list_of("Key")),
    Operation(method="POST", path="/keys", name="create_key", summary="Make a key; it is shown this once",
        role=Role.ADMIN, handler=create_key, tag="access", status=201,
        answer=answer(id={"type": "integer"}, name={"type": "string"}, role={"type": "string"}, key={"type": "string"}),
        body=obj({"name": text(least=1, most=200), "role": word("viewer", "operator", "admin"), "expires_at": TIME},
            required=("name", "role"))),
    Operation(method="DELETE", path="/keys/{id}", name="revoke_key", summary="Revoke a key", role=Role.ADMIN,
        handler=revoke_key, tag="access", answer=_DONE, parameters={"id": ID}),
    Operation(method="GET", path="/audit", name="audit_log", summary="Who did what, the latest first",
        role=Role.ADMIN, handler=audit_log, tag="access", answer=page_of("AuditEntry"),
        query={"limit": integer(1, 500, default=50), "before_id": ID}),
)  # fmt: skip
