"""One task: how it went, what it was given, what it said, and what can be done with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import words
from pq_adapters.dashboard.live import state_of
from pq_adapters.dashboard.pages.tasks import PRIORITIES
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route

TONES = {
    "succeeded": "ok", "raised": "bad", "timed_out": "bad", "out_of_memory": "bad", "crashed": "bad", "lost": "warn",
    "interrupted": "warn", "released": "warn", "snoozed": "violet", "cancelled": "",
}  # fmt: skip
ICONS = {
    "succeeded": "completed", "raised": "failed", "timed_out": "clock", "out_of_memory": "failed", "crashed": "bolt",
    "lost": "lost", "interrupted": "paused", "released": "right", "snoozed": "snoozed", "cancelled": "cancelled",
}  # fmt: skip
FINISHED = ("completed", "failed", "cancelled")


async def task(request: Request) -> Response:
    """Show one task."""
    found = await ask(dashboard_of(request).pq, "task", {"id": request.path_params["task_id"]})
    if not found:
        raise Problem(
            404, "no such task", f"There is no task {request.path_params['task_id']}: deleted, or never there."
        )
    one: dict[str, Any] = found[0]["task"]
    options = one["options"] or {}
    if one["status"] == "running" and any(each["output"] == one["output"] for each in found[0]["attempts"]):
        one["output"] = None  # of the attempt before: this one has printed nothing yet
    one["failing"] = one["status"] == "pending" and one["outcome"] in words.FAILURES
    # A payload that is not arguments by name and place (somebody else's, or not to be read) is shown as it is.
    given = one["payload"] if isinstance(one["payload"], dict) else {}
    plain = isinstance(given.get("args", []), list) and isinstance(given.get("kwargs", {}), dict)
    plain = plain and set(given) <= {"args", "kwargs"}
    return await page(
        request,
        "task.html",
        here="tasks",
        task=one,
        options=options,
        args=given.get("args", []) if plain else [],
        kwargs=given.get("kwargs", {}) if plain else {},
        strange=None if plain and given else one["payload"],
        worker=found[0]["worker"],
        schedule=found[0]["schedule"],
        state=state_of(one),
        timeline=timeline(one, found[0]["attempts"], options),
        trace=traceback_lines(one["error"], bad=one["status"] == "failed" or one["failing"]),
        priorities=PRIORITIES,
        finished=one["status"] in FINISHED,
    )


def timeline(task: dict[str, Any], attempts: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what happened, in order: each recorded attempt, and the run that is not recorded on its own."""
    limit = options.get("memory_limit")
    entries = [dict(one) for one in attempts]
    recorded = {one["fence"] for one in attempts}
    if task["outcome"] and task["started_at"] and task["completed_at"] and task["fence"] not in recorded:
        entries.append({**task, "number": task["attempts"], "finished_at": task["completed_at"]})
    for entry in entries:
        kind = entry["outcome"]
        entry["tone"], entry["icon"] = TONES.get(kind, ""), ICONS.get(kind, "info")
        entry["said"] = _said(entry, limit=limit, hidden=task["sensitive"])
        entry["bad"] = kind in words.FAILURES
        entry["trace"] = _further(entry)
        started, ended = words.moment(entry["started_at"]), words.moment(entry["finished_at"])
        entry["took"] = (entry["ledger"] or {}).get("wall")
        if entry["took"] is None and started and ended:
            entry["took"] = (ended - started).total_seconds()
    return entries


def _said(entry: dict[str, Any], *, limit: int | None, hidden: bool) -> str:
    if hidden and entry["outcome"] == "raised":
        # The message is nobody's business; what kind of exception it was is the task's author's.
        kind = words.brief(words.exception(entry["error"]) or "").partition(":")[0].strip()
        return kind if kind and " " not in kind and kind != "Traceback" else "raised an exception"
    return words.outcome(entry["outcome"], entry["error"], entry["ledger"], limit)


def _further(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of what an attempt left as text, unless all of it is said already."""
    said = not entry["bad"] and (entry["error"] or "").strip() in entry["said"]
    return [] if said else traceback_lines(entry["error"], bad=entry["bad"])


def traceback_lines(error: str | None, *, bad: bool = True) -> list[tuple[str, str]]:
    """Return the lines of a text, each with what it is: ``frame``, ``final`` (what a failure came to) or plain."""
    text = (error or "").rstrip("\n")
    if not text:
        return []
    final = words.exception(text, limit=10**9)
    found = text.split("\n")
    last = max((i for i, line in enumerate(found) if line.strip() == final), default=0)
    return [
        ("final" if i == last and bad else "frame" if line.lstrip().startswith(("File ", "Traceback")) else "", line)
        for i, line in enumerate(found)
    ]


async def retry(request: Request) -> Response:
    """Run a finished task again."""
    task_id = request.path_params["task_id"]
    async with dashboard_of(request).changing(request, "task.retry", task_id) as pq:
        done = await pq.aretry(task_id)
        request.state.audit["done"] = done
    return back(request, "task", done="retried" if done else "not-retried", task_id=task_id)


async def cancel(request: Request) -> Response:
    """Cancel a task."""
    task_id = request.path_params["task_id"]
    async with dashboard_of(request).changing(request, "task.cancel", task_id) as pq:
        done = await pq.acancel(task_id, reason=f"cancelled by {request.state.principal.name}")
        request.state.audit["done"] = done
    return back(request, "task", done="cancelled" if done else "not-cancelled", task_id=task_id)


async def reschedule(request: Request) -> Response:
    """Give a pending task another time or priority."""
    task_id = request.path_params["task_id"]
    form = await request.form(max_files=0, max_fields=10)
    changes = changes_in(str(form.get("run_at") or ""), str(form.get("run_in") or ""), str(form.get("priority") or ""))
    if not changes:
        raise Problem(422, "this can't be done", "Say when it shall run, or with which priority.")
    async with dashboard_of(request).changing(
        request, "task.reschedule", task_id, **{name: str(value) for name, value in changes.items()}
    ) as pq:
        done = await pq.areschedule(task_id, **changes)
        request.state.audit["done"] = done
    return back(request, "task", done="rescheduled" if done else "not-rescheduled", task_id=task_id)


def changes_in(run_at: str, run_in: str, priority: str) -> dict[str, Any]:
    """Return what fields say of a task's time and priority. Raises Problem 422."""
    changes: dict[str, Any] = {}
    try:
        if run_at:
            at = datetime.fromisoformat(run_at)
            changes["run_at"] = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        elif run_in:
            changes["run_in"] = timedelta(seconds=float(run_in))
        if priority:
            changes["priority"] = int(priority)
    except (ValueError, OverflowError):
        raise Problem(
            422, "this can't be done", f"{run_at or run_in or priority!r}: give a time in UTC, or a whole number"
        ) from None
    return changes


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/tasks/{task_id:int}", task, role="viewer"),
        route("/tasks/{task_id:int}/retry", retry, role="operator", methods=["POST"], name="task_retry"),
        route("/tasks/{task_id:int}/cancel", cancel, role="operator", methods=["POST"], name="task_cancel"),
        route("/tasks/{task_id:int}/reschedule", reschedule, role="operator", methods=["POST"], name="task_reschedule"),
    ]
