"""The pages: HTML for people, one module each. All of them can be read without scripts."""

from __future__ import annotations

from starlette.routing import BaseRoute

from pq_adapters.dashboard.pages import (
    calls,
    failures,
    functions,
    keys,
    limits,
    live,
    overview,
    queues,
    run,
    schedule,
    schedules,
    task,
    tasks,
    tasks_bulk,
    workers,
)
from pq_adapters.dashboard.rendering import prepare as prepare


def routes() -> list[BaseRoute]:
    """Return the routes of all pages, each made by ``routes.route``."""
    modules = (
        overview, tasks, tasks_bulk, task, failures, schedules, schedule, queues, limits, workers, functions, run, keys,
        calls, live,
    )  # fmt: skip
    return [route for module in modules for route in module.routes()]
