"""Which tasks are enqueued by one call: set by the client, read by the hooks of that call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger("pq.plugins")


@dataclass(slots=True)
class Batch:
    """One call that enqueues many tasks.

    ``notes``: what plugins keep during the call, each under a key of its own. ``done``: called in order when every
    task of the batch is planned; not called when the call failed.
    """

    notes: dict[object, Any] = field(default_factory=dict)
    done: list[Callable[[], None]] = field(default_factory=list)


_batch: ContextVar[Batch | None] = ContextVar("pq_batch", default=None)


def current_batch() -> Batch | None:
    """Return the batch that is being enqueued, ``None`` when it is a single task."""
    return _batch.get()


@contextmanager
def batch() -> Iterator[Batch]:
    """Make the tasks that are planned inside the block one batch."""
    made = Batch()
    token = _batch.set(made)
    try:
        yield made
    finally:
        _batch.reset(token)
    for call in made.done:
        try:
            call()
        except Exception:
            _log.exception("a plugin failed at the end of a batch; the tasks are enqueued")
