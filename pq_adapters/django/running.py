"""A Django task in a child of the worker: its context, and the signals around it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends
from django.tasks.base import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json

from pq_adapters.django import results
from pq_adapters.django.client import pq
from pq_core import payload
from pq_core.attempt import Attempt, current_attempt
from pq_core.errors import Cancel, Retry, Snooze, TaskCancelled
from pq_core.policy import retryable
from pq_core.types import Outcome
from pq_core.worker.last_words import error_text

if TYPE_CHECKING:
    from pq_core.types import AttemptOutcome, ClaimedTask


def runner(task: Task) -> Callable[..., Any]:
    """Return the function that a worker runs for a Django task.

    It takes anything: arguments arrive as the JSON that Django made of them, unrefined by annotations.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        return _run(task, args, kwargs)

    run.__module__, run.__name__, run.__qualname__ = task.func.__module__, task.func.__name__, task.func.__qualname__
    run.__doc__ = task.func.__doc__
    run.django_task = task  # type: ignore[attr-defined]
    return run


def _run(declaration: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    attempt = current_attempt()
    result = _running(attempt, declaration, args, kwargs)
    task = result.task
    _send(task_started, result)
    given = (TaskContext(task_result=result), *args) if task.takes_context else args
    try:
        value = task.call(*given, **kwargs)
    except BaseException as error:
        if _is_final(attempt, error):
            outcome = Outcome.CANCELLED if isinstance(error, (Cancel, TaskCancelled)) else Outcome.RAISED
            _failed(result, outcome, error)
        raise
    with suppress(TypeError, ValueError):
        value = normalize_json(value)  # what it refuses, pq may still be able to store
    try:
        attempt._encode(value)
    except Exception:
        stored = None  # the child says the same: the work is done, without a result
    else:
        stored = value
    object.__setattr__(result, "_return_value", stored)
    _finish(result, TaskResultStatus.SUCCESSFUL)
    _send(task_finished, result)
    return value


def _failed(result: TaskResult, outcome: Outcome, error: BaseException) -> None:
    """Send ``task_finished`` inside the handler of the exception, where Django's own log looks for it."""
    kind = type(error)
    text = error_text(error)
    result.errors.append(results.error_of(outcome, text, f"{kind.__module__}.{kind.__qualname__}"))
    _finish(result, TaskResultStatus.FAILED)
    _send(task_finished, result)


def died(task: ClaimedTask, outcome: AttemptOutcome) -> None:
    """Send ``task_finished`` for a Django task whose child died, unless it runs again."""
    declaration = results.find_declaration(task.name)
    if declaration is None or not outcome.final:
        return
    args, kwargs = payload.decode(task.payload, signature=None)
    result = _result(task, declaration, list(args), kwargs, worker_ids=["unknown"] * task.number)
    _finish(result, TaskResultStatus.FAILED)
    result.errors.append(results.error_of(outcome.outcome, outcome.error or "", outcome.exception_type))
    _send(task_finished, result)


def _running(attempt: Attempt, declaration: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskResult:
    worker = str(attempt.worker_id)
    if attempt.number == 1:
        return _result(attempt.task, declaration, list(args), kwargs, worker_ids=[worker])
    earlier = pq.attempts(attempt.id)
    ids = results.worker_ids(earlier, count=attempt.number, current=attempt.worker_id)
    result = _result(attempt.task, declaration, list(args), kwargs, worker_ids=ids)
    result.errors.extend(results.errors_of(earlier))
    object.__setattr__(result, "started_at", results.first_start(earlier, result.started_at))
    return result


def _result(
    task: ClaimedTask, declaration: Task, args: list[Any], kwargs: dict[str, Any], *, worker_ids: list[str]
) -> TaskResult:
    backend = task.headers.get(results.BACKEND_HEADER, DEFAULT_TASK_BACKEND_ALIAS)
    return TaskResult(
        task=results.task_of(
            declaration,
            priority=task.priority,
            queue=task.queue,
            run_at=task.run_at,
            created_at=task.created_at,
            backend=backend,
        ),
        id=str(task.id),
        status=TaskResultStatus.RUNNING,
        enqueued_at=task.created_at,
        started_at=task.started_at,
        finished_at=None,
        last_attempted_at=task.started_at,
        args=args,
        kwargs=kwargs,
        backend=backend,
        errors=[],
        worker_ids=worker_ids,
    )


def _finish(result: TaskResult, status: TaskResultStatus) -> None:
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "status", status)


def _is_final(attempt: Attempt, error: BaseException) -> bool:
    """Tell whether the worker will record this end as the task's, by the rules of ``pq_core.policy``."""
    if isinstance(error, TaskCancelled):
        # Cancelled for good, or interrupted by a worker that stops: the row says which.
        with suppress(Exception):
            record = pq.get_task(attempt.id)
            return record is not None and record.cancel_requested_at is not None
        return False
    if isinstance(error, Snooze):
        return False
    if isinstance(error, Cancel) or attempt.number >= attempt.max_attempts:
        return True
    if isinstance(error, Retry):
        return False
    return not retryable(error, pq.registry.resolve(attempt.name).options_over(pq.defaults))


def _send(signal: Any, result: TaskResult) -> None:
    """Send a signal; Django logs what a receiver raises, and the task goes on."""
    signal.send_robust(sender=type(task_backends[result.backend]), task_result=result)
