"""What children start from in tests that have no application."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from pq_core.types import ClaimedTask
from pq_core.worker.child_setup import ChildSetup


def child_setup(worker_id: int = 1, **changes: Any) -> ChildSetup:
    """Return a set-up whose tasks do nothing."""
    given: dict[str, Any] = {
        "worker_pid": os.getpid(),
        "worker_id": worker_id,
        "schema": "public",
        "as_declared": _as_it_is,
        "prepared": _as_it_is,
        "load": lambda task: (dict, (), {}),
        "load_ahead": lambda task: None,
        "function_of": lambda task: dict,
        "in_child": nullcontext,
        "retryable": lambda task, error: False,
        "sensitive": lambda task: False,
        "detaches": lambda task: False,
        "demands_result": lambda task: False,
        "memory_of_child": lambda task: None,
        "encode_result": lambda task, value, limit: value,
        "find_executor": lambda connection: None,
        "result_limit": 1024,
        "default_timeout": None,
    }
    return ChildSetup(**given | changes)


def _as_it_is(task: ClaimedTask) -> ClaimedTask:
    return task
