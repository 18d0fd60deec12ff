"""The client: one object per application that enqueues tasks, looks after them and runs workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast, overload

from pq_core import current
from pq_core.async_methods import AsyncMethods
from pq_core.bound import AsyncBoundPQ, BoundPQ, check_transaction
from pq_core.errors import InvalidOption, WaitTimeout
from pq_core.executor import AsyncExecutor, Executor, find_executor, is_async
from pq_core.methods import Methods
from pq_core.operations import Operations
from pq_core.options import build
from pq_core.overriding import Override, override_of
from pq_core.registry import Registry
from pq_core.retention import DEFAULT_RETENTION, Retention, retention_of
from pq_core.sealing import Seals
from pq_core.sql_names import check_schema_name
from pq_core.store import Request, Store
from pq_core.table_methods import TableMethods
from pq_core.task_groups import TaskGroup
from pq_core.tasks import Call
from pq_core.types import DSN, EndedAttempt, Plugin, TaskId, TaskOptions

if TYPE_CHECKING:
    import psycopg

    from pq_core.client_pools import AsyncClientPool, ClientPool
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


class PQ(Methods, AsyncMethods, TableMethods):
    """Background tasks in one schema of one Postgres database.

    Creating it does nothing else: no connection, no look at the environment, no import of task modules. All of
    that happens at first use. Safe to share between threads, and after a fork.

    ``dsn``: libpq URL or key/value string, or a function that returns one; without it PQ_DATABASE_URL, else
    DATABASE_URL, is read at first use. ``listen_dsn``: straight to Postgres, for what needs a session
    (LISTEN, workers, migrations), when ``dsn`` leads to a pooler.
    ``app``: a name for workers and connections. ``tasks``: modules with tasks, imported when one is looked up.
    ``allow``: modules whose plain functions may run. ``defaults``: for what a task leaves unsaid. ``plugins``:
    objects with hooks; ``discover_plugins`` adds those of installed packages. ``payload_limit``: bytes of
    arguments that a task may have. ``keys``: for payloads that are signed or encrypted, the first seals, all open;
    without it PQ_KEYS, with commas, is read at first use. ``retention``: how long
    finished tasks stay; by default a week, failed ones 30 days. ``None``: for ever.
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
        keys: Iterable[str] | str | None = None,
        retention: Retention | timedelta | None = DEFAULT_RETENTION,
    ) -> None:
        check_constructor(dsn=dsn, listen_dsn=listen_dsn, schema=schema, payload_limit=payload_limit)
        self._dsn = dsn
        self._listen_dsn = listen_dsn if listen_dsn is not None else dsn
        self.schema = schema
        self.app = app
        self.defaults = build(TaskOptions, options_said(defaults), what="PQ(defaults=…)")
        self.payload_limit = payload_limit
        self.registry = Registry(modules=tasks, allow=allow, owner=self, seals=Seals(keys))
        self.retention = retention_of(retention)
        self.store = Store(schema)
        self._given_plugins = tuple(plugins)
        self._discover_plugins = discover_plugins
        self._group = TaskGroup()
        # ``@pq.task`` or ``@pq.task(name=…)``: bound here, so that type checkers see the overloads.
        self.task = self._group.task
        self.periodic = self._group.periodic
        self.registry.include(self._group)
        self._operations = Operations(
            store=self.store,
            registry=self.registry,
            defaults=self.defaults,
            payload_limit=payload_limit,
            before_enqueue=self._before_enqueue,
            around_enqueue=self._around_enqueue,
            app=app,
        )
        self._made: dict[str, Any] = {}
        current.announce(self)

    def include(self, group: TaskGroup) -> None:
        """Take in the tasks of a group, those it gets later as well."""
        self.registry.include(group)

    @property
    def dsn(self) -> DSN | None:
        """What was given as ``dsn``, or what an ``override()`` says instead."""
        return self._dsn if (override := override_of(self)) is None else _dsn_of(override)

    @property
    def listen_dsn(self) -> DSN | None:
        """Where LISTEN works: what was given, or what an ``override()`` says instead."""
        return self._listen_dsn if (override := override_of(self)) is None else _dsn_of(override)

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

    def override(self, target: object, *, everywhere: bool = False) -> Override:
        """Send what this ``PQ`` does elsewhere inside a ``with`` (or ``async with``) block; for tests.

        ``target``: a DSN, or a connection or session, whose open transaction everything then joins: what tasks
        enqueue by themselves as well, and what ``using(…)`` is not called for. Blocks nest. They hold for this thread
        or async task, and those that it starts with a copy of its context; ``everywhere``: for the whole process.

        On a connection nothing that needs connections of its own can run: no worker, no migration, no waiting.
        """
        return Override(self, target, everywhere=everywhere)

    def run_inline(
        self, *, using: object = None, limit: int | None = None, queues: Iterable[str] | None = None
    ) -> list[EndedAttempt]:
        """Run what is due in this very process, one task after the other, until nothing is; for tests and debuggers.

        ``using``: a connection or session, whose transaction this and all that the tasks enqueue joins; by default
        what ``override()`` says, else connections of our own. ``limit``: attempts at most. ``queues``: by default all.

        Arguments and results are encoded and decoded, retries decided, attempts recorded as by a worker. There is no
        fork, no lease, no timeout, no memory limit, no plugin around the task: what kills a task kills this process.
        """
        from pq_core.inline import run_inline

        return run_inline(self, using=using, limit=limit, queues=queues)

    async def arun_inline(
        self, *, using: object = None, limit: int | None = None, queues: Iterable[str] | None = None
    ) -> list[EndedAttempt]:
        """Do what ``run_inline`` does, with async tasks in the running event loop."""
        from pq_core.inline import arun_inline

        return await arun_inline(self, using=using, limit=limit, queues=queues)

    @contextlib.contextmanager
    def session(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Lend a connection of ours inside a transaction that is committed when the block ends, for ``using()``."""
        import psycopg

        if (override := override_of(self)) is not None and isinstance(override.connection, psycopg.Connection):
            with override.connection.transaction():
                yield override.connection
            return
        with self._pool.transaction() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def asession(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """``session`` for asynchronous callers."""
        import psycopg

        if (override := override_of(self)) is not None and isinstance(override.connection, psycopg.AsyncConnection):
            async with override.connection.transaction():
                yield override.connection
            return
        async with self._async_pool.transaction() as connection:
            yield connection

    @overload
    def wait(self, task_id: TaskId[R], timeout: float | None = None, *, poll: float = 1.0) -> R: ...
    @overload
    def wait(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any: ...
    def wait(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any:
        """Wait until the task has ended and return its result.

        ``timeout``: seconds, None for ever. ``poll``: seconds between two looks at most, for where notifications
        don't arrive. Takes a connection for the time. Raises WaitTimeout, TaskFailed if it ended failed or
        cancelled, TaskNotFound if it does not exist (not yet: its transaction must have been committed),
        DatabaseUnavailable if there is no database at first; one that goes away later is waited for.
        """
        from pq_core.waiting import Patience, wait_for_end, warn_in_a_task

        warn_in_a_task()
        patience = Patience(task_id, timeout=timeout, poll=poll, seals=self.registry.seals)
        try:
            return wait_for_end(lambda: self._listen_pool, patience, self.store.watch(task_id), self._run)
        except WaitTimeout as error:
            with contextlib.suppress(Exception):  # no right to look at workers, or no database any more
                error.explain(self._run(self.store.why(task_id)))
            raise

    @overload
    async def await_(self, task_id: TaskId[R], timeout: float | None = None, *, poll: float = 1.0) -> R: ...
    @overload
    async def await_(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any: ...
    async def await_(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any:
        """``wait`` for asynchronous callers; the plain twin's name is a word of the language."""
        from pq_core.waiting import Patience, await_end, warn_in_a_task

        warn_in_a_task()
        patience = Patience(task_id, timeout=timeout, poll=poll, seals=self.registry.seals)
        try:
            return await await_end(lambda: self._async_listen_pool, patience, self.store.watch(task_id), self._arun)
        except WaitTimeout as error:
            with contextlib.suppress(Exception):
                error.explain(await self._arun(self.store.why(task_id)))
            raise

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
        if (override := override_of(self)) is not None and override.executor is not None:
            return override.run(request)
        return self._pool.run(request)

    async def _arun(self, request: Request[T]) -> T:
        check_transaction(request, in_transaction=False)
        if (override := override_of(self)) is not None and override.executor is not None:
            return await override.arun(request)
        return await self._async_pool.run(request)

    def _once(self, name: str, make: Callable[[], T], *, among: dict[str, Any] | None = None) -> T:
        """Return what was made under this name; of two threads that make it at once the first one's stays.

        Without a lock, which a forked child could inherit locked.
        """
        known = self._made if among is None else among
        made = known.get(name)
        return cast(T, made if made is not None else known.setdefault(name, make()))

    @property
    def _pools(self) -> dict[str, Any]:
        override = override_of(self)
        return self._made if override is None else override.made

    @property
    def _pool(self) -> ClientPool:
        return self._once("pool", lambda: self._new_pool(self.dsn), among=self._pools)

    @property
    def _listen_pool(self) -> ClientPool:
        if self.listen_dsn is self.dsn:
            return self._pool
        return self._once("listen_pool", lambda: self._new_pool(self.listen_dsn), among=self._pools)

    @property
    def _async_pool(self) -> AsyncClientPool:
        return self._once("async_pool", lambda: self._new_async_pool(self.dsn), among=self._pools)

    @property
    def _async_listen_pool(self) -> AsyncClientPool:
        if self.listen_dsn is self.dsn:
            return self._async_pool
        return self._once("async_listen_pool", lambda: self._new_async_pool(self.listen_dsn), among=self._pools)

    def _new_pool(self, dsn: DSN | None) -> ClientPool:
        from pq_core.client_pools import ClientPool  # brings the driver

        return ClientPool(dsn, app=self.app, schema=self.schema)

    def _new_async_pool(self, dsn: DSN | None) -> AsyncClientPool:
        from pq_core.client_pools import AsyncClientPool

        return AsyncClientPool(dsn, app=self.app, schema=self.schema)

    def _has_plugins(self) -> bool:
        return bool(self._given_plugins) or self._discover_plugins or "plugins" in self._made

    def _find_executor(self, connection: object) -> Executor | AsyncExecutor:
        return find_executor(connection, plugins=self.plugins.executor if self._has_plugins() else None)

    def _before_enqueue(self, call: Call[Any], headers: dict[str, str]) -> None:
        if self._has_plugins():
            self.plugins.before_enqueue(call, headers)

    def _around_enqueue(self, calls: Sequence[Call[Any]]) -> contextlib.AbstractContextManager[None] | None:
        return self.plugins.enqueuing(calls) if self._has_plugins() else None


def _dsn_of(override: Override) -> DSN | None:
    return override.refuse("this") if override.executor is not None else override.dsn


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
