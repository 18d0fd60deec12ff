"""Every hook, typed. A plugin implements those it needs and names those arguments it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from pq_core.executor import AsyncExecutor, Executor
    from pq_core.tasks import Call
    from pq_core.types import AttemptOutcome, ClaimedTask, WorkerInfo

PROJECT = "pq"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def pq_before_enqueue(task: Call[Any], headers: dict[str, str]) -> None:
    """Add to ``headers``, which are stored with the task: a trace context, a tenant, a request id.

    Called once per task, also inside one call that enqueues many, before anything is sent.

    Runs in: enqueuing process
    On error: logged; the task is enqueued without what this plugin put into the headers.
    """


@hookspec
def pq_after_enqueue(tasks: Sequence[Call[Any]], seconds: float, error: BaseException | None) -> None:
    """Note that a statement that enqueues has ended: how long it took, and what it failed with.

    Called once per call of ``enqueue``, ``upsert`` and ``enqueue_many``, with all its tasks. ``seconds``: from asking
    for a connection to the answer. ``error``: what the caller gets, ``DuplicateClientId`` included; ``None`` when the
    tasks are enqueued, which the caller's transaction may still take back. Not called for what was refused before it
    was sent.

    Runs in: enqueuing process
    On error: logged; the tasks are enqueued, or not, as they would be without the plugin.
    """


@hookspec
def pq_before_forks() -> None:
    """Prepare what all children of a worker start with: the application is loaded, nothing has been forked yet.

    What this leaves in the process, every child has: memory, the user it runs as, limits, the working directory. No
    threads, no connections: neither survives a fork. Called once in the life of a worker process.

    Runs in: worker
    On error: logged; the worker starts.
    """


@hookspec
def pq_worker_start(worker: WorkerInfo) -> None:
    """Note that a worker has its lease and starts to claim.

    A worker that lost its lease gets a new one, with a new id, and this is called again. Nothing that is changed here
    is seen by children, which are forked from another process: see ``pq_before_forks``.

    Runs in: worker
    On error: logged; the worker starts.
    """


@hookspec
def pq_worker_stop(worker: WorkerInfo) -> None:
    """Note that a worker has ended its last task and is about to give its lease back.

    Runs in: worker
    On error: logged; the worker stops.
    """


@hookspec
def pq_pre_fork(task: ClaimedTask) -> None:
    """Take a last look at a task before it is handed to a process, which may have been forked ahead.

    That process is forked from another than the worker: nothing that is changed in memory here is seen there.
    The worker serves nothing else meanwhile: no I/O, microseconds. It is called again for a task that no process could
    take then.

    Runs in: worker
    On error: logged; the task runs.
    """


@hookspec
def pq_in_child(task: ClaimedTask) -> AbstractContextManager[Any] | None:
    """Return a context manager that is entered around the task function; ``None`` for none.

    Those of all plugins are nested in the order of registration. An exit sees the task's exception, and can
    neither swallow nor replace it; it has 5 seconds and ends before the process does. An enter that raises ``Retry``,
    ``Snooze``, ``Cancel`` or ``Refuse`` decides: the task function is not called, and the attempt ends by that.

    Runs in: child
    On error: logged; the task's outcome is what it would be without the plugin.
    """


@hookspec
def pq_post_task(task: ClaimedTask, outcome: AttemptOutcome) -> None:
    """Report an attempt whose outcome is recorded: counters, gauges.

    Knows what no child can know of itself: signals, memory, usage, whether it runs again and when. The worker
    serves nothing else meanwhile: no I/O that can block.

    Runs in: worker
    On error: logged; the recorded outcome stands.
    """


@hookspec
def pq_task_died(task: ClaimedTask, outcome: AttemptOutcome) -> None:
    """Report for a child that could not do so itself: it crashed, was killed, or ran out of memory or time.

    A process of its own, in which SDKs may start threads. It has 5 seconds for each plugin.

    Runs in: a fresh child
    On error: logged; the recorded outcome stands.
    """


@hookspec(firstresult=True)
def pq_executor(connection: object) -> Executor | AsyncExecutor | None:
    """Return an executor that runs statements on this connection or session; ``None`` if it is none of yours.

    Plugins are asked in the order of registration, before the adapters that pq brings; the first answer counts.

    Runs in: enqueuing process
    On error: logged; the next one is asked.
    """
