"""What may run here: the tasks of a ``PQ`` by name, and the plain functions of the modules it allows.

Whoever can write a row chooses a name, so a name never leads to an import or to an attribute by itself: it
is looked up among declared tasks, and else must be a plain function at the top of a module named in ``allow=``.
"""

from __future__ import annotations

import importlib
import re
import sys
import weakref
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from pq_core.close_names import close_names
from pq_core.errors import InvalidOption, TaskNotAllowed, UnknownTask
from pq_core.main_module import loaded_module, module_of
from pq_core.options import LONGEST_NAME, names
from pq_core.sealing import Seals
from pq_core.task_groups import TaskGroup
from pq_core.tasks import Task, as_task, duplicate
from pq_core.types import TaskOptions

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.schedule_options import Declaration

DEFAULT_QUEUE = "default"


class Registry:
    """The tasks of one ``PQ``. Imports nothing until a look-up needs it.

    Safe in threads without a lock, which a forked child could inherit locked: including and adding may be done
    twice, and look-ups read copies.

    ``modules``: those of ``PQ(tasks=[…])``, imported by ``load()``, by ``resolve()``, and by an enqueue of a
    task that is not known yet. ``allow``: modules whose plain functions may run. ``owner``: the ``PQ`` that
    tasks of the groups in here are enqueued on when asked themselves. ``seals``: what seals and opens their payloads.
    """

    def __init__(
        self,
        *,
        modules: Iterable[str] = (),
        allow: Iterable[str] = (),
        owner: PQ | None = None,
        seals: Seals | None = None,
    ) -> None:
        self.seals = seals if seals is not None else Seals()
        self.modules = names(modules, option="tasks")
        self._allow = set(names(allow, option="allow"))
        self._owner = weakref.ref(owner) if owner is not None else None
        self._groups: list[TaskGroup] = []
        self._named: dict[str, Task[..., Any]] = {}
        self._functions: dict[Callable[..., Any], Task[..., Any]] = {}
        self._allowed: dict[str, Task[..., Any]] = {}
        self._loaded: set[str] = set()

    def allow(self, modules: Iterable[str]) -> None:
        """Let the plain functions of these modules run, too."""
        self._allow.update(names(modules, option="allow"))

    def allowed_modules(self) -> list[str]:
        """Return the modules whose plain functions may run, sorted."""
        return sorted(self._allow)

    def include(self, group: TaskGroup) -> None:
        """Take in a group's tasks, those it gets later as well. ``InvalidTask``: a name is taken."""
        if any(group is known for known in self._groups):
            return
        for task in group.tasks:
            self.add(task)
        self._groups.append(group)
        group.join(self, self._owner() if self._owner is not None else None)

    def add(self, task: Task[..., Any]) -> None:
        """Take in one task; of two definitions by the same lines of code (a reload) the later one counts."""
        claimed = (task.name, *task.aliases)
        for name in claimed:
            other = self._named.get(name)
            if other is not None and not task.same_place(other):
                raise duplicate(name, task, other)
        self._named.update(dict.fromkeys(claimed, task))
        self._functions.setdefault(task.function, task)

    def load(self, modules: Iterable[str] | None = None) -> None:
        """Import ``modules`` (by default those of ``tasks=[…]``) and take in the groups they hold.

        ``InvalidOption``: there is no such module. What a module raises while it is imported comes through.
        """
        for name in self.modules if modules is None else names(modules, option="tasks"):
            if name in self._loaded:
                continue
            self._collect(_import(name))
            self._loaded.add(name)

    def prepare(self) -> None:
        """Import what ``tasks=[…]`` names and evaluate signatures: once in a worker, not again in every child."""
        self.load()
        for task in self.tasks():
            task.prepare()

    def resolve(self, name: str) -> Task[..., Any]:
        """Return the task that a stored name leads to here; ``UnknownTask`` with what may have been meant."""
        if (task := self._named.get(name)) is not None:
            return task
        self.load()
        task = self._named.get(name) or self._resolve_allowed(name)
        if task is None:
            raise UnknownTask(self._unknown(name))
        return task

    def task_for(self, function: Callable[..., Any]) -> Task[..., Any]:
        """Return the task that a declared task or a plain function is here; ``TaskNotAllowed`` with the fix."""
        if (task := self._known(function)) is None:
            # Its module is loaded, since the function is here; so a module of tasks= that is loaded may be enough.
            for name in self.modules:
                if name not in self._loaded and (module := sys.modules.get(name)) is not None:
                    self._collect(module)
            task = self._known(function)
        if task is None:
            self.load()
            task = self._known(function)
        if task is None:
            raise TaskNotAllowed(self._not_allowed(as_task(function)))
        return task

    def name_of(self, function: Callable[..., Any]) -> str:
        """Return the name to store for a task or a function; ``TaskNotAllowed`` with the fix."""
        return self.task_for(function).name

    def tasks(self) -> list[Task[..., Any]]:
        """Return the declared tasks, by name."""
        return [task for name, task in sorted(self._named.items()) if name == task.name]

    def schedules(self) -> list[Declaration]:
        """Return the schedules that the groups declare."""
        return [one for group in self._groups for one in group.schedules]

    def names(self) -> list[str]:
        """Return the names of the declared tasks, sorted, aliases left out."""
        return [task.name for task in self.tasks()]

    def queues(self, defaults: TaskOptions | None = None) -> set[str]:
        """Return the queues that the declared tasks go to by default, and ``default``."""
        weaker = defaults or TaskOptions()
        return {DEFAULT_QUEUE} | {task.options_over(weaker).queue or DEFAULT_QUEUE for task in self.tasks()}

    def _known(self, function: Callable[..., Any]) -> Task[..., Any] | None:
        if not isinstance(function, Task):
            return self._functions.get(function) or self._known_allowed(function)
        known = self._named.get(function.name)
        if known is function or (known is not None and known.same_place(function)):
            return known
        return None if function.group is not None else self._known(function.function)

    def _known_allowed(self, function: Callable[..., Any]) -> Task[..., Any] | None:
        task = self._resolve_allowed(f"{module_of(function)}:{getattr(function, '__qualname__', '')}")
        return task if task is not None and task.function is function else None

    def _resolve_allowed(self, name: str) -> Task[..., Any] | None:
        if (task := self._allowed.get(name)) is not None:
            return task
        module_name, _, attribute = name.partition(":")
        if module_name not in self._allow or not attribute.isidentifier():
            return None
        # From the module's own dictionary: its __getattr__, or a class in it, must not come into play.
        function = vars(loaded_module(module_name) or _import(module_name, option="allow")).get(attribute)
        if not isinstance(function, FunctionType) or module_of(function) != module_name:
            return None
        task = as_task(function)
        if task.name != name:
            return None
        return self._allowed.setdefault(name, task)

    def _collect(self, module: ModuleType) -> None:
        for value in list(vars(module).values()):
            if isinstance(value, TaskGroup):
                self.include(value)
            elif isinstance(value, Task) and value.group is not None and value.function.__module__ == module.__name__:
                self.include(value.group)

    def _unknown(self, name: str) -> str:
        if len(name) > LONGEST_NAME:
            return f"no task is called {name[:40]!r}… here, a name of {len(name)} characters"
        known = sorted({*self._named, *self._allowed})
        # The bare name of a function first: its module is part of the task's name.
        near = [one for one in known if re.split(r"[:.]", one)[-1] == name][:3]
        near = near or close_names(name, known, most=3)
        if near:
            return f"no task is called {name!r} here; did you mean {' or '.join(repr(n) for n in near)}?"
        module, _, attribute = name.partition(":")
        if attribute.isidentifier() and module not in self._allow:
            return (
                f"no task is called {name!r} here; declare it (@group.task, or an alias of the task it became) or "
                f"allow its module: allow=[{module!r}]"
            )
        count = f"{len(self._named)} names are known" if known else "no task is known: tasks=[…] names their modules"
        return f"no task is called {name!r} here; {count}"

    def _not_allowed(self, task: Task[..., Any]) -> str:
        module = module_of(task.function)
        if task.group is not None:
            return (
                f"the task {task.name!r} is not one of this PQ's: add its module, tasks=[{module!r}], "
                "or its group, pq.include(group)"
            )
        if module in self._allow:
            return (
                f"{task.place} is not what {module}.{task.reference} is to others: only plain functions at the top "
                "of an allowed module can run; declare it with @group.task"
            )
        return f"{task.place} may not run: declare it with @group.task, or allow its module: allow=[{module!r}]"


def _import(name: str, *, option: str = "tasks") -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidOption(
                f"{option}=[{name!r}]: there is no module {error.name!r}; it is looked for in the folders of sys.path"
            ) from error
        raise
