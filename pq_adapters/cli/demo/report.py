"""The demo's end: is everything as it has to be, and what did it cost."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pq_adapters.cli.demo import library, limits, tables
from pq_adapters.cli.demo.library import Measured
from pq_adapters.cli.demo.run import MISBEHAVING, Enqueued, Worked
from pq_adapters.cli.output import print_table, size
from pq_core.types import TaskStatus

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.types import TaskRecord

_LOG_LINES = 40
LIMITED = ("demo.turn", limits.WEBHOOK)
"""Tasks that are looked at apart: see limits.py."""


def directly(files: Sequence[Path]) -> tuple[dict[str, Measured], float]:
    """Count the same in this process, one file after the other; with the seconds it took."""
    start = time.perf_counter()
    with _no_collection():
        found = {str(path): library.measure(path) for path in files}
    return found, time.perf_counter() - start


@contextmanager
def _no_collection() -> Iterator[None]:
    """Spare the collector the syntax trees, which hold no cycles: half of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def disagreements(found: Sequence[TaskRecord], written: dict[str, Measured], counted: dict[str, Measured]) -> list[str]:
    """Return everything that is not as it has to be, in words."""
    problems = []
    for task in found:
        expected = MISBEHAVING.get(task.name, "succeeded")
        status = TaskStatus.COMPLETED if expected == "succeeded" else TaskStatus.FAILED
        if task.status is not status or task.outcome is None or task.outcome.value != expected:
            problems.append(
                f"task {task.id} {task.name}: {task.status} ({task.outcome}), not {status} ({expected})"
                + (f": {task.error.splitlines()[-1]}" if task.error else "")
            )
    if len(found) != len(counted) + len(MISBEHAVING):
        problems.append(f"there are {len(found)} tasks, not {len(counted) + len(MISBEHAVING)}")
    for path in sorted(counted.keys() | written.keys()):
        ours, theirs = counted.get(path), written.get(path)
        if ours != theirs:
            problems.append(f"{path}: the table says {theirs}, a direct count {ours}")
    return problems


def tell(
    pq: PQ,
    connection: tables.Connection,
    enqueued: Enqueued,
    files: Sequence[Path],
    worked: Worked,
    calling: limits.Calling | None,
) -> bool:
    """Print how it went; True if everything agrees."""
    run = enqueued.run
    found = pq.list_tasks(limit=enqueued.tasks + 1000)
    outcomes = Counter(task.outcome.value if task.outcome else task.status.value for task in found)
    ended = sum(task.status.finished for task in found)
    click.echo(
        f"{ended} tasks in {worked.seconds:.1f} s: {ended / worked.seconds:.0f} tasks/s, "
        "the start of the worker included"
    )
    click.echo(f"outcomes: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.most_common())}")
    click.echo("the five that took most memory above the worker's image:")
    print_table(("task", "what", "memory", "wall", "cpu"), [_ledger(task) for task in _hungriest(found)], empty="  -")
    counted, seconds = directly(files)
    written = tables.read(connection, pq.schema, run)
    problems = disagreements([task for task in found if task.name not in LIMITED], written, counted)
    problems += limits.tell(pq, connection, run, found, calling)
    if tables.runs(connection, pq.schema) != [(run, len(files))]:
        problems.append("the run's own row, from the transaction that enqueued the tasks, is not there once")
    if worked.trouble:
        problems.insert(0, worked.trouble)
    total = sum(written.values(), Measured(0, 0, 0))
    click.echo(
        f"the table: {len(written)} files, {total.lines:,} lines, {total.functions:,} functions, "
        f"{total.classes:,} classes"
    )
    if not problems:
        click.echo(f"check: equal to a direct count in this process ({seconds:.1f} s); all is well")
        worked.log.unlink(missing_ok=True)
        return True
    for problem in problems[:20]:
        click.echo(f"WRONG: {problem}", err=True)
    if len(problems) > 20:
        click.echo(f"WRONG: and {len(problems) - 20} more", err=True)
    _show_log(worked.log)
    return False


def _show_log(log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines()
    click.echo(f"the worker's log, in full in {log}:", err=True)
    for line in lines[-_LOG_LINES:]:
        click.echo(f"  {line}", err=True)


def _hungriest(found: Sequence[TaskRecord]) -> list[TaskRecord]:
    with_ledger = [task for task in found if task.ledger]
    return sorted(with_ledger, key=lambda task: task.ledger["peak_memory"] if task.ledger else 0, reverse=True)[:5]


def _ledger(task: TaskRecord) -> tuple[int, str, str, str, str]:
    ledger = task.ledger or {}
    what = task.name
    if task.name == "demo.measure":
        what = str(Path(task.payload["args"][1]).relative_to(library.root()))
    cpu = ledger.get("cpu_user", 0.0) + ledger.get("cpu_system", 0.0)
    return task.id, what, size(ledger.get("peak_memory", 0)), f"{ledger.get('wall', 0.0):.3f} s", f"{cpu:.3f} s"
