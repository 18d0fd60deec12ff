from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pq_core import TaskGroup, TaskOptions, call
from pq_core.errors import InvalidOption, InvalidTask, TaskNotAllowed, UnknownTask
from pq_core.registry import Registry

HERE = __name__

MAIL = """
from pq_core import TaskGroup
jobs = TaskGroup("mail", queue="mail")

@jobs.task(name="send", aliases=["old.mail:send_it"])
def send_it(to: str) -> None: ...

@jobs.task(queue="slow")
def digest() -> None: ...
"""

PLAIN = """
import os
from os import path, getpid
from functools import wraps
from dataclasses import dataclass

def work(x=0): return x
def shadowed(): ...
inner, shadowed = shadowed, (lambda: None)
class Holder:
    @staticmethod
    def work(): ...
def __getattr__(name):
    raise AssertionError(name)
"""

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module that can be imported for the length of the test; returns its name."""
    written = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def write_module(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        written.append(name)
        return name

    yield write_module
    for name in written:
        sys.modules.pop(name, None)


def plain() -> None: ...


class TestDeclared:
    def test_a_name_and_its_aliases_lead_to_the_task(self, write: Write) -> None:
        registry = Registry(modules=[write("mail_tasks", MAIL)])

        task = registry.resolve("mail.send")

        assert registry.resolve("old.mail:send_it") is task
        assert registry.name_of(task) == "mail.send"
        assert registry.name_of(task.function) == "mail.send"

    def test_nothing_is_imported_before_a_look_up(self, write: Write) -> None:
        name = write("mail_tasks", MAIL)
        registry = Registry(modules=[name])
        assert name not in sys.modules

        registry.load()

        assert name in sys.modules
        assert registry.names() == ["mail.digest", "mail.send"]

    def test_queues_are_those_of_the_tasks_and_default(self, write: Write) -> None:
        registry = Registry(modules=[write("mail_tasks", MAIL)])
        registry.load()
        other = TaskGroup()
        other.task(plain)
        registry.include(other)

        assert registry.queues() == {"default", "mail", "slow"}
        assert registry.queues(TaskOptions(queue="mine")) == {"default", "mail", "slow", "mine"}

    def test_tasks_that_a_group_gets_later_are_in_as_well(self) -> None:
        group, registry = TaskGroup("x"), Registry()
        registry.include(group)

        task = group.task(plain)

        assert registry.resolve("x.plain") is task

    def test_a_task_of_a_loaded_module_is_known_without_importing_the_others(self, write: Write) -> None:
        mail, other = write("mail_tasks", MAIL), write("other_tasks", MAIL.replace('"mail"', '"other"'))
        registry = Registry(modules=[other, mail])
        module = importlib.import_module(mail)

        assert registry.name_of(module.send_it) == "mail.send"
        assert other not in sys.modules

    def test_a_task_of_a_group_from_elsewhere_is_found_in_its_module(self, write: Write) -> None:
        write("groups_here", "from pq_core import TaskGroup\njobs = TaskGroup('far')")
        name = write("far_tasks", "import groups_here\n@groups_here.jobs.task\ndef f(): ...")

        assert Registry(modules=[name]).resolve("far.f").name == "far.f"

    def test_two_tasks_of_one_name_are_refused_with_both_places(self, write: Write) -> None:
        names = [write("mail_tasks", MAIL), write("mail_again", MAIL)]

        with pytest.raises(InvalidTask) as error:
            Registry(modules=names).load()

        assert "mail_tasks.py" in str(error.value)
        assert "mail_again.py" in str(error.value)

    def test_a_clash_keeps_the_group_out_of_nothing_else(self) -> None:
        one, other, registry = TaskGroup(), TaskGroup(), Registry()
        one.task(name="same")(plain)
        registry.include(one)
        registry.include(other)

        with pytest.raises(InvalidTask, match="same"):
            other.task(name="same")(test_reloading)

        assert other.tasks == ()
        assert registry.resolve("same") is one.tasks[0]

    def test_unknown_names_are_answered_with_near_ones(self, write: Write) -> None:
        registry = Registry(modules=[write("mail_tasks", MAIL)])

        with pytest.raises(UnknownTask, match=r"did you mean 'mail\.send'"):
            registry.resolve("mail.sent")
        with pytest.raises(UnknownTask, match=r"did you mean 'mail\.send'"):
            registry.resolve("send")
        with pytest.raises(UnknownTask, match="no task is known"):
            Registry().resolve("mail.sent")

    def test_a_task_of_no_group_in_here_is_refused_with_the_fix(self) -> None:
        task = TaskGroup("x").task(plain)

        with pytest.raises(TaskNotAllowed, match=r"tasks=\['.*test_registry'\].*include"):
            Registry().name_of(task)

    def test_modules_that_do_not_exist_are_told(self, write: Write) -> None:
        with pytest.raises(InvalidOption, match=r"tasks=\['mail_tusks'\]: there is no module 'mail_tusks'"):
            Registry(modules=["mail_tusks"]).load()
        with pytest.raises(InvalidOption, match=r"tasks=\['mail_tasks'\]"):
            Registry(modules="mail_tasks")
        with pytest.raises(ModuleNotFoundError, match="nowhere"):
            Registry(modules=[write("broken_tasks", "import nowhere")]).load()

    def test_preparing_evaluates_signatures_after_all_is_loaded(self, write: Write) -> None:
        registry = Registry(modules=[write("mail_tasks", "from __future__ import annotations\n" + MAIL)])

        registry.prepare()

        assert registry.resolve("mail.send").signature_of(1).parameters["to"].annotation is str

    def test_groups_do_not_keep_registries_alive(self) -> None:
        group = TaskGroup()
        registry = Registry()
        registry.include(group)

        del registry
        gc.collect()

        assert len(group._registries) == 0


def test_reloading() -> None:
    """A module loaded again replaces its own tasks: the later definition counts."""
    here = sys.modules[__name__]
    registry, group = Registry(), TaskGroup()
    registry.include(group)
    first = group.task(here.plain)

    second = group.task(here.plain)

    assert registry.resolve(first.name) is second
    assert registry.name_of(first) == second.name


class TestAllowed:
    @pytest.fixture
    def module(self, write: Write) -> ModuleType:
        return importlib.import_module(write("plain_work", PLAIN))

    def test_plain_functions_of_allowed_modules_may_run(self, module: ModuleType) -> None:
        registry = Registry(allow=["plain_work"])

        assert registry.name_of(module.work) == "plain_work:work"
        assert registry.name_of(call(module.work, 7).task) == "plain_work:work"
        assert registry.resolve("plain_work:work").function is module.work

    def test_an_allowed_module_is_imported_at_the_look_up(self, write: Write) -> None:
        name = write("plain_work", PLAIN)
        registry = Registry(allow=[name])
        assert name not in sys.modules

        assert registry.resolve("plain_work:work")(3) == 3

    @pytest.mark.parametrize(
        "name",
        [
            "os:system",
            "posix:system",
            "subprocess:run",
            "plain_work:os",
            "plain_work:os.system",
            "plain_work:path.join",
            "plain_work:getpid",
            "plain_work:wraps",
            "plain_work:dataclass",
            "plain_work:Holder",
            "plain_work:Holder.work",
            "plain_work:shadowed",
            "plain_work:inner",
            "plain_work:anything",
            "plain_work:",
            "plain_work",
            "plain_work:work:work",
            "plain_work.work",
            ":work",
            "builtins:eval",
            "",
        ],
    )
    def test_whoever_writes_a_row_reaches_nothing_else(self, module: ModuleType, name: str) -> None:
        before = set(sys.modules)

        with pytest.raises(UnknownTask):
            Registry(allow=["plain_work"]).resolve(name)

        assert set(sys.modules) == before

    def test_a_function_that_is_not_allowed_is_refused_at_enqueue(self, module: ModuleType) -> None:
        registry = Registry(allow=["plain_work"])

        for function in (module.Holder.work, module.inner, module.shadowed, os.system, plain):
            with pytest.raises(TaskNotAllowed):
                registry.name_of(function)
        with pytest.raises(TaskNotAllowed, match=rf"allow=\['{HERE}'\]"):
            registry.name_of(plain)
        registry.allow([HERE])
        assert registry.name_of(plain) == f"{HERE}:plain"

    def test_a_declared_task_is_not_reached_through_its_module(self, write: Write) -> None:
        name = write("mail_tasks", MAIL)
        registry = Registry(modules=[name], allow=[name])

        with pytest.raises(UnknownTask):
            registry.resolve("mail_tasks:send_it")
        assert registry.resolve("old.mail:send_it").name == "mail.send"

    def test_a_declared_function_called_undecorated_is_its_task(self) -> None:
        group, registry = TaskGroup(), Registry()
        registry.include(group)
        task = group.task(name="declared", timeout=3)(plain)

        spec = call(plain).spec(TaskOptions(), registry)

        assert registry.task_for(plain) is task
        assert (spec["name"], spec["timeout"]) == ("declared", 3.0)

    def test_an_unknown_function_name_is_answered_with_the_fix(self) -> None:
        with pytest.raises(UnknownTask, match=r"allow=\['some.module'\]"):
            Registry().resolve("some.module:function")


def test_a_program_is_called_by_the_name_a_worker_can_import(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
        from pq_core import TaskGroup
        from pq_core.registry import Registry

        def allowed(): ...

        if __name__ == "__main__":
            group, registry = TaskGroup(), Registry(allow=["app"])
            registry.include(group)

            @group.task
            def declared(): ...

            print(registry.name_of(declared), registry.name_of(allowed), registry.resolve("app:allowed").name)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    for command in (["app.py"], ["-m", "app"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["app:declared", "app:allowed", "app:allowed"]
