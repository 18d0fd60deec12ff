"""One task in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pq_adapters.cli.output import block, one_line, print_table, size, when
from pq_core.types import AttemptRecord, TaskRecord


def last_line(text: str | None, *, limit: int = 100) -> str | None:
    """Return the last line that says something: of a traceback, the exception."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not lines:
        return None
    # A death in words comes first and its stacks follow; a traceback has its exception at the end.
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def arguments_text(task: TaskRecord, *, limit: int = 2000) -> str:
    """Return the stored arguments as a call would have them."""
    task = task.shown()
    payload = task.payload if isinstance(task.payload, Mapping) else {}
    args, kwargs = payload.get("args") or [], payload.get("kwargs") or {}
    words = [_json(value) for value in args] if isinstance(args, list) else [_json(args)]
    words += [f"{key}={_json(value)}" for key, value in kwargs.items()] if isinstance(kwargs, Mapping) else []
    text = one_line(", ".join(words))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def describe(task: TaskRecord, attempts: Sequence[AttemptRecord]) -> None:
    """Print everything that is known of a task, without what is not said or not to be shown."""
    task = task.shown()
    outcome = f" ({task.outcome.value})" if task.outcome is not None else ""
    click.echo(f"task {task.id}: {one_line(task.name)}({arguments_text(task)})")
    lines: dict[str, Any] = {
        "status": f"{task.status.value}{outcome}",
        "queue": f"{task.queue}, priority {task.priority}",
        "client id": task.client_id,
        "version": task.version if task.version != 1 else None,
        "run at": when(task.run_at),
        "created": when(task.created_at),
        "started": when(task.started_at),
        "finished": when(task.completed_at),
        "cancel asked": when(task.cancel_requested_at),
        "attempts": f"{task.attempts} of {task.max_attempts}{_uncounted(task)}",
        "timeout": None if task.max_runtime_seconds is None else f"{task.max_runtime_seconds:g} s",
        "worker": task.worker_id,
        "progress": _progress(task),
        "headers": _json(task.headers) if task.headers else None,
        "used": ledger_text(task.ledger),
        "result": _json(task.result) if task.result is not None else None,
    }
    for label, value in lines.items():
        if value is not None:
            click.echo(f"  {label + ':':<14}{one_line(str(value))}")
    for label, text in (("error", task.error), ("output", task.output)):
        if text:
            click.echo(f"  {label}:")
            click.echo("\n".join(f"    {line}" for line in block(text).splitlines()))
    if attempts:
        click.echo("  recorded attempts:")
        columns = ("number", "outcome", "worker", "started", "ended", "used", "error")
        rows = [
            (
                one.number,
                one.outcome.value,
                one.worker_id,
                when(one.started_at),
                when(one.finished_at),
                ledger_text(one.ledger) or "",
                last_line(one.error) or "",
            )
            for one in attempts
        ]
        print_table(columns, rows, empty="")


def ledger_text(ledger: Mapping[str, Any] | None) -> str | None:
    """Return what an attempt used, in words."""
    if not ledger:
        return None
    words = []
    if (wall := ledger.get("wall")) is not None:
        words.append(f"{wall:.3f} s")
    if "cpu_user" in ledger and "cpu_system" in ledger:
        words.append(f"{ledger['cpu_user'] + ledger['cpu_system']:.3f} s cpu")
    if (peak := ledger.get("peak_memory")) is not None:
        words.append(f"{size(peak)} above the image")
    if (signal := ledger.get("signal")) is not None:
        words.append(f"signal {signal}")
    if (code := ledger.get("exit_code")) is not None:
        words.append(f"exit status {code}")
    return ", ".join(words) or None


def _uncounted(task: TaskRecord) -> str:
    words = [f"{count} {what}" for count, what in ((task.losses, "lost"), (task.snoozes, "snoozed")) if count]
    return f" (and {', '.join(words)})" if words else ""


def _progress(task: TaskRecord) -> str | None:
    if task.progress is None:
        return None
    return f"{task.progress:.0%}{' ' + task.progress_message if task.progress_message else ''}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
