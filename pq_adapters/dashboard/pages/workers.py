"""Workers: who is alive, what each runs now and for how long, and telling one to stop."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.problems import Problem
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


async def ask_to_stop(request: Request) -> Response:
    """Show what stopping a worker would interrupt."""
    worker_id = request.path_params["worker_id"]
    [found] = await ask(dashboard_of(request).pq, "live", {"tasks": []})
    worker = next((one for one in found["workers"] if one["id"] == worker_id), None)
    if worker is None:
        raise Problem(404, "no such worker", f"No worker has the id {worker_id}: it has left.")
    return await page(request, "worker_stop.html", here="workers", worker=worker)


async def stop(request: Request) -> Response:
    """Let a worker interrupt what it runs and stop."""
    worker_id = request.path_params["worker_id"]
    async with dashboard_of(request).changing(request, "worker.stop", worker_id) as pq:
        done = await pq.astop_worker(worker_id)
        request.state.audit["done"] = done
    return back(request, "workers", done="stopping" if done else "not-draining")


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/workers", workers, role="viewer"),
        route("/workers/{worker_id:int}/drain", drain, role="admin", methods=["POST"], name="worker_drain"),
        route("/workers/{worker_id:int}/stop", ask_to_stop, role="admin", name="worker_stop_ask"),
        route("/workers/{worker_id:int}/stop", stop, role="admin", methods=["POST"], name="worker_stop"),
    ]
