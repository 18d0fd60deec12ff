"""Plugins: what is refused at registration, and that none can hurt a task or another plugin."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pq_hooks
from pq_hooks import PluginError, hookimpl, specs
from pq_hooks.plugins import HOOKS, Plugins

TASK: Any = object()
OUTCOME: Any = object()
WORKER: Any = object()
DOCS = Path(__file__).parents[2] / "docs" / "hooks.md"


class Recorder:
    """Implements every hook and remembers what it got."""

    def __init__(self, name: str = "recorder", seen: list[Any] | None = None) -> None:
        self.name = name
        self.seen: list[Any] = [] if seen is None else seen

    def note(self, *what: object) -> None:
        self.seen.append((self.name, *what))

    def pq_before_enqueue(self, task: Any, headers: dict[str, str]) -> None:
        headers[self.name] = "seen"
        self.note("before_enqueue", task)

    def pq_after_enqueue(self, tasks: Any, seconds: float, error: Any) -> None:
        self.note("after_enqueue", tasks, seconds >= 0, error)

    def pq_before_forks(self) -> None:
        self.note("before_forks")

    def pq_worker_start(self, worker: Any) -> None:
        self.note("worker_start", worker)

    def pq_worker_stop(self, worker: Any) -> None:
        self.note("worker_stop", worker)

    def pq_pre_fork(self, task: Any) -> None:
        self.note("pre_fork", task)

    @contextlib.contextmanager
    def pq_in_child(self, task: Any) -> Iterator[None]:
        self.note("enter", task)
        try:
            yield
        except BaseException as error:
            self.note("saw", error)
            raise
        finally:
            self.note("exit")

    def pq_post_task(self, task: Any, outcome: Any) -> None:
        self.note("post_task", task, outcome)

    def pq_task_died(self, outcome: Any) -> None:
        self.note("task_died", outcome)

    def pq_executor(self, connection: Any) -> Any:
        self.note("executor", connection)


class Failing:
    """Fails in every hook with the error it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self, *_: object) -> Any:
        raise self.error

    def pq_before_enqueue(self, headers: dict[str, str]) -> None:
        headers["half"] = "done"
        self.fail()

    def pq_after_enqueue(self) -> None:
        self.fail()

    def pq_before_forks(self) -> None:
        self.fail()

    def pq_worker_start(self) -> None:
        self.fail()

    def pq_worker_stop(self) -> None:
        self.fail()

    def pq_pre_fork(self) -> None:
        self.fail()

    def pq_in_child(self) -> Any:
        self.fail()

    def pq_post_task(self) -> None:
        self.fail()

    def pq_task_died(self) -> None:
        self.fail()

    def pq_executor(self) -> Any:
        self.fail()


def call_all(plugins: Plugins) -> dict[str, str]:
    headers: dict[str, str] = {}
    plugins.before_enqueue(TASK, headers)
    around = plugins.enqueuing([TASK])
    assert around is not None
    with around:
        pass
    plugins.before_forks()
    plugins.worker_start(WORKER)
    plugins.pre_fork(TASK)
    with plugins.in_child(TASK):
        pass
    plugins.post_task(TASK, OUTCOME)
    plugins.task_died(TASK, OUTCOME)
    plugins.executor("connection")
    plugins.worker_stop(WORKER)
    return headers


def in_child(hook: Any) -> Any:
    return type("InChild", (), {"pq_in_child": hook})()


def test_every_hook_reaches_every_plugin_in_the_order_of_registration() -> None:
    seen: list[Any] = []
    plugins = Plugins([Recorder("a", seen), Recorder("b", seen)])
    assert call_all(plugins) == {"a": "seen", "b": "seen"}
    assert seen == [
        *[("a", "before_enqueue", TASK), ("b", "before_enqueue", TASK)],
        *[("a", "after_enqueue", [TASK], True, None), ("b", "after_enqueue", [TASK], True, None)],
        *[("a", "before_forks"), ("b", "before_forks")],
        *[("a", "worker_start", WORKER), ("b", "worker_start", WORKER)],
        *[("a", "pre_fork", TASK), ("b", "pre_fork", TASK)],
        *[("a", "enter", TASK), ("b", "enter", TASK), ("b", "exit"), ("a", "exit")],
        *[("a", "post_task", TASK, OUTCOME), ("b", "post_task", TASK, OUTCOME)],
        *[("a", "task_died", OUTCOME), ("b", "task_died", OUTCOME)],
        *[("a", "executor", "connection"), ("b", "executor", "connection")],
        *[("a", "worker_stop", WORKER), ("b", "worker_stop", WORKER)],
    ]


def test_the_decorator_orders_and_renames() -> None:
    seen: list[str] = []

    class Last:
        @hookimpl(trylast=True)
        def pq_pre_fork(self) -> None:
            seen.append("last")

    class Middle:
        def pq_pre_fork(self) -> None:
            seen.append("middle")

    class First:
        @hookimpl(tryfirst=True, specname="pq_pre_fork")
        def look(self, task: Any) -> None:
            seen.append("first")

    Plugins([Last, Middle(), First]).pre_fork(TASK)
    assert seen == ["first", "middle", "last"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError(), GeneratorExit()], ids=repr)
def test_a_plugin_that_raises_hurts_nobody(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    plugins = Plugins([Failing(error), recorder])
    assert call_all(plugins) == {"recorder": "seen"}
    assert len(recorder.seen) == 11
    assert {record.name for record in caplog.records} == {"pq.plugins"}
    assert sorted(str(record.args[1]) for record in caplog.records if isinstance(record.args, tuple)) == sorted(HOOKS)
    assert all("test_plugins.Failing" in record.getMessage() for record in caplog.records)


def test_a_failure_is_logged_once_per_kind_also_across_children(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    plugins = Plugins([Failing(ValueError("no"))])
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            child = os.fork()
            if child == 0:
                with plugins.in_child(TASK):
                    (tmp_path / "logged").open("a").write("x" * len(caplog.records))
                os._exit(0)
            os.waitpid(child, 0)
        plugins.post_task(TASK, OUTCOME)
        plugins.post_task(TASK, OUTCOME)
    assert (tmp_path / "logged").read_text() == "x"
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["pq_post_task"]


def test_the_users_own_interrupt_ends_an_enqueue() -> None:
    plugins = Plugins([Failing(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        plugins.before_enqueue(TASK, {})
    with pytest.raises(KeyboardInterrupt):
        plugins.executor("connection")


def test_headers_that_are_no_text_are_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    class Nonsense:
        def pq_before_enqueue(self, headers: dict[str, Any]) -> None:
            headers["number"] = 7
            headers.pop("kept")

    headers = {"kept": "yes"}
    Plugins([Nonsense]).before_enqueue(TASK, headers)
    assert headers == {"kept": "yes"}
    assert "text by text" in caplog.text


def test_the_first_executor_wins_and_nonsense_is_no_executor(caplog: pytest.LogCaptureFixture) -> None:
    def answering(answer: Any) -> Any:
        return type("Answering", (), {"pq_executor": lambda self, connection: answer})()

    executor = types.SimpleNamespace(execute=print)
    plugins = Plugins(
        [answering(None), answering(7), answering(executor), answering(types.SimpleNamespace(execute=len))]
    )
    assert plugins.executor("connection") is executor
    assert "an executor needs execute(); got int" in caplog.text
    assert Plugins([answering(None)]).executor("connection") is None


def test_an_exit_sees_the_exception_and_can_neither_swallow_nor_replace_it() -> None:
    recorder = Recorder()

    class Swallowing:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> bool:
            return True

    @contextlib.contextmanager
    def replacing(self: Any, task: Any) -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise KeyError("another") from None

    @contextlib.contextmanager
    def silent(self: Any, task: Any) -> Iterator[None]:
        with contextlib.suppress(ValueError):
            yield

    error = ValueError("of the task")
    plugins = Plugins([recorder, in_child(lambda self: Swallowing()), in_child(replacing), in_child(silent)])
    with pytest.raises(ValueError, match="of the task") as caught, plugins.in_child(TASK):
        raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert not error.__suppress_context__
    assert ("recorder", "saw", error) in recorder.seen
    assert [frame.name for frame in caught.traceback] == [
        "test_an_exit_sees_the_exception_and_can_neither_swallow_nor_replace_it"
    ]


def test_an_exit_without_an_exception_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    @contextlib.contextmanager
    def leaving(self: Any) -> Iterator[None]:
        yield
        sys.exit(1)

    recorder = Recorder()
    ran = False
    with Plugins([recorder, in_child(leaving)]).in_child(TASK):
        ran = True
    assert ran
    assert ("recorder", "exit") in recorder.seen
    assert "SystemExit" in caplog.text


@pytest.mark.parametrize(
    "nonsense", [7, "text", object(), contextlib.nullcontext], ids=["int", "text", "object", "class"]
)
def test_nonsense_instead_of_a_context_manager_is_contained(nonsense: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Plugins([in_child(lambda self: nonsense)]).in_child(TASK):
        pass
    assert "must return a context manager or None" in caplog.text


def test_none_instead_of_a_context_manager_is_fine(caplog: pytest.LogCaptureFixture) -> None:
    with Plugins([in_child(lambda self: None)]).in_child(TASK):
        pass
    assert not caplog.records


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_exit_that_hangs_is_interrupted(stubborn: bool, caplog: pytest.LogCaptureFixture) -> None:
    @contextlib.contextmanager
    def hanging(self: Any) -> Iterator[None]:
        yield
        if stubborn:
            with contextlib.suppress(BaseException):
                time.sleep(60)
        threading.Event().wait(60)

    recorder = Recorder()
    before, (remaining, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    started = time.monotonic()
    with Plugins([recorder, in_child(hanging)], exit_limit=0.2).in_child(TASK):
        pass
    assert time.monotonic() - started < 2
    assert ("recorder", "exit") in recorder.seen
    assert "took longer than 0.2 s" in caplog.text
    assert "InChild" in caplog.text
    assert signal.getsignal(signal.SIGALRM) is before
    assert remaining - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= remaining


def test_a_death_report_that_hangs_is_interrupted() -> None:
    class Hanging:
        def pq_task_died(self) -> None:
            time.sleep(60)

    recorder = Recorder()
    started = time.monotonic()
    Plugins([Hanging, recorder], exit_limit=0.1).task_died(TASK, OUTCOME)
    assert time.monotonic() - started < 2
    assert recorder.seen == [("recorder", "task_died", OUTCOME)]


def test_in_another_thread_than_the_main_one_tasks_run_too() -> None:
    recorder = Recorder()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with Plugins([recorder]).in_child(TASK):
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []
    assert recorder.seen[-1] == ("recorder", "exit")


def test_context_variables_can_be_reset_in_the_exit() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)

    @contextlib.contextmanager
    def scope(self: Any) -> Iterator[None]:
        token = variable.set(1)
        yield
        variable.reset(token)

    with Plugins([in_child(scope)]).in_child(TASK):
        assert variable.get() == 1
    assert variable.get() == 0


class Stop(BaseException):
    pass


def test_a_signal_to_the_task_passes_through_an_enter() -> None:
    recorder = Recorder()
    stop = Stop()
    with pytest.raises(Stop), Plugins([recorder, Failing(stop)]).in_child(TASK, passing=(Stop,)):
        raise AssertionError("must not run")
    assert recorder.seen == [("recorder", "enter", TASK), ("recorder", "saw", stop), ("recorder", "exit")]


def test_a_signal_to_the_task_passes_through_an_exit_after_all_others() -> None:
    @contextlib.contextmanager
    def stopped(self: Any) -> Iterator[None]:
        yield
        raise Stop

    recorder = Recorder()
    with pytest.raises(Stop), Plugins([recorder, in_child(stopped)]).in_child(TASK, passing=(Stop,)):
        pass
    assert recorder.seen[-1] == ("recorder", "exit")


def plugin_of(**methods: Any) -> Any:
    return type("Wrong", (), methods)()


async def coroutine(self: Any, task: Any) -> None: ...


def generator(self: Any, task: Any) -> Iterator[None]:
    yield


def wrapper(self: Any, task: Any) -> Any:
    return (yield)


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (plugin_of(pq_post_tsk=lambda self, task: None), "pq_post_tsk is no hook; did you mean pq_post_task?"),
        (plugin_of(pq_pre_fork=lambda self, taks: None), "has no argument 'taks'; it has task"),
        (plugin_of(pq_pre_fork=lambda self, **all: None), "name the arguments it needs, of task"),
        (plugin_of(pq_pre_fork=lambda self, *all: None), "name the arguments it needs, of task"),
        (plugin_of(pq_pre_fork=coroutine), "is a coroutine function"),
        (plugin_of(pq_in_child=generator), "decorate it with contextlib.contextmanager"),
        (plugin_of(pq_pre_fork=Stop), "must be a function or a method"),
        (plugin_of(look=hookimpl(specname="pq_look")(lambda self: None)), "did you mean"),
        (plugin_of(pq_in_child=hookimpl(wrapper=True)(wrapper)), "is a wrapper"),
        (plugin_of(other=lambda self: None), "implements no hook; there are pq_before_enqueue"),
        (Failing, "can't be made"),
        (7, "implements no hook"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_plugin_is_refused_when_it_is_registered(plugin: Any, message: str) -> None:
    with pytest.raises(PluginError, match=re.escape(message)):
        Plugins([plugin])
    plugins = Plugins()
    with pytest.raises(PluginError, match=re.escape(message)):
        plugins.register(plugin)
    assert not any(plugins.implementations().values())


def test_a_module_is_a_plugin() -> None:
    module = types.ModuleType("app.hooks")
    exec("seen = []\ndef pq_pre_fork(task): seen.append(task)", module.__dict__)
    module.__dict__["pq_core"] = os
    module.__dict__["pq_override"] = time.sleep
    plugins = Plugins([module])
    plugins.pre_fork(TASK)
    assert module.__dict__["seen"] == [TASK]
    assert plugins.implementations()["pq_pre_fork"] == ["app.hooks"]


@dataclass
class Counter:
    start: int = 0

    @property
    def broken(self) -> int:
        raise AssertionError("properties must not be run")

    def pq_pre_fork(self) -> None:
        self.start += 1


def test_who_implements_what_is_known_by_name() -> None:
    counter = Counter(1)
    plugins = Plugins([counter, Counter(5)])
    plugins.register(counter)
    plugins.register(Recorder(), "named")
    name = f"{__name__}.Counter"
    assert plugins.implementations()["pq_pre_fork"] == [name, f"{name}#2", "named"]
    assert plugins.implementations()["pq_worker_start"] == ["named"]
    assert plugins.has("pq_worker_start")
    assert plugins.has_task_died
    plugins.block("Counter")
    assert plugins.implementations()["pq_pre_fork"] == ["named"]
    plugins.register(Counter)
    plugins.block("named")
    assert not any(plugins.implementations().values())
    assert not plugins.has_task_died


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package that offers one good plugin and one that can't be loaded."""
    metadata = tmp_path / "offering-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pq.plugins]\ngood = pq_offering:Good\nbad = pq_offering:Missing\n")
    (tmp_path / "pq_offering.py").write_text("class Good:\n    def pq_pre_fork(self): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("pq_offering", None)


@pytest.mark.usefixtures("installed")
def test_installed_plugins_are_discovered_and_can_be_blocked() -> None:
    with pytest.raises(PluginError, match=r"plugin bad \(pq_offering:Missing\) can't be loaded"):
        Plugins(discover=True)
    assert Plugins(discover=True, block=["bad"]).implementations()["pq_pre_fork"] == ["good"]
    plugins = Plugins()
    plugins.block("bad")
    plugins.discover()
    plugins.discover()
    assert plugins.implementations()["pq_pre_fork"][0] == "good"
    assert not any(Plugins().implementations().values())


def test_without_plugins_hooks_cost_next_to_nothing() -> None:
    plugins = Plugins()
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1000):
            plugins.pre_fork(TASK)
            with plugins.in_child(TASK):
                pass
            plugins.post_task(TASK, OUTCOME)
            _ = plugins.has_task_died
        best = min(best, time.perf_counter() - started)
    assert best / 1000 < 5e-6


def test_importing_the_hooks_is_light() -> None:
    code = (
        "import sys; import pq_hooks; assert 'pluggy' not in sys.modules; "
        "import pq_hooks.specs; import pq_hooks.plugins; "
        "assert not [name for name in sys.modules if name.startswith('pq_core')]; "
        "assert 'psycopg' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DOCS.parents[1])
    with pytest.raises(AttributeError):
        _ = pq_hooks.missing


def signature_in_words(name: str) -> str:
    return f"{name}{inspect.signature(getattr(specs, name))}".replace("'", "")


def undocumented(text: str) -> list[str]:
    return [name for name in HOOKS if signature_in_words(name) not in text]


def test_every_hook_is_documented_with_its_exact_signature() -> None:
    assert undocumented(DOCS.read_text()) == []


def test_a_missing_or_changed_signature_is_noticed() -> None:
    text = DOCS.read_text().replace("outcome: AttemptOutcome", "outcome: Outcome")
    assert undocumented(text) == ["pq_post_task", "pq_task_died"]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test_of_its_own(name: str) -> None:
    text = (DOCS.parents[1] / "tests" / "integration" / "test_each_hook.py").read_text()

    assert re.search(rf"^def test_{name}_\w+\(", text, re.MULTILINE)


@pytest.mark.parametrize("name", HOOKS)
def test_every_spec_says_where_it_runs_and_what_an_error_does(name: str) -> None:
    lines = [line.strip() for line in inspect.getdoc(getattr(specs, name)).splitlines()]  # type: ignore[union-attr]
    *_, runs, error = lines
    assert runs.removeprefix("Runs in: ") in ("enqueuing process", "worker", "child", "a fresh child")
    assert error.startswith("On error: logged; ")
    section = DOCS.read_text().partition(f"### `{name}`")[2].partition("\n### ")[0]
    assert runs in section.replace("*", "")
    assert error in section.replace("*", "")


def test_the_plugin_in_the_documentation_has_ten_lines_and_works(tmp_path: Path) -> None:
    code = DOCS.read_text().partition("```python\n")[2].partition("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    namespace: dict[str, Any] = {"__name__": "documented"}
    exec(code, namespace)
    (plugin,) = [value for value in namespace.values() if isinstance(value, type) and value.__module__ == "documented"]
    plugins = Plugins([plugin])
    task: Any = types.SimpleNamespace(name="billing.receipt", id=7)
    with plugins.in_child(task):
        pass
    plugins.post_task(task, types.SimpleNamespace(outcome="succeeded", wall=0.5))  # type: ignore[arg-type]
