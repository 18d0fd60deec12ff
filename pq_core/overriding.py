"""Sending one ``PQ`` elsewhere for a while: to another database, or into a transaction that is open. For tests."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from pq_core.bound import reraise
from pq_core.errors import InvalidOption, UnsupportedConnection, UseAsync
from pq_core.executor import is_async

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pq_core.client import PQ
    from pq_core.executor import AsyncExecutor, Executor
    from pq_core.store import Request
    from pq_core.types import DSN

T = TypeVar("T")


class Override:
    """What ``pq.override(target)`` returns: a context manager, for ``with`` and for ``async with``.

    ``dsn`` or ``executor``: where the statements go, the other is None. ``connection``: what the executor was made for.
    ``made``: the pools of this override alone.
    """

    __slots__ = ("connection", "dsn", "everywhere", "executor", "made", "pq")

    def __init__(self, pq: PQ, target: object, *, everywhere: bool) -> None:
        self.pq = pq
        self.everywhere = everywhere
        self.made: dict[str, Any] = {}
        self.connection: object = None
        self.dsn: DSN | None = None
        self.executor: Executor | AsyncExecutor | None = None
        if target is None:
            raise InvalidOption("override(None): give a DSN, or a connection or session")
        if isinstance(target, str):
            self.dsn = target
            return
        try:
            self.executor = pq._find_executor(target)
            self.connection = target
        except UnsupportedConnection:
            # Asked last: sessions can be called, too.
            if not callable(target):
                raise
            self.dsn = cast("DSN", target)

    def __enter__(self) -> PQ:
        if self.everywhere:
            _everywhere.append(self)
        else:
            _here.set((*_here.get(), self))
        return self.pq

    def __exit__(self, *exc: object) -> None:
        self._leave()
        for pool in self.made.values():
            if hasattr(pool, "close"):
                pool.close()
        # Pools for async callers close their connections when they are collected.
        self.made.clear()

    async def __aenter__(self) -> PQ:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        pools = [pool for pool in self.made.values() if hasattr(pool, "aclose")]
        self.__exit__(*exc)
        for pool in pools:
            await pool.aclose()

    def _leave(self) -> None:
        if self.everywhere:
            _everywhere.remove(self)
            return
        # Not by a token: a fixture may be left in another context than it was entered in.
        kept = list(_here.get())
        if self in kept:
            kept.reverse()
            kept.remove(self)
            _here.set(tuple(reversed(kept)))

    def run(self, request: Request[T]) -> T:
        """Run the request on the connection. Raises UseAsync if that is async."""
        assert self.executor is not None
        if is_async(self.executor):
            raise UseAsync(
                f"{self.pq!r} was sent to an async connection (override(), or run_inline(using=…)): call the async "
                "twin, whose name begins with 'a', or give a sync connection"
            )
        try:
            rows = cast("Executor", self.executor).execute(request.statement, request.parameters)
        except Exception as error:
            reraise(error, self.pq.schema)
        return request.parse(rows)

    async def arun(self, request: Request[T]) -> T:
        """Run the request for an async caller; on a sync connection the event loop waits for it."""
        assert self.executor is not None
        try:
            rows = self.executor.execute(request.statement, request.parameters)
            if is_async(self.executor):
                rows = await cast("Coroutine[Any, Any, list[str]]", rows)
        except Exception as error:
            reraise(error, self.pq.schema)
        return request.parse(cast("list[str]", rows))

    def refuse(self, what: str) -> NoReturn:
        """Raise UnsupportedConnection for what needs a database and not a transaction."""
        raise UnsupportedConnection(
            f"{what} needs connections of its own, but {self.pq!r} was sent into a transaction of yours by "
            "override(connection): use override(dsn) for that"
        )


_here: ContextVar[tuple[Override, ...]] = ContextVar("pq_overrides", default=())
_everywhere: list[Override] = []


def override_of(pq: PQ) -> Override | None:
    """Return the override that holds for ``pq`` here: the innermost of this thread or task, else of the process."""
    for override in reversed(_here.get()):
        if override.pq is pq:
            return override
    # A copy: another thread may enter or leave one.
    for override in reversed(tuple(_everywhere)):
        if override.pq is pq:
            return override
    return None
