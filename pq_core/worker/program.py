"""What a worker can run: the application's tasks, found once and ready before the first fork."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pq_core.errors import InvalidTask, KeysNotConfigured, PayloadDecodeError, TaskNotAllowed, UnknownTask
from pq_core.payload import needs_no_types
from pq_core.policy import Transition, decide, retryable
from pq_core.types import Backoff, ClaimedTask, Outcome, TaskStatus
from pq_core.worker.child_setup import Unroutable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pq_core.registry import Registry
    from pq_core.tasks import Task
    from pq_core.types import JSON, AttemptOutcome, TaskOptions
    from pq_core.worker.child_setup import Loaded
    from pq_core.worker.handing import Arguments
    from pq_core.worker.verdict import Verdict

_DEFAULT_BACKOFF = Backoff()
_COMPLETED = Transition(status=TaskStatus.COMPLETED, outcome=Outcome.SUCCEEDED)
_STORED = ("memory_limit", "grace", "result_limit", "backoff")
LOADED_AHEAD = 4096
"""Characters of arguments that a worker decodes for a child. More would keep it from its other children."""
_NO_ARGUMENTS = '{"args": [], "kwargs": {}}'


@dataclass(slots=True, kw_only=True)
class Program:
    """The tasks of one application as a worker runs them.

    ``release_delay``: seconds before a task that this code can't run is offered again. ``unroutable_after``:
    seconds after which it fails instead.
    """

    registry: Registry
    defaults: TaskOptions
    release_delay: float
    unroutable_after: float
    _found: dict[str, Task[..., Any]] = field(default_factory=dict)
    _with_secrets: dict[str, bool] = field(default_factory=dict)
    _declared: dict[str, tuple[float | None, dict[str, Any]]] = field(default_factory=dict)

    def find(self, task: ClaimedTask) -> Task[..., Any]:
        """Return the task function that a stored task names.

        Raises Unroutable for a name that is unknown or not allowed here, and for a version newer than this code's.
        """
        found = self._found.get(task.name)
        if found is None:
            try:
                found = self.registry.resolve(task.name)
            except (UnknownTask, TaskNotAllowed, InvalidTask) as error:
                raise Unroutable(str(error)) from error
            self._found[task.name] = found
        if task.version > found.version:
            raise Unroutable(f"{task.name}: version {task.version} is newer than this code's {found.version}")
        return found

    def as_declared(self, task: ClaimedTask) -> ClaimedTask:
        """Return the task with what its row leaves unsaid taken from its code: SQL need not repeat the code's options.

        Of those that a worker needs while it runs: ``timeout``, ``memory_limit``, ``grace``, ``result_limit`` and
        ``backoff``. A row always says something of the others. A task that this code can't run is returned as it is.
        """
        declared = self._declared.get(task.name)
        if declared is None:
            try:
                fields = self.find(task).fields_over(self.defaults)
            except Unroutable:
                return task
            stored = {name: fields[name] for name in _STORED if name in fields}
            declared = self._declared[task.name] = (fields.get("timeout"), stored)
        timeout, options = declared
        if timeout is not None and task.timeout is None:
            task = replace(task, timeout=float(timeout))
        if options and options.keys() - task.options.keys():
            task = replace(task, options={**options, **task.options})
        return task

    def is_async(self, task: ClaimedTask) -> bool:
        """Say whether the task is a coroutine that may share a process; one with secrets may not."""
        return self.find(task).is_async and not self.sensitive(task)

    def sensitive(self, task: ClaimedTask) -> bool:
        """Say whether nothing of the task's values may get out: its row says so, or its code."""
        if task.options.get("sensitive"):
            return True
        known = self._with_secrets.get(task.name)
        if known is None:
            found = self._found.get(task.name)
            if found is None:
                return False
            known = self._with_secrets[task.name] = bool(found.options_over(self.defaults).sensitive)
        return known

    def declared(self, task: ClaimedTask, option: str) -> Any:
        """Return what the code says of an option that lives there alone; None where it says nothing."""
        found = self._found.get(task.name)
        return None if found is None else getattr(found.options_over(self.defaults), option)

    def detaches(self, task: ClaimedTask) -> bool:
        """Say whether processes that the task starts in sessions of their own go on after it."""
        return self.declared(task, "detach") is True

    def demands_result(self, task: ClaimedTask) -> bool:
        """Say whether a result that can't be stored fails the task, whose work is done by then."""
        return self.declared(task, "strict_result") is True

    def shown(self, task: ClaimedTask) -> ClaimedTask:
        """Return the task as plugins may see it."""
        return replace(task, payload=_NO_ARGUMENTS) if self.sensitive(task) else task

    def shown_outcome(self, task: ClaimedTask, outcome: AttemptOutcome) -> AttemptOutcome:
        """Return the outcome as plugins may see it."""
        return replace(outcome, result=None, output=None) if self.sensitive(task) else outcome

    def encode_result(self, task: ClaimedTask, value: Any, limit: int) -> JSON:
        """Return the result as it is stored. Raises PayloadError, KeysNotConfigured."""
        kind = self.find(task).options_over(self.defaults).payload or "json"
        return self.registry.seals.result(kind, value, task_id=task.id, name=task.name, limit=limit)

    def prepare(self) -> None:
        """Import now what the children would otherwise each import anew."""
        kinds = {task.options_over(self.defaults).payload or "json" for task in self.registry.tasks()}
        self.registry.seals.prepare(kinds)
        if any(task.is_async for task in self.registry.tasks()):
            import asyncio  # noqa: F401

    def load(self, task: ClaimedTask) -> Loaded:
        """Return the function and its arguments, decoded; called in the child.

        Raises Unroutable where the arguments don't fit this code, PayloadDecodeError where they can't be read.
        """
        found = self.find(task)
        try:
            args, kwargs = self._opened(found, task)
        except (KeysNotConfigured, ImportError) as error:
            raise Unroutable(str(error)) from error
        if task.version < found.version:
            try:
                args, kwargs = found.upgraded(args, kwargs, task.version)
            except UnknownTask as error:
                raise Unroutable(str(error)) from error
        try:
            found.check_arguments(args, kwargs)
        except InvalidTask as error:
            raise Unroutable(str(error)) from error
        return found.function, args, kwargs

    def function_of(self, task: ClaimedTask) -> Callable[..., Any]:
        """Return the function that the task is for. Raises Unroutable."""
        return self.find(task).function

    def load_ahead(self, task: ClaimedTask) -> Arguments | None:
        """Return the arguments that ``load`` does, where nothing of the application is called for it; None: it has to.

        For plain JSON it costs the worker a tenth of what it costs a child, to which its code and data are new.
        """
        try:
            if not self._needs_no_application(task):
                return None
            found = self.find(task)
            args, kwargs = self._opened(found, task)
        except Exception:
            return None  # the child finds it, too, and says it where it belongs
        # Of what does not fit, the child says why: that shows the defaults of the application.
        return (args, kwargs) if found.takes(args, kwargs) else None

    def _opened(self, found: Task[..., Any], task: ClaimedTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.registry.seals.open_arguments(
            found.options_over(self.defaults).payload or "json",
            task.payload,
            name=task.name,
            version=task.version,
            signature=found.signature_of(task.version),
        )

    def _needs_no_application(self, task: ClaimedTask) -> bool:
        found = self.find(task)
        return (
            task.version == found.version
            and len(task.payload) <= LOADED_AHEAD
            and (found.options_over(self.defaults).payload or "json") == "json"
            and not self.sensitive(task)
            and needs_no_types(task.payload, signature=found.signature_of(task.version))
        )

    def retryable(self, task: ClaimedTask, error: BaseException) -> bool:
        """Say whether the task function's options let ``error`` be tried again; called in the child."""
        if isinstance(error, PayloadDecodeError):
            return False
        return retryable(error, self.find(task).options_over(self.defaults))

    def decide(self, task: ClaimedTask, verdict: Verdict) -> Transition:
        """Return what becomes of the task."""
        outcome = verdict.outcome
        if outcome is Outcome.SUCCEEDED:
            return _COMPLETED
        if outcome is Outcome.RELEASED:
            return self.release(task, verdict.error, verdict.after)
        if outcome is Outcome.INTERRUPTED and task.on_lost == "fail" and verdict.started:
            return Transition(
                status=TaskStatus.FAILED,
                outcome=outcome,
                error=f'{verdict.error}\non_lost="fail" forbids to start it twice',
            )
        from random import random  # the worker decides, not its child

        return decide(
            outcome,
            number=task.number,
            max_attempts=task.max_attempts,
            retryable=verdict.retryable,
            backoff=stored_backoff(task),
            after=verdict.after,
            error=verdict.error,
            random=random,
        )

    def refused_from(self, task: ClaimedTask) -> int:
        """Return the lowest version of the task's name that ``find`` refuses."""
        found = self._found.get(task.name)
        return -(2**31) if found is None else found.version + 1

    def release(self, task: ClaimedTask, error: str | None, after: float | None = None) -> Transition:
        """Return the transition of a task that this code can't run. ``after``: instead of ``release_delay``."""
        if task.unroutable is not None and task.unroutable >= self.unroutable_after:
            words = f"unroutable: for {task.unroutable:.0f} s no worker could run it: {error}"
            return Transition(status=TaskStatus.FAILED, outcome=Outcome.RELEASED, counted=False, error=words)
        return Transition(
            status=TaskStatus.PENDING,
            outcome=Outcome.RELEASED,
            counted=False,
            delay=self.release_delay if after is None else after,
            error=error,
        )


def stored_backoff(task: ClaimedTask) -> Backoff:
    """Return the backoff stored with the task; the default where there is none or a broken one."""
    stored = task.options.get("backoff")
    if not isinstance(stored, dict):
        return _DEFAULT_BACKOFF
    try:
        return Backoff(**stored)
    except (TypeError, ValueError):
        return _DEFAULT_BACKOFF
