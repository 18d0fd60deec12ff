"""The stream of events that live pages listen to."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from pq_adapters.dashboard.live import CLIENTS, NEEDS, poller_of
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.routes import dashboard_of, route


async def live(request: Request) -> Response:
    """Stream the parts of ``?topic=…``, or of the task ``?task=…``."""
    given = request.query_params
    task = given.get("task")
    if task is not None and not (task.isascii() and task.isdecimal() and len(task) < 19):
        raise Problem(422, "this can't be done", f"task={task!r} is no id")
    topic = "task" if task is not None else given.get("topic", "")
    if topic not in NEEDS or (topic == "task" and task is None):
        raise Problem(422, "this can't be done", f"topic={topic!r}: give one of overview, queues, workers")
    poller = poller_of(dashboard_of(request))
    if poller.watching >= CLIENTS:
        raise Problem(503, "too many live pages", "this process serves no more", headers={"Retry-After": "30"})
    return StreamingResponse(
        poller.stream(request, topic, None if task is None else int(task), given.get("seen")),
        media_type="text/event-stream",
        # A proxy that collects the answer before it passes it on would make it late.
        headers={"X-Accel-Buffering": "no"},
    )


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [route("/live", live, role="viewer")]
