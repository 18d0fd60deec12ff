"""Registering plugins, and calling them so that none can hurt a task or another plugin.

pluggy checks and orders the implementations; it does not isolate them (the first that raises stops the rest), so
each is called on its own here, through one typed method per hook.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import mmap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from pq_hooks import specs
from pq_hooks.enqueuing import Enqueuing
from pq_hooks.errors import PluginError
from pq_hooks.nesting import Nested, bounded
from pq_hooks.offered import offered

if TYPE_CHECKING:
    from pq_core.executor import AsyncExecutor, Executor
    from pq_core.tasks import Call
    from pq_core.types import AttemptOutcome, ClaimedTask, WorkerInfo

__all__ = ["ENTRY_POINT_GROUP", "HOOKS", "PluginError", "Plugins"]

ENTRY_POINT_GROUP = "pq.plugins"
PREFIX = "pq_"
HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(specs).items()
    if name.startswith(PREFIX) and inspect.isfunction(spec)
}
"""The hooks and their arguments."""

Implementation = tuple[str, Callable[..., Any]]

_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()
_PAGE = 4096
_log = logging.getLogger("pq.plugins")


class _Manager(pluggy.PluginManager):
    """Takes functions named as a hook without asking for the decorator."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            return None  # pluggy would run it
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name in HOOKS and inspect.isroutine(getattr(plugin, name)):
            return {
                "wrapper": False,
                "hookwrapper": False,
                "optionalhook": False,
                "tryfirst": False,
                "trylast": False,
                "specname": None,
            }
        return options


class Plugins:
    """The plugins of one ``PQ``, in the order of registration.

    ``discover``: add those that installed packages offer. ``block``: names of plugins that are not taken.
    ``exit_limit``: seconds that each plugin has to leave a task. Raises ``PluginError`` like ``register``.
    """

    def __init__(
        self,
        plugins: Iterable[object] = (),
        *,
        discover: bool = False,
        block: Iterable[str] = (),
        exit_limit: float = 5.0,
    ) -> None:
        self._manager = _Manager(specs.PROJECT)
        self._manager.add_hookspecs(specs)
        self._blocked: set[str] = set(block)
        self._exit_limit = exit_limit
        # One byte per kind of failure, shared with the children: each of them is a new process, and each would
        # log for the first time what the one before it has logged already.
        self._logged: mmap.mmap | None = None
        self._implementations: dict[str, tuple[Implementation, ...]] = dict.fromkeys(HOOKS, ())
        for plugin in plugins:
            self._add(plugin, None)
        if discover:
            self._discover()
        self._prepare()

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add an object, a module, or a class (which is called without arguments).

        ``name``: by default the dotted name of the module or class. Raises ``PluginError`` for a function that is
        named like a hook and is none, for arguments that the hook does not have, and for what implements nothing.
        A plugin that is there already, or blocked, is not added.
        """
        self._add(plugin, name)
        self._prepare()

    def unregister(self, plugin: object) -> None:
        """Remove the plugin, if it is there."""
        if self._manager.is_registered(plugin):
            self._manager.unregister(plugin)
            self._prepare()

    def block(self, name: str) -> None:
        """Remove the plugins of this name, or of a class of this name, and take none of them from now on."""
        self._blocked.add(name)
        for known, plugin in self._manager.list_name_plugin():
            if plugin is not None and self._is_blocked(known.partition("#")[0]):
                self._manager.unregister(plugin)
        self._prepare()

    def discover(self) -> None:
        """Add the plugins that installed packages offer in the entry point group ``pq.plugins``."""
        self._discover()
        self._prepare()

    def implementations(self) -> dict[str, list[str]]:
        """Return for every hook the names of the plugins that implement it, in the order they are called."""
        return {hook: [name for name, _ in found] for hook, found in self._implementations.items()}

    def has(self, hook: str) -> bool:
        """Return whether any plugin implements the hook."""
        return bool(self._implementations[hook])

    @property
    def has_task_died(self) -> bool:
        """Whether a process is worth its fork to report a death."""
        return bool(self._task_died)

    # The hooks. With no plugin each of them is one test of an empty tuple.

    def before_enqueue(self, task: Call[Any], headers: dict[str, str]) -> None:
        """Call ``pq_before_enqueue``; headers that are not text by text are taken back."""
        for name, call in self._before_enqueue:
            before = dict(headers)
            try:
                call(task, headers)
                if not all(type(key) is str and type(value) is str for key, value in headers.items()):
                    raise TypeError("headers must be text by text")
            except KeyboardInterrupt:  # of the user, in a process of the user
                raise
            except BaseException as error:
                headers.clear()
                headers.update(before)
                self._report(name, "pq_before_enqueue", error)

    def enqueuing(self, tasks: Sequence[Call[Any]]) -> AbstractContextManager[None] | None:
        """Return what stands around the statement that enqueues ``tasks``; None if no plugin asks how it ended."""
        return Enqueuing(tasks, self._enqueued) if self._after_enqueue else None

    def _enqueued(self, tasks: Sequence[Call[Any]], seconds: float, error: BaseException | None) -> None:
        for name, call in self._after_enqueue:
            try:
                call(tasks, seconds, error)
            except KeyboardInterrupt:  # of the user, in a process of the user
                raise
            except BaseException as failure:
                self._report(name, "pq_after_enqueue", failure)

    def before_forks(self) -> None:
        """Call ``pq_before_forks``."""
        for name, call in self._before_forks:
            self._isolated(name, "pq_before_forks", call)

    def worker_start(self, worker: WorkerInfo) -> None:
        """Call ``pq_worker_start``."""
        for name, call in self._worker_start:
            self._isolated(name, "pq_worker_start", call, worker)

    def worker_stop(self, worker: WorkerInfo) -> None:
        """Call ``pq_worker_stop``."""
        for name, call in self._worker_stop:
            self._isolated(name, "pq_worker_stop", call, worker)

    def pre_fork(self, task: ClaimedTask) -> None:
        """Call ``pq_pre_fork``."""
        for name, call in self._pre_fork:
            self._isolated(name, "pq_pre_fork", call, task)

    def in_child(
        self,
        task: ClaimedTask,
        *,
        passing: tuple[type[BaseException], ...] = (),
        deciding: tuple[type[BaseException], ...] = (),
    ) -> AbstractContextManager[Any]:
        """Return the plugins' context managers as one, which never raises but what it is told to let pass.

        ``passing``: exceptions that a signal raises in the task; one that comes while a plugin's code runs
        belongs to the task. ``deciding``: exceptions by which a plugin says, before the task begins, how the
        attempt ends. Each exit is interrupted after ``exit_limit`` seconds (in the main thread only:
        nowhere else can it be).
        """
        if not self._in_child:
            return _NOTHING
        return Nested(self._in_child, task, passing, deciding, self._exit_limit, self._report)

    def post_task(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Call ``pq_post_task``."""
        for name, call in self._post_task:
            self._isolated(name, "pq_post_task", call, task, outcome)

    def task_died(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Call ``pq_task_died``, each plugin for at most ``exit_limit`` seconds."""
        for name, call in self._task_died:
            self._isolated(name, "pq_task_died", bounded, self._exit_limit, call, task, outcome)

    def executor(self, connection: object) -> Executor | AsyncExecutor | None:
        """Return the first executor that a plugin makes of the connection."""
        for name, call in self._executor:
            try:
                found = call(connection)
                if found is not None and not callable(getattr(found, "execute", None)):
                    raise TypeError(f"an executor needs execute(); got {type(found).__qualname__}")
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._report(name, "pq_executor", error)
            else:
                if found is not None:
                    return found  # type: ignore[no-any-return]
        return None

    def _isolated(self, name: str, hook: str, call: Callable[..., Any], *arguments: object) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            self._report(name, hook, error)

    def _report(self, name: str, hook: str, error: BaseException) -> None:
        """Log a plugin's failure, once per plugin, hook and type of error."""
        kind = f"{name} {hook} {type(error).__module__}.{type(error).__qualname__}"
        place = hash(kind) % _PAGE  # the same in every process that is forked from here
        if self._logged is not None and self._logged[place]:
            return
        if self._logged is not None:
            self._logged[place] = 1
        with contextlib.suppress(Exception):
            _log.error(
                "plugin %s failed in %s (logged once for this kind of error): %s",
                *(name, hook, _words(error)),
                exc_info=(type(error), error, error.__traceback__),
            )

    def _add(self, plugin: object, name: str | None) -> None:
        if name is None:
            name = _name_of(plugin)
        if self._is_blocked(name) or self._manager.is_registered(plugin):
            return
        if isinstance(plugin, type):
            try:
                plugin = plugin()
            except Exception as error:
                raise PluginError(f"plugin {name} can't be made: {_words(error)}; pass an instance") from error
        _check(plugin, name)
        number = 2
        unique = name
        while self._manager.has_plugin(unique):
            unique, number = f"{name}#{number}", number + 1
        try:
            self._manager.register(plugin, unique)
        except (pluggy.PluginValidationError, ValueError) as error:
            self._manager.unregister(name=unique) if self._manager.has_plugin(unique) else None
            raise PluginError(f"plugin {name}: {str(error).splitlines()[-1]}") from error

    def _discover(self) -> None:
        for entry in offered(ENTRY_POINT_GROUP):
            if self._is_blocked(entry.name):
                continue
            try:
                plugin = entry.load()
            except Exception as error:
                raise PluginError(f"plugin {entry.name} ({entry.value}) can't be loaded: {_words(error)}") from error
            self._add(plugin, entry.name)

    def _is_blocked(self, name: str) -> bool:
        return name in self._blocked or name.rpartition(".")[2] in self._blocked

    def _prepare(self) -> None:
        """Put every hook's implementations into a tuple, so that calling none costs next to nothing."""
        for hook, arguments in HOOKS.items():
            found = getattr(self._manager.hook, hook).get_hookimpls()
            ordered = sorted(found, key=lambda each: each.trylast - each.tryfirst)
            self._implementations[hook] = tuple((each.plugin_name, _adapted(each, arguments)) for each in ordered)
        if self._logged is None and any(self._implementations.values()):
            self._logged = mmap.mmap(-1, _PAGE)
        self._before_enqueue = self._implementations["pq_before_enqueue"]
        self._after_enqueue = self._implementations["pq_after_enqueue"]
        self._before_forks = self._implementations["pq_before_forks"]
        self._worker_start = self._implementations["pq_worker_start"]
        self._worker_stop = self._implementations["pq_worker_stop"]
        self._pre_fork = self._implementations["pq_pre_fork"]
        self._in_child = self._implementations["pq_in_child"]
        self._post_task = self._implementations["pq_post_task"]
        self._task_died = self._implementations["pq_task_died"]
        self._executor = self._implementations["pq_executor"]


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    kind = plugin if isinstance(plugin, type) else type(plugin)
    return f"{kind.__module__}.{kind.__qualname__}"


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__qualname__}: {error}"[:500]
    except BaseException:
        return type(error).__qualname__


def _check(plugin: object, name: str) -> None:
    """Refuse what would never be called, or not as its author thinks."""
    hooks = 0
    for attribute in dir(plugin):
        if not callable(inspect.getattr_static(plugin, attribute, None)):
            continue
        function = getattr(plugin, attribute)
        options = getattr(function, f"{specs.PROJECT}_impl", None)
        options = options if isinstance(options, dict) else {}
        if not attribute.startswith(PREFIX) and not options:
            continue
        # A module may have imported what only looks like a hook.
        own = not isinstance(plugin, ModuleType) or getattr(function, "__module__", None) == plugin.__name__
        if own or attribute in HOOKS:
            _check_hook(f"plugin {name}: {attribute}", options.get("specname") or attribute, function, options)
            hooks += 1
    if not hooks:
        raise PluginError(f"plugin {name} implements no hook; there are {', '.join(HOOKS)}")


def _check_hook(subject: str, hook: str, function: Any, options: dict[str, Any]) -> None:
    if hook not in HOOKS:
        import difflib

        near = difflib.get_close_matches(hook, HOOKS, n=1, cutoff=0)
        raise PluginError(f"{subject} is no hook; did you mean {near[0]}?")
    if not inspect.isroutine(function):
        raise PluginError(f"{subject} must be a function or a method")
    if options.get("wrapper") or options.get("hookwrapper"):
        raise PluginError(f"{subject} is a wrapper: these can't be isolated from each other")
    if inspect.iscoroutinefunction(function):
        raise PluginError(f"{subject} is a coroutine function: hooks are plain functions")
    if inspect.isgeneratorfunction(function):
        raise PluginError(f"{subject} is a generator function: decorate it with contextlib.contextmanager")
    expected = HOOKS[hook]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginError(f"{subject} takes {parameter}: name the arguments it needs, of {', '.join(expected)}")
        if parameter.name not in expected and parameter.default is parameter.empty:
            raise PluginError(f"{subject} has no argument {parameter.name!r}; it has {', '.join(expected)}")


def _adapted(implementation: Any, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Return the implementation as a function of all the hook's arguments in their order."""
    function: Callable[..., Any] = implementation.function
    named: tuple[str, ...] = implementation.argnames
    if named == arguments:
        return function
    places = [arguments.index(name) for name in named]

    def call(*given: object) -> Any:
        return function(*(given[place] for place in places))

    return call
