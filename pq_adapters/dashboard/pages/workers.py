"""Workers: who is alive, what each runs now and for how long, and telling one to stop."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route


async def workers(request: Request) -> Response:
    """Show all workers."""
    [found] = await ask(dashboard_of(request).pq, "live", {"tasks": []})
    return await page(request, "workers.html", here="workers", **context(found))


def context(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the list of workers needs."""
    alive = [worker for worker in found["workers"] if worker["alive"]]
    return {
        "workers": found["workers"],
        "more": found["more"],
        "alive": len(alive),
        "capacity": sum(worker["concurrency"] for worker in alive),
        "busy": sum(worker["running"] for worker in alive),
    }


async def drain(request: Request) -> Response:
    """Let a worker end what it runs and stop."""
    worker_id = request.path_params["worker_id"]
    async with dashboard_of(request).changing(request, "worker.drain", worker_id) as pq:
        done = await pq.adrain_worker(worker_id)
        request.state.audit["done"] = done
    return back(request, "workers", done="draining" if done else "not-draining")


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/workers", workers, role="viewer"),
        route("/workers/{worker_id:int}/drain", drain, role="admin", methods=["POST"], name="worker_drain"),
    ]
