"""Pools of psycopg_pool that an application opens at import, usable in its tasks."""

from __future__ import annotations

import inspect
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pq_core.worker.image import objects_of

Pool = ConnectionPool[Any] | AsyncConnectionPool[Any]
_NOT_SAID = ("open", "name")
logger = logging.getLogger("pq.worker")


class SafePools:
    """The plugin that makes pools of the worker's image usable in its tasks; a worker registers it by itself.

    A pool's connections and threads belong to the process that opened it. In every process forked from the worker,
    pools that were open at its start are as new, and open at their first use.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakKeyDictionary[Pool, Callable[[], None]] | None = None
        self._inherited: list[Mapping[str, Any]] = []

    def pq_before_forks(self) -> None:
        """Find the pools, and renew them at every fork to come."""
        if self._made is None:
            self._made = weakref.WeakKeyDictionary()
            os.register_at_fork(after_in_child=self._renew)
        pools: list[Pool] = [*objects_of(ConnectionPool), *objects_of(AsyncConnectionPool)]
        for pool in pools:
            try:
                self._made[pool] = _maker(pool)
            except AttributeError as error:
                logger.warning("pool %r can't be renewed in children, open it in the task: %s", pool.name, error)

    def _renew(self) -> None:
        for pool, make in (self._made or {}).items():
            if not pool.closed:
                # Kept for good: a connection that is collected says goodbye to the server, a scheduler to its threads.
                self._inherited.append(dict(vars(pool)))
                make()
                _open_at_first_use(pool)


def _maker(pool: Pool) -> Callable[[], None]:
    """Return what makes the pool anew in place, closed, with the arguments it was made with."""
    # Of a subclass, the arguments may be others: those of the library are what its objects remember.
    kind: Any = next(one for one in type(pool).__mro__ if one.__module__.startswith("psycopg_pool"))
    names = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", *_NOT_SAID)]
    remembered = ((name, name if hasattr(pool, name) else f"_{name}") for name in names)
    # reset is a callback, and no method of a pool is called like it; check is both.
    callbacks = ("check", "configure", "reset", "reconnect_failed")
    given = {name: getattr(pool, f"_{name}" if name in callbacks else place) for name, place in remembered}
    reference = weakref.ref(pool)

    def make() -> None:
        found = reference()
        if found is not None:
            name = found.name
            kind.__init__(found, **given, name=name, open=False)

    return make


def _open_at_first_use(pool: Pool) -> None:
    """Let the next who wants a connection, or waits for the pool, open it: most tasks may not use it at all."""

    def opening(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            pool.open()  # nothing, if another thread was quicker
            vars(pool).pop(name, None)
            return getattr(pool, name)(*args, **kwargs)

        async def acall(*args: Any, **kwargs: Any) -> Any:
            await pool.open()  # type: ignore[misc]
            vars(pool).pop(name, None)
            return await getattr(pool, name)(*args, **kwargs)

        return acall if isinstance(pool, AsyncConnectionPool) else call

    for name in ("getconn", "wait"):
        setattr(pool, name, opening(name))
