"""The client on somebody's connection: every statement joins the transaction that is open there.

Nothing here begins, commits or rolls back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pq_core.async_methods import AsyncMethods
from pq_core.errors import TransactionRequired, UnsupportedConnection, UseAsync, UseSync
from pq_core.executor import AsyncExecutor, Executor, translate
from pq_core.methods import Methods
from pq_core.operations import Operations, Planned
from pq_core.store import Request

T = TypeVar("T")


class BoundPQ(Methods):
    """What ``pq.using(connection)`` returns for a sync connection or session: the client in its transaction."""

    def __init__(self, operations: Operations, executor: Executor) -> None:
        self._operations = operations
        self._executor = executor

    def _run(self, request: Request[T]) -> T:
        check_transaction(request, in_transaction=self._executor.in_transaction())
        try:
            rows = self._executor.execute(request.statement, request.parameters)
        except Exception as error:
            reraise(error, self._operations.store.schema)
        return request.parse(rows)

    def wait(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> NoReturn:
        """Refuse: a task that this transaction enqueued can't start before its commit."""
        raise UnsupportedConnection(_NO_WAIT.format(f"pq.wait({int(task_id)})"))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or not hasattr(AsyncMethods, name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

            def refuse(*args: Any, **kwargs: Any) -> NoReturn:
                raise UseSync(f"this connection is not async: call pq.using(session).{name.removeprefix('a')}(...)")

            return refuse


class AsyncBoundPQ(AsyncMethods):
    """What ``pq.using(connection)`` returns for an async connection or session: the client in its transaction."""

    def __init__(self, operations: Operations, executor: AsyncExecutor) -> None:
        self._operations = operations
        self._executor = executor

    async def _arun(self, request: Request[T]) -> T:
        check_transaction(request, in_transaction=self._executor.in_transaction())
        try:
            rows = await self._executor.execute(request.statement, request.parameters)
        except Exception as error:
            reraise(error, self._operations.store.schema)
        return request.parse(rows)

    async def await_(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> NoReturn:
        """Refuse: a task that this transaction enqueued can't start before its commit."""
        raise UnsupportedConnection(_NO_WAIT.format(f"await pq.await_({int(task_id)})"))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or not hasattr(Methods, name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

            def refuse(*args: Any, **kwargs: Any) -> NoReturn:
                raise UseAsync(f"this connection is async: call await pq.using(session).a{name}(...)")

            return refuse


_NO_WAIT = (
    "wait() can't run on a connection of yours: a task enqueued in an open transaction does not start before the "
    "commit, so it would wait for ever; commit first, then {}"
)


def check_transaction(request: Request[Any], *, in_transaction: bool) -> None:
    """Raise TransactionRequired when the request insists on a transaction and none is open."""
    if not in_transaction and isinstance(request, Planned) and request.needs_transaction is not None:
        raise TransactionRequired(
            f"{request.needs_transaction}: require_transaction=True, and no transaction is open: enqueue by "
            "pq.using(connection) inside one"
        )


def reraise(error: Exception, schema: str) -> NoReturn:
    """Raise pq's error for a driver's, with that as its cause, or the driver's own."""
    ours = translate(error, schema)
    if ours is not None:
        raise ours from error
    raise error
