"""The methods of those who operate a system, for sync and for async callers: queues, workers, keys, the audit log."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pq_core import keys, limits_in_use, operating, statistics_request
from pq_core.keys import KeyRecord, NewKey
from pq_core.limits_in_use import LimitRecord
from pq_core.operating import AuditRecord, QueueRecord
from pq_core.operations import Operations
from pq_core.retention import Keep
from pq_core.statistics_request import By, StatisticsRow
from pq_core.store import Request
from pq_core.types import Rate, TaskStatus

T = TypeVar("T")


class OperatingMethods:
    """Every such method."""

    _operations: Operations

    def _run(self, request: Request[T]) -> T:
        raise NotImplementedError

    def queues(self) -> list[QueueRecord]:
        """Return every queue that has unfinished tasks, a live worker or settings, by name.

        Counts stop at 10,000 tasks per queue, so that this stays cheap whatever is in the table.
        """
        return self._run(operating.queues(self._operations.store.schema))

    def pause_queue(self, name: str, *, by: str | None = None) -> bool:
        """Let no worker start tasks of this queue until it is resumed; what runs goes on. False when it is paused.

        Holds for every claim that begins after it was committed, also for queues that nobody has used yet. ``by``: who
        does this, to be shown.
        """
        return self._run(operating.pause(self._operations.store.schema, name, by=by))

    def resume_queue(self, name: str) -> bool:
        """End a pause; workers that sleep are woken. False when the queue is not paused."""
        return self._run(operating.resume(self._operations.store.schema, name))

    def limit_queue(self, name: str, *, concurrency: int | None = None, rate: Rate | str | None = None) -> bool:
        """Limit how many tasks of a queue run at once, and how many start in a time, over all workers.

        ``rate``: ``"10/s"``, ``"100/5m"`` or a ``Rate``; starts are spread evenly. None: no such limit, so that a call
        without either lifts both. Holds for every claim that begins after it was committed; what runs goes on, and
        counts. False when nothing changed.
        """
        return self._run(operating.limit(self._operations.store.schema, name, concurrency=concurrency, rate=rate))

    def limits(self) -> list[LimitRecord]:
        """Return how much of each limit is in use: queues, then task functions, then keys, by name.

        Queues with limits or a pause; functions and keys while tasks of theirs run or wait, or while one has paused
        them. Counts of what waits stop at 1,000, so that this stays cheap whatever is in the table.
        """
        return self._run(limits_in_use.limits(self._operations.store.schema))

    def drain_worker(self, worker_id: int) -> bool:
        """Let a worker end what it runs and stop, as SIGTERM does; told at once, else with its next heartbeat.

        False when no live worker has this id. A keeper starts no new one in its place.
        """
        return self._run(operating.drain(self._operations.store.schema, worker_id))

    def stop_worker(self, worker_id: int) -> bool:
        """Let a worker interrupt what it runs and stop, as a second SIGTERM does; told as by ``drain_worker``.

        Each run is asked to stop, killed when it has not within its ``grace`` (2 s at most), and put back uncounted:
        another worker has it at once, unless it says ``on_lost="fail"``. A worker of a version that does not know this
        drains. False when no live worker has this id. A keeper starts no new one in its place.
        """
        return self._run(operating.stop(self._operations.store.schema, worker_id))

    def set_retention(self, name: str, *, finished: Keep = None, failed: Keep = None) -> None:
        """Say how long finished tasks of a queue stay: completed and cancelled ones (``finished``), failed ones.

        A timedelta, or ``"forever"``; None: as the application's ``PQ(retention=…)`` says.
        """
        schema = self._operations.store.schema
        self._run(operating.set_retention(schema, name, finished=finished, failed=failed))

    def pace(self, seconds: float = 10.0) -> dict[TaskStatus, int]:
        """Return how many tasks ended within the last ``seconds``, by state; cheap to ask often."""
        return self._run(operating.pace(self._operations.store.schema, seconds))

    def statistics(
        self,
        *,
        by: Collection[By] = (),
        last: timedelta | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        step: timedelta | None = None,
        queue: str | None = None,
        name: str | None = None,
        outcome: str | None = None,
        histograms: bool = True,
    ) -> list[StatisticsRow]:
        """Return what the attempts of a time came to, as the workers have counted them; never reads tasks.

        ``by``: what to tell apart, of time, queue, name and outcome; nothing for one row over all. ``last`` until now,
        or ``since`` and ``until``. ``step``: the spans of ``by=["time"]``, in whole minutes. ``queue``, ``name``,
        ``outcome``: only these. ``histograms``: False leaves them out, when no percentile is wanted.

        Behind by a few seconds. Spans of whole hours, and anything longer than six hours, are summed up by the hour:
        ``since`` is then the begin of its hour.
        """
        request = statistics_request.read(
            self._operations.store.schema,
            by=by,
            last=last,
            since=since,
            until=until,
            step=step,
            queue=queue,
            name=name,
            outcome=outcome,
            histograms=histograms,
        )
        return self._run(request)

    def create_key(
        self, name: str, *, role: str, expires_at: datetime | None = None, created_by: str | None = None
    ) -> NewKey:
        """Make a key for the dashboard and its API; what is returned is the one chance to see it.

        ``role``: viewer, operator or admin. ``name``: whose it is; stands in the audit log.
        """
        request = keys.create(
            self._operations.store.schema, name, role=role, expires_at=expires_at, created_by=created_by
        )
        return self._run(request)

    def list_keys(self) -> list[KeyRecord]:
        """Return all keys, revoked and expired ones included; none tells the key itself."""
        return self._run(keys.listed(self._operations.store.schema))

    def revoke_key(self, key_id: int) -> bool:
        """End a key and all sessions that began with it, within seconds. False when there is none to revoke."""
        return self._run(keys.revoke(self._operations.store.schema, key_id))

    def audit(
        self, actor: str, action: str, target: str | None = None, details: Mapping[str, Any] | None = None
    ) -> int:
        """Add to the audit log that ``actor`` did ``action``; return the row's id.

        With ``using(connection)`` the row is stored with the change that it is about, or not at all.
        """
        return self._run(operating.audit(self._operations.store.schema, actor, action, target, details))

    def audit_log(self, *, limit: int = 100, before_id: int | None = None) -> list[AuditRecord]:
        """Return what was done, the latest first. The next page: ``before_id`` = the last one's id."""
        return self._run(operating.audit_log(self._operations.store.schema, limit=limit, before_id=before_id))

    def prune_audit(self, older_than: timedelta, *, batch: int = 1000) -> int:
        """Delete rows of the audit log that are older than ``older_than``, ``batch`` at once; return how many."""
        request = operating.prune_audit(self._operations.store.schema, older_than, batch=batch)
        total = 0
        while deleted := self._run(request):
            total += deleted
            if deleted < batch:
                break
        return total


class AsyncOperatingMethods:
    """The twins of ``OperatingMethods``."""

    _operations: Operations

    async def _arun(self, request: Request[T]) -> T:
        raise NotImplementedError

    async def aqueues(self) -> list[QueueRecord]:
        """``queues`` for asynchronous callers."""
        return await self._arun(operating.queues(self._operations.store.schema))

    async def apause_queue(self, name: str, *, by: str | None = None) -> bool:
        """``pause_queue`` for asynchronous callers."""
        return await self._arun(operating.pause(self._operations.store.schema, name, by=by))

    async def aresume_queue(self, name: str) -> bool:
        """``resume_queue`` for asynchronous callers."""
        return await self._arun(operating.resume(self._operations.store.schema, name))

    async def alimit_queue(self, name: str, *, concurrency: int | None = None, rate: Rate | str | None = None) -> bool:
        """``limit_queue`` for asynchronous callers."""
        schema = self._operations.store.schema
        return await self._arun(operating.limit(schema, name, concurrency=concurrency, rate=rate))

    async def alimits(self) -> list[LimitRecord]:
        """``limits`` for asynchronous callers."""
        return await self._arun(limits_in_use.limits(self._operations.store.schema))

    async def adrain_worker(self, worker_id: int) -> bool:
        """``drain_worker`` for asynchronous callers."""
        return await self._arun(operating.drain(self._operations.store.schema, worker_id))

    async def astop_worker(self, worker_id: int) -> bool:
        """``stop_worker`` for asynchronous callers."""
        return await self._arun(operating.stop(self._operations.store.schema, worker_id))

    async def aset_retention(self, name: str, *, finished: Keep = None, failed: Keep = None) -> None:
        """``set_retention`` for asynchronous callers."""
        schema = self._operations.store.schema
        await self._arun(operating.set_retention(schema, name, finished=finished, failed=failed))

    async def apace(self, seconds: float = 10.0) -> dict[TaskStatus, int]:
        """``pace`` for asynchronous callers."""
        return await self._arun(operating.pace(self._operations.store.schema, seconds))

    async def astatistics(
        self,
        *,
        by: Collection[By] = (),
        last: timedelta | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        step: timedelta | None = None,
        queue: str | None = None,
        name: str | None = None,
        outcome: str | None = None,
        histograms: bool = True,
    ) -> list[StatisticsRow]:
        """``statistics`` for asynchronous callers."""
        request = statistics_request.read(
            self._operations.store.schema,
            by=by,
            last=last,
            since=since,
            until=until,
            step=step,
            queue=queue,
            name=name,
            outcome=outcome,
            histograms=histograms,
        )
        return await self._arun(request)

    async def acreate_key(
        self, name: str, *, role: str, expires_at: datetime | None = None, created_by: str | None = None
    ) -> NewKey:
        """``create_key`` for asynchronous callers."""
        request = keys.create(
            self._operations.store.schema, name, role=role, expires_at=expires_at, created_by=created_by
        )
        return await self._arun(request)

    async def alist_keys(self) -> list[KeyRecord]:
        """``list_keys`` for asynchronous callers."""
        return await self._arun(keys.listed(self._operations.store.schema))

    async def arevoke_key(self, key_id: int) -> bool:
        """``revoke_key`` for asynchronous callers."""
        return await self._arun(keys.revoke(self._operations.store.schema, key_id))

    async def aaudit(
        self, actor: str, action: str, target: str | None = None, details: Mapping[str, Any] | None = None
    ) -> int:
        """``audit`` for asynchronous callers."""
        return await self._arun(operating.audit(self._operations.store.schema, actor, action, target, details))

    async def aaudit_log(self, *, limit: int = 100, before_id: int | None = None) -> list[AuditRecord]:
        """``audit_log`` for asynchronous callers."""
        return await self._arun(operating.audit_log(self._operations.store.schema, limit=limit, before_id=before_id))

    async def aprune_audit(self, older_than: timedelta, *, batch: int = 1000) -> int:
        """``prune_audit`` for asynchronous callers."""
        request = operating.prune_audit(self._operations.store.schema, older_than, batch=batch)
        total = 0
        while deleted := await self._arun(request):
            total += deleted
            if deleted < batch:
                break
        return total
