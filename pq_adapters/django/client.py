"""``pq`` for a Django project: configured by settings, on Django's own connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

from asgiref.sync import sync_to_async
from django.db import IntegrityError, connections, transaction

from pq_adapters.django.addresses import dsn_of
from pq_adapters.django.children import DjangoConnections
from pq_adapters.django.configuration import Configuration
from pq_adapters.django.declared import declared
from pq_adapters.django.executor import DjangoExecutor
from pq_core import current
from pq_core.bound import check_transaction, reraise
from pq_core.client import PQ
from pq_core.errors import NotMigrated, UnsupportedConnection
from pq_core.operations import Planned
from pq_core.overriding import override_of
from pq_core.store import Request
from pq_core.task_groups import TaskGroup
from pq_core.waiting import Patience

T = TypeVar("T")
logger = logging.getLogger("pq.django")


class DjangoPQ(PQ):
    """A ``PQ`` whose every call runs on ``connections[alias]``, in the ``atomic()`` block that is open there.

    Settings are read at first use, once. It opens no connection of its own: a request has one, a TestCase sees
    and rolls back what was enqueued. A worker, which is a process of its own, connects to the same database.
    """

    def __init__(self) -> None:
        # So that task.enqueue() finds it, and @pq.task declares. All the rest waits for the settings.
        current.announce(self)
        self._declared_here = TaskGroup()
        self.task = self._declared_here.task

    def __getattr__(self, name: str) -> Any:
        # Reached for what is not set yet: everything, before the settings are read.
        if name.startswith("__") or "store" in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._configure()
        return getattr(self, name)

    def _configure(self) -> None:
        configuration = Configuration.read()
        super().__init__(
            dsn_of(configuration.alias),
            listen_dsn=configuration.listen_dsn,
            schema=configuration.schema,
            app=configuration.app,
            tasks=configuration.modules(),
            allow=configuration.allow,
            defaults=configuration.task_options(),
            plugins=(DjangoConnections(), *configuration.made_plugins()),
            discover_plugins=configuration.discover_plugins,
            payload_limit=configuration.payload_limit,
            keys=configuration.keys,
        )
        self.alias = configuration.alias
        self._warned = False
        self.task = self._declared_here.task
        self.include(self._declared_here)
        self.include(declared)

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Lend ``connections[alias]`` inside ``atomic()``."""
        with transaction.atomic(using=self.alias):
            yield connections[self.alias]

    @asynccontextmanager
    async def asession(self) -> AsyncIterator[Any]:
        """Refuse: Django has no asynchronous transactions."""
        raise UnsupportedConnection(
            "Django's transactions are synchronous: use sync_to_async around a function that uses atomic()"
        )
        yield

    def wait(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any:
        """Wait for a task's end, asking again and again on Django's connection; see ``PQ.wait``.

        Raises UnsupportedConnection inside ``atomic()``: what that enqueued can't start before its commit.
        """
        patience = Patience(task_id, timeout=timeout, poll=poll, seals=self.registry.seals)
        self._refuse_transaction(task_id)
        request = self.store.watch(task_id)
        while (ended := patience.judge(self._run(request))) is None:
            time.sleep(patience.pause())
        return ended.result

    async def await_(self, task_id: int, timeout: float | None = None, *, poll: float = 1.0) -> Any:
        """``wait`` for asynchronous callers."""
        patience = Patience(task_id, timeout=timeout, poll=poll, seals=self.registry.seals)
        await sync_to_async(self._refuse_transaction)(task_id)
        request = self.store.watch(task_id)
        while (ended := patience.judge(await self._arun(request))) is None:
            await asyncio.sleep(patience.pause())
        return ended.result

    def _refuse_transaction(self, task_id: int) -> None:
        if DjangoExecutor(connections[self.alias]).in_transaction():
            raise UnsupportedConnection(
                f"wait({task_id}) inside a transaction: a task enqueued in it does not start before the commit, so it "
                "would wait for ever; call it after the atomic() block"
            )

    def _run(self, request: Request[T]) -> T:
        if override_of(self) is not None:
            return super()._run(request)
        executor = DjangoExecutor(connections[self.alias])
        in_transaction = executor.in_transaction()
        if isinstance(request, Planned) and not in_transaction:
            self._warn_of_another_transaction()
        check_transaction(request, in_transaction=in_transaction)
        try:
            try:
                rows = executor.execute(request.statement, request.parameters)
            except IntegrityError:
                if in_transaction:
                    raise
                # Somebody took the client_id between the statement's look and its write: look again.
                rows = executor.execute(request.statement, request.parameters)
        except Exception as error:
            try:
                reraise(error, self.schema)
            except NotMigrated as ours:
                words = str(ours).partition(": run `pq migrate")[0]
                raise NotMigrated(f"{words}: run `manage.py migrate{self._database_flag()}`") from error
        return request.parse(rows)

    async def _arun(self, request: Request[T]) -> T:
        if override_of(self) is not None:
            return await super()._arun(request)
        return cast(T, await sync_to_async(self._run, thread_sensitive=True)(request))

    def _warn_of_another_transaction(self) -> None:
        """Say once, when a transaction of another alias is open, that its rollback does not take the task back."""
        if self._warned:
            return
        others = [one.alias for one in connections.all(initialized_only=True) if one.in_atomic_block]
        if others:
            self._warned = True
            logger.warning(
                "a task is enqueued inside atomic() of %s, but pq's tables are in %r, where no transaction is open: it "
                "is committed at once, and stays when %s rolls back. Enqueue it by transaction.on_commit(…, using=%r), "
                "or open atomic(using=%r) around it",
                ", ".join(map(repr, others)), self.alias, others[0], others[0], self.alias,
            )  # fmt: skip

    def _database_flag(self) -> str:
        return "" if self.alias == "default" else f" --database {self.alias}"


pq = DjangoPQ()
"""The project's ``PQ``."""
