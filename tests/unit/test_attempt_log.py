"""What the worker's log says of attempts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from pq_core.types import AttemptOutcome, Outcome, TaskStatus
from pq_core.worker.attempt_log import log_attempt, logger, place
from pq_hooks.logging import JSONFormatter
from tests.unit.test_feeding import claimed

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/billing/tasks.py", line 12, in send
    client.post(order)
  File "/srv/venv/lib/python3.13/site-packages/httpx/_client.py", line 99, in post
    raise ConnectError("no route")
httpx.ConnectError: no route
while sending order 7
"""


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", found.append)
    # Other tests of this process may have set the level of the log, or switched all logging off below one.
    level, off = logger.level, logging.root.manager.disable
    logging.disable(logging.NOTSET)
    monkeypatch.setattr(logger, "disabled", False)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)
    logging.disable(off)


def ended(outcome: Outcome, status: TaskStatus, **more: object) -> AttemptOutcome:
    return AttemptOutcome(outcome=outcome, status=status, final=status.finished, **more)  # type: ignore[arg-type]


RAISED = ended(Outcome.RAISED, TaskStatus.PENDING, retry_in=2.0, error=TRACEBACK, exception_type="httpx.ConnectError")


def test_failure_names_exception_place_and_what_comes_next(records: list[logging.LogRecord]) -> None:
    log_attempt(claimed(7).task, RAISED)

    (record,) = records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"task 7 ({claimed(7).task.name}) attempt 1 of 1 raised httpx.ConnectError: no route"
        " (billing/tasks.py:12 in send); it runs again in 2 s"
    )
    line = json.loads(JSONFormatter().format(record))
    assert (line["task_id"], line["outcome"], line["exception_type"]) == (7, "raised", "httpx.ConnectError")


def test_whole_traceback_is_an_option(records: list[logging.LogRecord]) -> None:
    log_attempt(claimed(7).task, RAISED, traceback=True)
    assert records[0].getMessage().endswith(TRACEBACK.rstrip())


FAILED, PENDING, CANCELLED = TaskStatus.FAILED, TaskStatus.PENDING, TaskStatus.CANCELLED
ENDS = [
    (
        ended(Outcome.TIMED_OUT, FAILED, error="timed out after 3 s\nstacks"),
        "ended as timed_out: timed out after 3 s; ",
    ),
    (ended(Outcome.CRASHED, FAILED), "ended as crashed; the task is failed"),
    (
        ended(Outcome.SNOOZED, PENDING, retry_in=60.0, error="not yet"),
        "ended as snoozed: not yet; it runs again in 60 s",
    ),
    (ended(Outcome.CANCELLED, CANCELLED), "ended as cancelled; the task is cancelled"),
]


@pytest.mark.parametrize(("outcome", "words"), ENDS)
def test_each_outcome_has_its_level(records: list[logging.LogRecord], outcome: AttemptOutcome, words: str) -> None:
    log_attempt(claimed(1).task, outcome)
    assert (records[0].levelno == logging.WARNING) == (outcome.status is FAILED)
    assert words in records[0].getMessage()


def test_place_is_the_applications() -> None:
    assert place("no traceback") == ""
    installed = '  File "/venv/lib/python3.13/site-packages/shop/tasks.py", line 3, in pay\n'
    assert place(installed) == "shop/tasks.py:3 in pay"
    ours = '  File "/venv/lib/python3.13/site-packages/pq_core/payload.py", line 3, in decode\n'
    assert place(ours) == ""
    grouped = '  | File "/srv/shop/one.py", line 3, in <module>\n'
    assert place(grouped) == "shop/one.py:3 in <module>"


GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "/srv/shop/tasks.py", line 3, in send
  | ExceptionGroup: all failed (1 sub-exception)
  +-+---------------- 1 ----------------
    | ValueError: ValueErrors are many
    +------------------------------------
"""
OWN = """Traceback (most recent call last):
  File "/srv/shop.py", line 3, in send
Empty: nothing to send
Empty
"""


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [("ExceptionGroup", GROUP, "ExceptionGroup: all failed"), ("__main__.Empty", OWN, "Empty")],
)
def test_groups_and_exceptions_of_the_program_are_named(
    records: list[logging.LogRecord], kind: str, error: str, words: str
) -> None:
    log_attempt(claimed(7).task, ended(Outcome.RAISED, FAILED, error=error, exception_type=kind))
    assert f"raised {words}" in records[0].getMessage()
