"""Which ``PQ`` a task goes to that is enqueued by itself: a leaf, so that tasks and client need not know each other."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from pq_core.errors import DatabaseNotConfigured

if TYPE_CHECKING:
    from pq_core.client import PQ

_overridden: ContextVar[PQ | None] = ContextVar("pq_overridden", default=None)
# By id. Without a lock, which a forked child could inherit locked: valuerefs() copies in one step.
_known: weakref.WeakValueDictionary[int, PQ] = weakref.WeakValueDictionary()
_default: PQ | None = None


def announce(pq: PQ) -> None:
    """Make ``pq`` known: the only ``PQ`` of a process is its default without further words."""
    _known[id(pq)] = pq


def set_default(pq: PQ | None) -> None:
    """Make ``pq`` the one that ``task.enqueue()`` uses for groups which belong to no single ``PQ``."""
    global _default
    _default = pq


def default() -> PQ:
    """Return the ``PQ`` of this process: the overriding one, else the one set, else the only one.

    Raises ``DatabaseNotConfigured`` when there is none, or when there are several and none was set.
    """
    chosen = _overridden.get() or _default
    if chosen is not None:
        return chosen
    known = [pq for reference in _known.valuerefs() if (pq := reference()) is not None]
    match known:
        case [only]:
            return only
        case []:
            raise DatabaseNotConfigured(
                "this process has no PQ yet: create one first (pq = PQ(...)) and keep it, or enqueue through one: "
                "pq.enqueue(task.call(...))"
            )
        case _:
            raise DatabaseNotConfigured(
                f"this process has {len(known)} PQs: say which by pq_core.set_default(pq), "
                "or enqueue through one: pq.enqueue(task.call(...))"
            )


def pq_for(owner: PQ | None) -> PQ:
    """Return the ``PQ`` for a task whose group belongs to ``owner`` (``None``: to no single one)."""
    return _overridden.get() or owner or default()


@contextmanager
def override(pq: PQ) -> Iterator[PQ]:
    """Send every ``task.enqueue()`` inside the block to ``pq``; nests, and holds for this context alone."""
    token = _overridden.set(pq)
    try:
        yield pq
    finally:
        _overridden.reset(token)
