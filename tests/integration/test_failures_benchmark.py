"""Our side of the benchmark of failures: it runs, and counts from the log of the tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.failure_report import FailureReport, Outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_ours_loses_nothing_and_enqueues_nothing_that_was_rolled_back(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "failures", "--systems", "pq", "--only", "worker,crash,rollback"]
    done = subprocess.run(
        [*command, "--tasks", "18", "--seconds", "0.2", "--bound", "60", "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=110,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    killed, crashed, rolled_back = json.loads((tmp_path / "failures.json").read_text())["outcomes"]
    assert (killed["enqueued"], killed["never_finished"], killed["on_record"]) == (18, 0, "18 completed")
    assert (crashed["enqueued"], crashed["never_finished"], crashed["starts"]) == (19, 0, 1)
    assert crashed["on_record"] == "18 completed, 1 failed"
    assert (rolled_back["enqueued"], rolled_back["never_finished"], rolled_back["uncommitted"]) == (9, 0, 0)
    assert "| the worker's process is killed | pq | 18 | 0 |" in done.stdout


def test_what_a_system_cannot_take_has_a_reason_and_no_number() -> None:
    report = FailureReport("failures", {})
    report.outcomes = [Outcome(failure="rollback", system="other", on_record="not possible: no transactions")]

    last = report.table().splitlines()[-1]

    assert last == "| rollback | other | – | – | – | – | not possible: no transactions |  |"
