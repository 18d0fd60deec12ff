"""What is concluded from what is left of a child."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pq_core.types import ClaimedTask, Outcome
from pq_core.worker.shared import StopReason
from pq_core.worker.verdict import LONGEST_DELAY, Evidence, judge

NOW = datetime.now(UTC)
TASK = ClaimedTask(
    id=1,
    name="w.add",
    queue="default",
    priority=50,
    fence=1,
    number=1,
    max_attempts=1,
    payload="{}",
    headers={},
    version=1,
    run_at=NOW,
    created_at=NOW,
    started_at=NOW,
)
EXITED = Evidence(
    end=None,
    status=0,
    reason=StopReason.NONE,
    killed=False,
    oom_killed=False,
    broken=None,
    stacks="",
    peak=0,
    timeout=None,
)


def evidence(end: dict[str, Any] | None = None, **changes: Any) -> Evidence:
    return replace(EXITED, end=end, **changes)


@pytest.mark.parametrize(
    ("found", "outcome", "words"),
    [
        (evidence({"how": "succeeded", "result": 3}), Outcome.SUCCEEDED, None),
        (evidence({"how": "raised", "error": "ValueError"}), Outcome.RAISED, "ValueError"),
        (evidence({"how": "raised", "error": "MemoryError", "memory": True}), Outcome.OUT_OF_MEMORY, "MemoryError"),
        (evidence({"how": "snoozed", "after": 3.0, "error": "later"}), Outcome.SNOOZED, "later"),
        (evidence({"how": "cancelled", "error": "no need"}), Outcome.CANCELLED, "no need"),
        (evidence({"how": "released", "error": "unknown"}), Outcome.RELEASED, "unknown"),
        (evidence(status=3 << 8), Outcome.CRASHED, "exited with status 3"),
        (evidence(status=0), Outcome.CRASHED, "without reporting"),
        (evidence(status=signal.SIGSEGV), Outcome.CRASHED, "SIGSEGV"),
        (evidence(status=signal.SIGKILL), Outcome.CRASHED, "SIGKILL"),
        (evidence(status=signal.SIGKILL, oom_killed=False), Outcome.CRASHED, "SIGKILL"),
        (evidence(status=signal.SIGKILL, oom_killed=True), Outcome.OUT_OF_MEMORY, "by the kernel"),
        (evidence(status=signal.SIGTERM, oom_killed=True), Outcome.CRASHED, "SIGTERM"),
        (evidence({"how": "succeeded"}, broken="noise"), Outcome.CRASHED, "broke the channel"),
        (evidence({"how": "flying"}), Outcome.CRASHED, "exited"),
    ],
)
def test_without_a_stop_the_child_or_its_end_decides(found: Evidence, outcome: Outcome, words: str | None) -> None:
    verdict = judge(TASK, found)

    assert verdict.outcome is outcome
    assert words is None or words in (verdict.error or "")


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (StopReason.TIMEOUT, Outcome.TIMED_OUT),
        (StopReason.CANCEL, Outcome.CANCELLED),
        (StopReason.INTERRUPT, Outcome.INTERRUPTED),
        (StopReason.LOST, Outcome.LOST),
    ],
)
def test_what_was_stopped_ended_by_that(reason: StopReason, outcome: Outcome) -> None:
    raised = evidence({"how": "raised", "error": "KeyError in a finally"}, reason=reason, timeout=3)
    killed = evidence(status=signal.SIGKILL, reason=reason, killed=True, stacks="in spin", timeout=3)
    returned = evidence({"how": "succeeded", "result": 5}, reason=reason, timeout=3)

    assert judge(TASK, raised).outcome is outcome
    assert "KeyError in a finally" in (judge(TASK, raised).error or "")
    assert judge(TASK, killed).outcome is outcome
    assert "was killed" in (judge(TASK, killed).error or "")
    assert "in spin" in (judge(TASK, killed).error or "")
    assert (judge(TASK, returned).outcome, judge(TASK, returned).result) == (Outcome.SUCCEEDED, 5)


@pytest.mark.parametrize(
    ("said", "after"),
    [
        (3, 3.0),
        (0.5, 0.5),
        (-1, 0.0),
        (1e308, LONGEST_DELAY),
        (float("inf"), LONGEST_DELAY),
        (float("nan"), None),
        (10**400, LONGEST_DELAY),
        (True, None),
        ("3", None),
        (None, None),
        ([], None),
    ],
)
def test_delay_is_one_that_the_database_can_add(said: Any, after: float | None) -> None:
    assert judge(TASK, evidence({"how": "snoozed", "after": said})).after == after


def test_limits_are_named() -> None:
    task = replace(TASK, options={"memory_limit": 64 * 2**20})

    error = judge(task, evidence({"how": "raised", "memory": True, "error": "MemoryError"}, peak=60 * 2**20)).error
    assert "memory limit 64 MiB reached at 60 MiB" in (error or "")
    assert "timed out after 2.5 s" in (judge(TASK, evidence(reason=StopReason.TIMEOUT, timeout=2.5)).error or "")


def test_equal_crashes_have_one_fingerprint() -> None:
    first, second = (judge(TASK, evidence(status=signal.SIGSEGV, stacks=stacks)) for stacks in ("here", "there"))
    other = judge(TASK, evidence(status=3 << 8))

    assert first.fingerprint == second.fingerprint != other.fingerprint
