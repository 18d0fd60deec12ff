"""The client: one object per application that enqueues tasks, looks after them and runs workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast, overload

import psycopg

from pq_core import current
from pq_core.async_methods import AsyncMethods
from pq_core.bound import AsyncBoundPQ, BoundPQ, check_transaction, reraise
from pq_core.errors import InvalidOption
from pq_core.executor import AsyncExecutor, AsyncPsycopgExecutor, Executor, PsycopgExecutor, find_executor, is_async
from pq_core.methods import Methods
from pq_core.operations import Operations
from pq_core.options import build
from pq_core.registry import Registry
from pq_core.schema import check_schema_name
from pq_core.store import Request, Store
from pq_core.tasks import Call, TaskGroup
from pq_core.types import DSN, Plugin, TaskId, TaskOptions
from pq_core.waiting import Patience, alistening, listening

if TYPE_CHECKING:
    from pq_core.database import AsyncConnectionPool, ConnectionPool
    from pq_hooks.plugins import Plugins

__all__ = ["PQ", "AsyncBoundPQ", "BoundPQ"]

R = TypeVar("R")
T = TypeVar("T")


class Transaction(Protocol):
    """What sync connections and sessions have in common, for type checkers."""

    def commit(self) -> None:
        """Commit."""


class AsyncTransaction(Protocol):
    """What async connections and sessions have in common, for type checkers."""

    def commit(self) -> Coroutine[Any, Any, Any]:
        """Commit."""


class PQ(Methods, AsyncMethods):
    """Background tasks in one schema of one Postgres database.

    Creating it does nothing else: no connection, no look at the environment, no import of task modules. All of
    that happens at first use. Safe to share between threads, and after a fork.

    ``dsn``: libpq URL or key/value string, or a function that returns one; without it PQ_DATABASE_URL, else
    DATABASE_URL, is read at first use. ``listen_dsn``: where LISTEN works, when ``dsn`` leads to a pooler.
    ``app``: a name for workers and connections. ``tasks``: modules with tasks, imported when one is looked up.
    ``allow``: modules whose plain functions may run. ``defaults``: for what a task leaves unsaid. ``plugins``:
    objects with hooks; ``discover_plugins`` adds those of installed packages. ``payload_limit``: bytes of
    arguments that a task may have.
    """

    def __init__(
        self,
        dsn: DSN | None = None,
        *,
        listen_dsn: DSN | None = None,
        schema: str = "public",
        app: str = "",
        tasks: Iterable[str] = (),
        allow: Iterable[str] = (),
        defaults: TaskOptions | None = None,
        plugins: Iterable[Plugin] = (),
        discover_plugins: bool = False,
        payload_limit: int = 2**20,
    ) -> None:
        check_constructor(dsn=dsn, listen_dsn=listen_dsn, schema=schema, payload_limit=payload_limit)
        self.dsn = dsn
        self.listen_dsn = listen_dsn if listen_dsn is not None else dsn
        self.schema = schema
        self.app = app
        self.defaults = build(TaskOptions, options_said(defaults), what="PQ(defaults=…)")
        self.payload_limit = payload_limit
        self.registry = Registry(modules=tasks, allow=allow, owner=self)
        self.store = Store(schema)
        self._given_plugins = tuple(plugins)
        self._discover_plugins = discover_plugins
        self._group = TaskGroup()
        # ``@pq.task`` or ``@pq.task(name=…)``: bound here, so that type checkers see the overloads.
        self.task = self._group.task
        self.registry.include(self._group)
        self._operations = Operations(
            store=self.store,
            registry=self.registry,
            defaults=self.defaults,
            payload_limit=payload_limit,
            before_enqueue=self._before_enqueue,
        )
        self._made: dict[str, Any] = {}
        current.announce(self)

    def include(self, group: TaskGroup) -> None:
        """Take in the tasks of a group, those it gets later as well."""
        self.registry.include(group)

    @property
    def plugins(self) -> Plugins:
        """The plugins, loaded at first use."""

        def load() -> Plugins:
            from pq_hooks.plugins import Plugins

            return Plugins(self._given_plugins, discover=self._discover_plugins)

        return self._once("plugins", load)

    @overload
    def using(self, connection: Transaction) -> BoundPQ: ...
    @overload
    def using(self, connection: AsyncTransaction) -> AsyncBoundPQ: ...
    def using(self, connection: object) -> BoundPQ | AsyncBoundPQ:
        """Return the client on your connection or session, in the transaction that is open there.

        Takes a psycopg connection, a SQLAlchemy session or connection, a Django connection, and what plugins know.
        Raises UnsupportedConnection for anything else.
        """
        executor = self._find_executor(connection)
        if is_async(executor):
            return AsyncBoundPQ(self._operations, executor)
        return BoundPQ(self._operations, cast(Executor, executor))

    @contextlib.contextmanager
    def session(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Lend a connection of ours inside a transaction that is committed when the block ends, for ``using()``."""
        with self._pool.connection() as connection, connection.transaction():
            yield connection

    @contextlib.asynccontextmanager
    async def asession(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """``session`` for asynchronous callers."""
        async with self._async_pool.connection() as connection, connection.transaction():
            yield connection

    @overload
    def wait(self, task_id: TaskId[R], timeout: float | None = None, *, poll: float = 1.0) -> R: ...
    @overload
    def wait(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any: ...
    def wait(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any:
        """Wait until the task has ended and return its result.

        ``timeout``: seconds, None for ever. ``poll``: seconds between two looks at most, for where notifications
        don't arrive. Takes a connection for the time. Raises WaitTimeout, TaskFailed if it ended failed or
        cancelled, TaskNotFound if it does not exist (not yet: its transaction must have been committed).
        """
        patience = Patience(task_id, timeout=timeout, poll=poll)
        request = self.store.watch(task_id)
        watched = self._run(request)
        ended = patience.judge(watched)
        if watched is not None and ended is None:
            with listening(self._listen_pool, watched.channel) as listener:
                while (ended := patience.judge(self._run(request))) is None:
                    listener.hear(task_id, patience.pause())
        assert ended is not None
        return ended.result

    @overload
    async def await_(self, task_id: TaskId[R], timeout: float | None = None, *, poll: float = 1.0) -> R: ...
    @overload
    async def await_(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any: ...
    async def await_(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any:
        """``wait`` for asynchronous callers; the plain twin's name is a word of the language."""
        patience = Patience(task_id, timeout=timeout, poll=poll)
        request = self.store.watch(task_id)
        watched = await self._arun(request)
        ended = patience.judge(watched)
        if watched is not None and ended is None:
            async with alistening(self._async_listen_pool, watched.channel) as listener:
                while (ended := patience.judge(await self._arun(request))) is None:
                    await listener.hear(task_id, patience.pause())
        assert ended is not None
        return ended.result

    def run_db_migrations(self) -> None:
        """Bring the schema's tables to this version of pq: create them or upgrade them."""
        from pq_core.schema import migrate

        migrate(self.dsn, self.schema)

    def create_tables(self) -> None:
        """Do what ``run_db_migrations`` does; python-pq's name."""
        self.run_db_migrations()

    def drop_tables(self) -> None:
        """Drop pq's tables and everything in them."""
        from pq_core.schema import drop

        drop(self.dsn, self.schema)

    def close(self) -> None:
        """Close the connections that nobody uses; the next call opens new ones. For async ones: ``aclose``."""
        for name in ("pool", "listen_pool"):
            if (pool := self._made.pop(name, None)) is not None:
                pool.close()

    async def aclose(self) -> None:
        """Close sync and async connections."""
        self.close()
        for name in ("async_pool", "async_listen_pool"):
            if (pool := self._made.pop(name, None)) is not None:
                await pool.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def run_worker(self, **options: Any) -> Any:
        """Run a worker in this process until it is told to stop; the options are those of ``pq worker``."""
        from pq_core.worker.run import run_worker

        return run_worker(self, **options)

    def run_worker_once(self, **options: Any) -> Any:
        """Run what is due now, then return."""
        from pq_core.worker.run import run_worker_once

        return run_worker_once(self, **options)

    def __repr__(self) -> str:
        # Without the DSN: it may hold a password, and may be a function that should not be called for this.
        return f"<PQ schema={self.schema!r}{f' app={self.app!r}' if self.app else ''}>"

    def _run(self, request: Request[T]) -> T:
        check_transaction(request, in_transaction=False)
        with self._pool.connection() as connection:
            executor = PsycopgExecutor(connection)
            try:
                rows = executor.execute(request.statement, request.parameters)
            except psycopg.errors.UniqueViolation:
                # Somebody took the client_id between the statement's look and its write: look again.
                rows = executor.execute(request.statement, request.parameters)
            except Exception as error:
                reraise(error, self.schema)
        return request.parse(rows)

    async def _arun(self, request: Request[T]) -> T:
        check_transaction(request, in_transaction=False)
        async with self._async_pool.connection() as connection:
            executor = AsyncPsycopgExecutor(connection)
            try:
                rows = await executor.execute(request.statement, request.parameters)
            except psycopg.errors.UniqueViolation:
                rows = await executor.execute(request.statement, request.parameters)
            except Exception as error:
                reraise(error, self.schema)
        return request.parse(rows)

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """Return what was made under this name; of two threads that make it at once the first one's stays.

        Without a lock, which a forked child could inherit locked.
        """
        made = self._made.get(name)
        return cast(T, made if made is not None else self._made.setdefault(name, make()))

    @property
    def _pool(self) -> ConnectionPool:
        return self._once("pool", lambda: self._new_pool(self.dsn))

    @property
    def _listen_pool(self) -> ConnectionPool:
        if self.listen_dsn is self.dsn:
            return self._pool
        return self._once("listen_pool", lambda: self._new_pool(self.listen_dsn))

    @property
    def _async_pool(self) -> AsyncConnectionPool:
        return self._once("async_pool", lambda: self._new_async_pool(self.dsn))

    @property
    def _async_listen_pool(self) -> AsyncConnectionPool:
        if self.listen_dsn is self.dsn:
            return self._async_pool
        return self._once("async_listen_pool", lambda: self._new_async_pool(self.listen_dsn))

    def _new_pool(self, dsn: DSN | None) -> ConnectionPool:
        from pq_core.database import ConnectionPool

        return ConnectionPool(dsn, application_name=f"pq {self.app}".strip())

    def _new_async_pool(self, dsn: DSN | None) -> AsyncConnectionPool:
        from pq_core.database import AsyncConnectionPool

        return AsyncConnectionPool(dsn, application_name=f"pq {self.app}".strip())

    def _has_plugins(self) -> bool:
        return bool(self._given_plugins) or self._discover_plugins or "plugins" in self._made

    def _find_executor(self, connection: object) -> Executor | AsyncExecutor:
        return find_executor(connection, plugins=self.plugins.executor if self._has_plugins() else None)

    def _before_enqueue(self, call: Call[Any], headers: dict[str, str]) -> None:
        if self._has_plugins():
            self.plugins.before_enqueue(call, headers)


def options_said(options: TaskOptions | None) -> dict[str, Any]:
    """Return what options say by name, without what they leave unsaid."""
    if options is None:
        return {}
    if not isinstance(options, TaskOptions):
        raise InvalidOption(f"defaults={options!r}: give TaskOptions(max_attempts=…)")
    found = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in found.items() if value is not None}


def check_constructor(*, dsn: object, listen_dsn: object, schema: object, payload_limit: object) -> None:
    """Raise InvalidOption for arguments that can't work, without looking at anything outside."""
    for name, given in (("dsn", dsn), ("listen_dsn", listen_dsn)):
        if given is not None and not isinstance(given, str) and not callable(given):
            raise InvalidOption(f"PQ({name}=…): give text or a function that returns it, not {type(given).__name__}")
    if isinstance(payload_limit, bool) or not isinstance(payload_limit, int) or payload_limit < 1:
        raise InvalidOption(f"PQ(payload_limit={payload_limit!r}): give bytes as an integer of at least 1")
    check_schema_name(schema)  # type: ignore[arg-type]
