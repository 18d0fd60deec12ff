"""Task functions, calls that can be enqueued, versions of their arguments.

A task's name is what a row stores, so it outlives the code. With ``name=`` it is that, after the group's
prefix and a dot if there is one; without, it is ``module:qualname``, or with a prefix ``prefix.qualname``.
Aliases are whole names that rows may still hold from before; no prefix is added to them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from pq_core import current
from pq_core.errors import InvalidTask
from pq_core.functions import Arity, check_function, describe, parameters_of, same_code
from pq_core.main_module import module_of
from pq_core.options import (
    FROZEN_NAMES,
    CallFields,
    changed,
    check_name,
    is_integer,
    names,
    spec_fields,
)
from pq_core.payload import signature_of
from pq_core.types import CallOptions, R_co, TaskId, TaskOptions
from pq_core.upgrades import U, Upgrades

if TYPE_CHECKING:
    from typing import Unpack

    from pq_core.client import PQ
    from pq_core.registry import Registry
    from pq_core.task_groups import TaskGroup

P = ParamSpec("P")
R = TypeVar("R")

PAYLOAD_LIMIT = 2**20

_NOTHING_SAID = CallOptions()

_ELSEWHERE = {
    **dict.fromkeys(("delay", "send", "defer", "submit", "queue"), "enqueue(…), or pq.enqueue(task.call(…))"),
    **dict.fromkeys(("apply_async", "send_with_options", "configure", "schedule"), "options(run_in=…).enqueue(…)"),
    **dict.fromkeys(("s", "si", "signature", "message"), "call(…)"),
}
"""What tasks of other libraries have, and what stands here for it."""


class Task(Generic[P, R]):
    """A task function: call it and it runs here and now; ``call``, ``enqueue`` and ``options`` put it off.

    ``settings``: the options said at its definition and by its group. ``clashing``: its parameters that are
    named like python-pq's flat options; such a task can't be enqueued in python-pq's form.
    """

    __name__: str
    __qualname__: str

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        aliases: Iterable[str] = (),
        version: int = 1,
        settings: TaskOptions | None = None,
        group: TaskGroup | None = None,
    ) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), function, updated=())
        self.function = function
        self.name = name
        self.aliases = names(aliases, option="aliases", error=InvalidTask)
        self.settings = settings or TaskOptions()
        self._merged = (TaskOptions(), self.settings)
        self._written: tuple[TaskOptions, dict[str, Any]] | None = None
        self.group = group
        self.is_async = inspect.iscoroutinefunction(function)
        check_name("name", name, error=InvalidTask, what=describe(function))
        if not is_integer(version, 1, 2**31 - 1):
            raise InvalidTask(f"{name}: version={version!r}: give an integer of at least 1")
        self.version = version
        self._upgrades = Upgrades(name, version)
        try:
            self.signature = parameters_of(function)
        except (TypeError, ValueError) as error:
            raise InvalidTask(f"{name}: Python can't tell the parameters of {function!r}: wrap it in a def") from error
        self.clashing = FROZEN_NAMES & self.signature.parameters.keys()
        self._arity = Arity(self.signature)

    if not TYPE_CHECKING:  # a name that is not there is an error to the type checker already

        def __getattr__(self, name: str) -> Any:
            how = _ELSEWHERE.get(name)
            if how is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(f"a task of pq has no {name}(): write {self.__dict__.get('__name__', 'task')}.{how}")

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, without a row, a child or a retry."""
        return cast("R", self.function(*args, **kwargs))

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return a call that can be enqueued. Arguments that do not fit the signature are ``InvalidTask``."""
        return _call(self, args, kwargs, _NOTHING_SAID)

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]:
        """Enqueue a call in a transaction of its own, on the group's ``PQ`` or this process's."""
        return _call(self, args, kwargs, _NOTHING_SAID).enqueue()

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]:
        """``enqueue`` for asynchronous callers."""
        return await _call(self, args, kwargs, _NOTHING_SAID).aenqueue()

    def options(self, **given: Unpack[CallFields]) -> BoundOptions[P, R]:
        """Return this task with options for the calls made from it: ``task.options(run_in=…).enqueue(7)``."""
        return BoundOptions(task=self, settings=changed(CallOptions(), with_calls(given), what=self.name))

    def upgrade(self, *, from_version: int) -> Callable[[U], U]:
        """Register a function that turns the arguments of ``from_version`` into those of the next version.

        It takes the old arguments and returns ``(args, kwargs)``; as the last of a chain it may return a call of
        this task instead. A version without such a function hands its arguments on as they are.
        """
        return self._upgrades.registering(from_version)

    def upgraded(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], version: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments stored by ``version`` as this version takes them.

        ``UnknownTask``: they come from newer code; the worker releases the task. ``InvalidTask``: an upgrade
        returned something else than a call of this task or a pair.
        """
        return self._upgrades.apply(args, kwargs, version)

    @functools.cached_property
    def typed_signature(self) -> inspect.Signature:
        """The parameters with annotations evaluated, at first use: at the definition names may still be missing."""
        return signature_of(self.function)

    def signature_of(self, version: int) -> inspect.Signature:
        """Return the parameters that arguments stored by ``version`` meet first: an upgrade's or the function's."""
        return self._upgrades.signature_of(version) or self.typed_signature

    def prepare(self) -> None:
        """Evaluate all signatures now, in the worker, so that no child has to."""
        self.signature_of(self.version)
        self._upgrades.prepare()

    def takes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Say whether the arguments fit. Unlike the words of ``check_arguments``, which show the defaults, this calls
        nothing of the application's.
        """
        if self._arity.fits(args, kwargs):
            return True
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ``InvalidTask`` naming the task and what is missing or too much."""
        if self._arity.fits(args, kwargs):
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidTask(f"{self.name}: {error}; it takes {self.signature}") from None

    def options_over(self, defaults: TaskOptions) -> TaskOptions:
        """Return the options of this task, what it leaves unsaid taken from a ``PQ``'s defaults."""
        # Kept for the last defaults asked for: a batch asks ten thousand times for the same.
        if self._merged[0] is not defaults:
            self._merged = (defaults, self.settings.over(defaults))
        return self._merged[1]

    def fields_over(self, defaults: TaskOptions) -> dict[str, Any]:
        """Return the options of this task as ``pq_enqueue`` takes them, to be copied; see ``spec_fields``."""
        written = self._written
        if written is None or written[0] is not defaults:
            written = self._written = (defaults, spec_fields(self.options_over(defaults)))
        return written[1]

    @property
    def reference(self) -> str:
        """The function's name as its module's code would write it, for messages."""
        return self.__qualname__

    @property
    def place(self) -> str:
        """Where the function is defined: ``module:qualname (file:line)``."""
        return describe(self.function)

    def same_place(self, other: Task[..., Any]) -> bool:
        """Tell whether both are the same lines of code, as when a module is loaded twice: then the later one counts."""
        return same_code(self.function, other.function)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


class AsyncTask(Task[P, R]):
    """A task whose function is ``async def``: ``R`` is what it returns once awaited; calling it gives the coroutine."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Return the coroutine of the function."""
        return cast("Coroutine[Any, Any, R]", self.function(*args, **kwargs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[R_co]):
    """A task with its arguments, ready to be enqueued. ``settings``: what was said of this call alone."""

    task: Task[..., R_co]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: CallOptions = _NOTHING_SAID

    def options(self, **given: Unpack[CallFields]) -> Call[R_co]:
        """Return this call with options changed."""
        return replace(self, settings=changed(self.settings, with_calls(given), what=self.task.name))

    def enqueue(self) -> TaskId[R_co]:
        """Enqueue it in a transaction of its own, on the group's ``PQ`` or this process's."""
        return cast("TaskId[R_co]", current.pq_for(_owner(self.task)).enqueue(self))

    async def aenqueue(self) -> TaskId[R_co]:
        """``enqueue`` for asynchronous callers."""
        return cast("TaskId[R_co]", await current.pq_for(_owner(self.task)).aenqueue(self))

    def options_over(self, defaults: TaskOptions) -> CallOptions:
        """Return the options that hold: the call's over the task's over its group's over ``defaults``."""
        return cast("CallOptions", self.settings.over(self.task.options_over(defaults)))

    def spec(
        self, defaults: TaskOptions, registry: Registry, *, payload_limit: int = PAYLOAD_LIMIT, nested: bool = False
    ) -> dict[str, Any]:
        """Return the JSON object that ``pq_enqueue`` takes.

        ``nested``: it is another call's ``on_failure``; then the defaults' own ``on_failure`` does not apply to
        it, or a failing failure handler would go on for ever. Errors: ``TaskNotAllowed``, ``PayloadError``,
        ``KeysNotConfigured``.
        """
        task = registry.task_for(self.task)
        settings = self.settings
        spec = registry.seals.arguments(
            settings.payload or task.options_over(defaults).payload or "json",
            self.args,
            self.kwargs,
            name=task.name,
            version=task.version,
            signature=task.typed_signature,
            limit=payload_limit,
        )
        spec["name"] = task.name
        # Each option is written by itself, so the stronger ones can be laid over what is known of the task.
        spec.update(task.fields_over(defaults))
        if settings is not _NOTHING_SAID:
            spec.update(spec_fields(settings))
        if task.version != 1:
            spec["version"] = task.version
        handler = settings.on_failure or task.settings.on_failure or (None if nested else defaults.on_failure)
        if handler is not None:
            spec["on_failure"] = handler.spec(defaults, registry, payload_limit=payload_limit, nested=True)
        return spec

    def __repr__(self) -> str:
        if self.task.settings.sensitive:
            return f"<Call {self.task.name}(…)>"
        words = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return f"<Call {self.task.name}({', '.join(words)})>"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundOptions(Generic[P, R]):
    """A task with options for the calls made from it."""

    task: Task[P, R]
    settings: CallOptions

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return a call with these options."""
        return _call(self.task, args, kwargs, self.settings)

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]:
        """Enqueue a call with these options, as ``Task.enqueue`` does."""
        return _call(self.task, args, kwargs, self.settings).enqueue()

    async def aenqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]:
        """``enqueue`` for asynchronous callers."""
        return await _call(self.task, args, kwargs, self.settings).aenqueue()

    def options(self, **given: Unpack[CallFields]) -> BoundOptions[P, R]:
        """Return the same with options changed."""
        return replace(self, settings=changed(self.settings, with_calls(given), what=self.task.name))


@overload
def call(function: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
@overload
def call(function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
@overload
def call(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call[Any]:
    """Return a call of a function that no group declares; its module must be in ``allow=[…]`` to be enqueued."""
    return _call(as_task(function), args, kwargs, _NOTHING_SAID)


def as_task(function: Callable[..., Any]) -> Task[..., Any]:
    """Return a task as it is, and a plain function as an undeclared task named ``module:qualname``."""
    return function if isinstance(function, Task) else _undeclared(function)


def duplicate(name: str, task: Task[..., Any], other: Task[..., Any]) -> InvalidTask:
    """Return the error for a name that two tasks claim, with both places."""
    return InvalidTask(
        f"two tasks are called {name!r}: {task.place} and {other.place}; give one of them another name= or alias"
    )


@functools.lru_cache(maxsize=512)
def _undeclared(function: Callable[..., Any]) -> Task[..., Any]:
    check_function(function)
    kind = AsyncTask if inspect.iscoroutinefunction(function) else Task
    return kind(function, name=f"{module_of(function)}:{getattr(function, '__qualname__', type(function).__name__)}")


def _call(task: Task[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any], settings: CallOptions) -> Call[R]:
    task.check_arguments(args, kwargs)
    return Call(task=task, args=args, kwargs=kwargs, settings=settings)


def _owner(task: Task[..., Any]) -> PQ | None:
    return task.group.owner if task.group is not None else None


def with_calls(given: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``on_failure=task`` stand for ``on_failure=task.call()``."""
    handler = given.get("on_failure")
    return {**given, "on_failure": handler.call()} if isinstance(handler, Task) else dict(given)
