"""The backend of ``django.tasks``: ``TASKS = {"default": {"BACKEND": "pq_adapters.django.PQBackend"}}``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

try:
    from django.tasks.backends.base import BaseTaskBackend
except ImportError as error:
    raise ImportError(
        "PQBackend needs django.tasks, which came with Django 6.0; with an older Django, "
        "'from pq_adapters.django import pq' and pq.enqueue() do the same"
    ) from error
from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.tasks.base import DEFAULT_TASK_BACKEND_ALIAS, Task, TaskResult, TaskResultStatus
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.json import normalize_json

from pq_adapters.django import results
from pq_adapters.django.client import pq
from pq_adapters.django.declared import by_name, take
from pq_adapters.django.running import runner
from pq_core import options
from pq_core.errors import InvalidOption, PayloadError
from pq_core.tasks import Call
from pq_core.tasks import Task as PQCoreTask
from pq_core.types import Backoff, CallOptions, TaskOptions

OWN_OPTIONS = (
    *("max_attempts", "timeout", "grace", "backoff", "memory_limit", "on_lost", "max_starts", "result_limit"),
    *("client_id", "on_duplicate", "unique", "headers", "require_transaction"),
)
"""What ``@task`` (from Django 6.1 on) and ``using()`` take beside Django's own; the words are those of pq."""
CODE_OPTIONS = ("retry_on", "no_retry_on")
"""The same for what lives in code and is not stored: of use in ``@task`` alone."""
BACKEND_OPTIONS = (*OWN_OPTIONS[:8], *CODE_OPTIONS)
"""What OPTIONS of the backend takes: defaults for all its tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PQTask(Task):
    """A task of Django's with pq's options. ``timeout``: seconds. See ``TaskOptions`` and ``CallOptions`` for all."""

    run_after: datetime | timedelta | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    grace: float | None = None
    backoff: Backoff | None = None
    memory_limit: int | None = None
    on_lost: str | None = None
    max_starts: int | None = None
    result_limit: int | None = None
    client_id: str | None = None
    on_duplicate: str | None = None
    unique: str | None = None
    headers: Mapping[str, str] | None = None
    require_transaction: bool | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    no_retry_on: tuple[type[BaseException], ...] | None = None

    def using(self, **changes: Any) -> PQTask:
        """Return this task with other options, Django's (``priority queue_name run_after backend``) or pq's."""
        known = {field.name for field in fields(self)} - {"func", "takes_context", *CODE_OPTIONS}
        for name in changes:
            if name not in known:
                raise TypeError(f"using() has no option {name!r}; it takes {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


class PQBackend(BaseTaskBackend):
    """Enqueues in the transaction of ``connections[alias]``; a pq worker runs it. Holds no state and no connection."""

    task_class = PQTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def validate_task(self, task: Task) -> None:
        """Raise InvalidTask for what can't work; a task that can is made known to the workers."""
        run_after = task.run_after
        if isinstance(run_after, timedelta):
            # Django's own check knows points in time alone.
            if run_after < timedelta(0):
                raise InvalidTask("run_after must not be negative.")
            replace(task, run_after=None)
            return
        super().validate_task(task)
        try:
            _own(task, OWN_OPTIONS)
            declare(task)
        except InvalidOption as error:
            raise InvalidTask(str(error)) from error

    def enqueue(self, task: Task, args: Iterable[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Enqueue the task in the open transaction, and return what is known of it.

        Raises InvalidTask for one whose module no worker imports, DuplicateClientId, PayloadError (a TypeError) for
        arguments that are not JSON.
        """
        self.validate_task(task)
        args, kwargs = tuple(args), dict(kwargs)
        _check_json(task, args, kwargs)
        result = TaskResult(
            task=task, id="", status=TaskResultStatus.READY, enqueued_at=None, started_at=None, finished_at=None,
            last_attempted_at=None, args=list(args), kwargs=kwargs, backend=self.alias, errors=[], worker_ids=[],
        )  # fmt: skip
        _check_module(task)
        call: Call[Any] = Call(
            task=declare(task), args=tuple(result.args), kwargs=result.kwargs, settings=self._settings(task)
        )
        task_id = pq.enqueue(call)
        if call.settings.on_duplicate == "return":
            # Maybe another one's, in any state.
            return self.get_result(str(int(task_id)))
        object.__setattr__(result, "id", str(int(task_id)))
        object.__setattr__(result, "enqueued_at", timezone.now())
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Return what the database knows of a task. Raises TaskResultDoesNotExist, also for one that isn't Django's."""
        record = pq.get_task(int(result_id)) if str(result_id).isdecimal() else None
        declaration = None if record is None else results.find_declaration(record.name)
        if record is None or declaration is None:
            raise TaskResultDoesNotExist(result_id)
        attempts = pq.attempts(record.id) if record.fence > 1 or record.error else []
        return results.result_of(record, attempts, declaration)

    def check(self, **kwargs: Any) -> Iterable[CheckMessage]:
        """Report what is wrong with this entry of TASKS."""
        where = f"TASKS[{self.alias!r}]"
        if not apps.is_installed("pq_adapters.django"):
            yield Error(
                f"{where} uses PQBackend, but pq's app is not installed.",
                hint='Add "pq_adapters.django" to INSTALLED_APPS: it brings migrations, commands and the admin.',
                id="pq.E004",
            )
        for name in self.options.keys() - set(BACKEND_OPTIONS):
            yield Error(
                f"{where}['OPTIONS'] has an unknown key: {name!r}.",
                hint=f"There are: {', '.join(sorted(BACKEND_OPTIONS))}. Schema and alias are in settings.PQ.",
                id="pq.E005",
            )
        try:
            options.build(TaskOptions, _known(self.options), what=f"{where}['OPTIONS']")
        except InvalidOption as error:
            yield Error(str(error), hint="See TaskOptions in docs/tasks.md.", id="pq.E006")

    def _settings(self, task: Task) -> CallOptions:
        own = {**_known(self.options), **_own(task, OWN_OPTIONS)}
        for name in CODE_OPTIONS:
            own.pop(name, None)
        if self.alias != DEFAULT_TASK_BACKEND_ALIAS:
            own["headers"] = {**(own.get("headers") or {}), results.BACKEND_HEADER: self.alias}
        match task.run_after:
            case timedelta() as distance:
                own["run_in"] = distance
            case datetime() as moment:
                aware = moment if timezone.is_aware(moment) else timezone.make_aware(moment)
                own["run_at"] = aware.astimezone(UTC)
        return options.build(
            CallOptions,
            {**own, "priority": results.stored_priority(task.priority), "queue": task.queue_name},
            what=task.module_path,
        )


def declare(task: Task) -> PQCoreTask[..., Any]:
    """Return the pq task of a Django task, made at its first sight: the decorator's, not a variant by ``using()``."""
    known = by_name.get(task.module_path)
    if known is not None and results.declaration_of(known).func is task.func:
        return known
    settings = options.build(
        TaskOptions,
        {**_own(task, CODE_OPTIONS), "priority": results.stored_priority(task.priority), "queue": task.queue_name},
        what=task.module_path,
    )
    made: PQCoreTask[..., Any] = PQCoreTask(runner(task), name=task.module_path, settings=settings)
    take(made)
    return made


def declare_all(module: ModuleType) -> None:
    """Make every Django task of a module known; one declared for another backend may be enqueued on ours."""
    for value in list(vars(module).values()):
        if isinstance(value, Task) and value.func.__module__ == module.__name__:
            declare(value)


def _own(task: Task, names: Iterable[str]) -> dict[str, Any]:
    given = {name: value for name in names if (value := getattr(task, name, None)) is not None}
    options.build(CallOptions, given, what=task.module_path)
    return given


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in BACKEND_OPTIONS}


def _check_json(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise PayloadError for what Django does not take as an argument, with its place and what to do."""
    for place, value in (*enumerate(args), *kwargs.items()):
        try:
            normalize_json(value)
        except (TypeError, ValueError):
            where = f"argument {place + 1}" if isinstance(place, int) else f"argument {place!r}"
            kind = type(value)
            raise PayloadError(
                f"{task.module_path}.enqueue(): {where} is, or holds, what django.tasks does not take "
                f"({kind.__module__}.{kind.__qualname__}): its arguments are JSON. Pass text, as value.isoformat() or "
                "str(value), and read it in the task; or declare the function with TaskGroup().task and use "
                "pq.enqueue(): its arguments arrive equal, datetime, UUID, Decimal and models of Pydantic included"
            ) from None


def _check_module(task: Task) -> None:
    """Refuse a task that no worker would find: they import the modules with tasks, and the models."""
    module = task.func.__module__
    if module in pq.registry.modules or any(
        config.models_module is not None and config.models_module.__name__ == module
        for config in apps.get_app_configs()
    ):
        return
    raise InvalidTask(
        f"No worker imports {module}, where {task.name} is defined: move it to the 'tasks' module of an installed app, "
        f"or name its module in settings: PQ = {{'tasks': [{module!r}]}}."
    )
