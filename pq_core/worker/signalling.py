"""How a worker asks one child to stop, and how it ends one that does not."""

from __future__ import annotations

import signal
from math import inf

from pq_core.worker.runs import Child, Run
from pq_core.worker.shared import StopReason


def ask_to_stop(child: Child, run: Run, reason: StopReason) -> None:
    """Note why the run is to stop, where its child can read it, and signal the child."""
    run.reason = reason
    child.place.stop(run.task.id, run.task.fence, reason, run.words)
    child.forker.signal(child.number, child.pid, signal.SIGTERM)


def stop_next(child: Child) -> None:
    """Deal with a run that its child had begun before the one that was to be stopped was known to be over."""
    run, reason = child.runs[0], child.stopping
    if reason in (StopReason.INTERRUPT, StopReason.LOST):
        ask_to_stop(child, run, reason)  # meant for whatever it runs
    else:
        child.kill_at = None


def kill(child: Child) -> None:
    """End the child with its whole process group, now."""
    child.killed = True
    child.kill_at = None
    child.look_at = inf
    child.leaving = True
    child.forker.signal(child.number, child.pid, signal.SIGKILL, whole_group=True)
