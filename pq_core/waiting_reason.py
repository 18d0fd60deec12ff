"""Why a task that somebody waits for has not ended: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reason(found: Mapping[str, Any]) -> str | None:
    """Return what stands in the task's way, and what to do; None where nothing is known that does."""
    if found["status"] == "running":
        return "it runs"
    if found["status"] not in ("pending", "blocked"):
        return None
    name, queue, due_in = found["name"], found["queue"], found["due_in"]
    if not found["workers"]:
        return "no worker is alive: pq worker APP"
    if not found["serving"]:
        return f"no live worker serves the queue {queue!r}: pq worker APP --queues {queue}"
    if not found["of_priority"]:
        return f"no live worker of the queue {queue!r} takes its priority: see their --priorities"
    if not found["knowing"]:
        what = f"{name} in version {found['version']}"
        return f"no live worker of the queue {queue!r} knows {what}: deploy its code there"
    if found["paused"]:
        return f"the queue {queue!r} is paused: pq queues resume {queue}"
    if due_in is not None and due_in > 0:
        return f"it is due in {due_in:.3g} s"
    if found["status"] == "blocked":
        return "it waits for a limit of its queue, its function or its concurrency_key"
    return "workers that could take it have not come to it yet"
