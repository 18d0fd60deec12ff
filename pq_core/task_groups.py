"""Groups that declare task functions, and schedules with them."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from pq_core.errors import InvalidTask
from pq_core.functions import check_function, describe
from pq_core.main_module import module_of
from pq_core.options import TaskFields, build, check_name
from pq_core.schedule_options import Declaration, RhythmFields, build_schedule
from pq_core.tasks import AsyncTask, Task, duplicate, with_calls
from pq_core.types import TaskOptions

if TYPE_CHECKING:
    from typing import Unpack

    from pq_core.client import PQ
    from pq_core.registry import Registry

P = ParamSpec("P")
R = TypeVar("R")
TaskT = TypeVar("TaskT", bound="Task[..., Any]")


class PeriodicDecorator(Protocol):
    """What ``@group.periodic(…)`` decorates with."""

    @overload
    def __call__(self, function: TaskT, /) -> TaskT: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class TaskDecorator(Protocol):
    """What ``@group.task(…)`` decorates with."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class TaskGroup:
    """Tasks declared together, without a ``PQ``: importing them touches neither database nor environment.

    ``prefix``: goes before the names of its tasks. ``queue`` and ``defaults``: for tasks that say nothing else.
    """

    def __init__(
        self, prefix: str | None = None, *, queue: str | None = None, defaults: TaskOptions | None = None
    ) -> None:
        what = f"TaskGroup({prefix!r})"
        if prefix is not None:
            check_name("prefix", prefix, error=InvalidTask, what=what)
        self.prefix = prefix
        self.settings = build(TaskOptions, {"queue": queue}, what=what).over(
            build(TaskOptions, _fields(defaults), what=what)
        )
        self._owners: weakref.WeakSet[PQ] = weakref.WeakSet()
        self._tasks: dict[str, Task[..., Any]] = {}
        self._schedules: dict[tuple[str, str], Declaration] = {}
        self._registries: weakref.WeakSet[Registry] = weakref.WeakSet()

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """Its tasks, in the order of their definition."""
        return tuple(self._tasks.values())

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        version: int = 1,
        **given: Unpack[TaskFields],
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        version: int = 1,
        **given: Unpack[TaskFields],
    ) -> Any:
        """Declare a task function; with or without parentheses.

        ``name``: what rows store (see ``pq_core.tasks`` on names); needed by lambdas and local functions, which
        a worker could not find again. ``aliases``: other whole names that lead to it. ``version``: of its
        arguments; see ``Task.upgrade``. The rest are the fields of ``TaskOptions``.
        """

        def declare(function: Callable[..., Any]) -> Task[..., Any]:
            check_function(function)
            full_name = self._name(function, name)
            settings = build(TaskOptions, with_calls(given), what=full_name).over(self.settings)
            kind = AsyncTask if inspect.iscoroutinefunction(function) else Task
            task: Task[..., Any] = kind(
                function, name=full_name, aliases=aliases, version=version, settings=settings, group=self
            )
            self.add(task)
            return task

        return declare if function is None else declare(function)

    def periodic(
        self,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **rhythm: Unpack[RhythmFields],
    ) -> PeriodicDecorator:
        """Declare that a task runs again and again: above ``@group.task``, or instead of it.

        Takes what ``pq.schedule`` does about the rhythm: ``run_every`` or ``cron``, ``timezone``, ``key``,
        ``max_concurrent``, ``catch_up`` and so on. ``args`` and ``kwargs``: what the function is called with.
        ``options``: of the scheduled call alone, by name. A worker that starts stores what its application declares.
        """

        def declare(function: Any) -> Any:
            task = function if isinstance(function, Task) else self.task(function)
            made = task.call(*args, **(kwargs or {}))
            checked = build_schedule(rhythm, what=f"periodic({task.name})")
            place = (task.name, checked.key)
            known = self._schedules.get(place)
            if known is not None and (known.call.task is task or not known.call.task.same_place(task)):
                raise InvalidTask(
                    f"{task.name}: two schedules have the key {checked.key!r}: give each a key= of its own"
                )
            self._schedules[place] = Declaration(made.options(**options) if options else made, checked)
            return task

        return declare

    @property
    def schedules(self) -> tuple[Declaration, ...]:
        """What was declared by ``periodic``."""
        return tuple(self._schedules.values())

    def add(self, task: Task[..., Any]) -> None:
        """Take the task in, here and in every registry that has this group: a name taken is ``InvalidTask``."""
        for name in (task.name, *task.aliases):
            for other in self._tasks.values():
                if name in (other.name, *other.aliases) and not task.same_place(other):
                    raise duplicate(name, task, other)
        for registry in list(self._registries):
            registry.add(task)
        self._tasks[task.name] = task

    @property
    def owner(self) -> PQ | None:
        """The one ``PQ`` that has this group; with none or several the process's default counts."""
        owners = list(self._owners)
        return owners[0] if len(owners) == 1 else None

    def join(self, registry: Registry, owner: PQ | None) -> None:
        """Note that ``registry``, of ``owner``, has this group and wants to hear of tasks to come."""
        self._registries.add(registry)
        if owner is not None:
            self._owners.add(owner)

    def _name(self, function: Callable[..., Any], name: str | None) -> str:
        if name is None:
            qualname = getattr(function, "__qualname__", "")
            if not qualname or "<" in qualname:
                raise InvalidTask(
                    f"{describe(function)}: a lambda, a local function or an object can't be found again by its "
                    'name: give it one, as in @group.task(name="…")'
                )
            return f"{self.prefix}.{qualname}" if self.prefix else f"{module_of(function)}:{qualname}"
        check_name("name", name, error=InvalidTask, what=describe(function))
        return f"{self.prefix}.{name}" if self.prefix else name

    def __repr__(self) -> str:
        return f"<TaskGroup {self.prefix or '(no prefix)'}: {len(self._tasks)} tasks>"


def _fields(options: TaskOptions | None) -> dict[str, Any]:
    return {} if options is None else {f.name: getattr(options, f.name) for f in fields(options)}
