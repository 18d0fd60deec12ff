"""When a worker looks at what its tasks print."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pq_core.worker.live_output import EVERY, LiveOutput


def test_a_worker_without_a_lease_looks_no_more_often() -> None:
    children: Any = SimpleNamespace(processes=SimpleNamespace(working=1))
    nothing: Any = None
    looking = LiveOutput(program=nothing, children=children, book=nothing)

    looking.advance(100.0, None)

    assert looking.next_event() == 100.0 + EVERY
    children.processes.working = 0
    assert looking.next_event() is None
