"""The logging plugin: records of a task say whose they are, as fields, as JSON, and in structlog's context."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pq_hooks.logging import JSONFormatter, TaskFields

PROGRAM = """
import logging, sys, threading
import {imported}
from pq_core import PQ
from pq_hooks.logging import JSONFormatter, TaskFields, TaskLogging

handler = logging.StreamHandler(sys.stdout)
handler.setFormatter({formatter})
handler.addFilter(TaskFields())
logging.basicConfig(level=logging.INFO, handlers=[handler])
pq = PQ(plugins=[TaskLogging])
log = logging.getLogger("shop")

@pq.task(name="pack", queue="store", max_attempts=1)
def pack(order):
    {body}

pq.enqueue(pack.call(1))
pq.run_worker(until_empty=True, tasks_per_child={tasks_per_child})
log.info("after")
print(pq.get_task(1).status)
"""


def run(
    database: str,
    body: str,
    *,
    formatter: str = "JSONFormatter()",
    imported: str = "logging",
    tasks_per_child: int = 1,
) -> list[str]:
    """Run a worker whose task has this body; return the lines of its output but those of pq's own log."""
    code = PROGRAM.format(body=body, formatter=formatter, imported=imported, tasks_per_child=tasks_per_child)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PQ_DATABASE_URL": database},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if "pq.worker" not in line]


@pytest.mark.parametrize("tasks_per_child", [1, 5])
def test_records_of_a_task_say_whose_they_are(database: str, tasks_per_child: int) -> None:
    said = run(
        database,
        'log.info("packing %s", order, extra={"order": order})',
        tasks_per_child=tasks_per_child,
    )

    within, after, status = json.loads(said[0]), json.loads(said[1]), said[2]
    assert status == "completed"
    assert {name: within[name] for name in ("task_id", "task", "attempt", "queue", "order", "message", "level")} == {
        "task_id": 1,
        "task": "pack",
        "attempt": 1,
        "queue": "store",
        "order": 1,
        "message": "packing 1",
        "level": "info",
    }
    assert "task_id" not in after


def test_threads_and_exceptions_of_a_task_are_marked_too(database: str) -> None:
    body = """
    def other():
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("no")
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()"""

    record = json.loads(run(database, body)[0])

    assert record["task_id"] == 1
    assert record["exception"].endswith("ZeroDivisionError: division by zero")


def test_fields_can_be_named_in_a_format(database: str) -> None:
    form = "%(name)s %(pq_task_name)s[%(pq_task_id)s] #%(pq_attempt)s: %(message)s"

    said = run(database, 'log.info("packing")', formatter=f"logging.Formatter({form!r})")

    assert said == ["shop pack[1] #1: packing", "shop None[None] #None: after", "completed"]


def test_extra_fields_of_the_task_do_not_collide(database: str) -> None:
    said = run(database, 'log.info("x", extra={"task_id": "mine", "attempt": 9, "queue": "own"})')

    assert said[-1] == "completed"
    assert json.loads(said[0])["task_id"] == 1


def test_structlog_has_the_fields_in_its_context(database: str) -> None:
    pytest.importorskip("structlog")
    body = "print(sorted(structlog.contextvars.get_contextvars().items()))"

    said = run(database, body, imported="structlog, structlog.contextvars")

    assert said[0] == "[('attempt', 1), ('queue', 'store'), ('task', 'pack'), ('task_id', 1)]"


def record(**given: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "shop", "levelname": "WARNING", "msg": "über %s", "args": ("b",), **given})


def test_json_formatter_takes_what_json_does_not_know() -> None:
    line = JSONFormatter().format(record(where=Path("/tmp"), stack_info="Stack:"))

    told = json.loads(line)
    assert "über" in line
    assert (told["where"], told["stack"], told["level"]) == ("/tmp", "Stack:", "warning")
    assert "task_id" not in told


def test_filter_adds_fields_where_no_worker_runs() -> None:
    ours = record()

    assert TaskFields().filter(ours)

    assert logging.Formatter("%(pq_task_id)s %(message)s").format(ours) == "None über b"
