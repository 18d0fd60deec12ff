from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pq_core import Backoff, CallOptions, Priority, TaskGroup, TaskOptions, call
from pq_core.errors import InvalidOption, InvalidTask, PayloadError, PayloadTooLarge, UnknownTask
from pq_core.functions import Arity
from pq_core.options import CODE_ONLY, CallFields, TaskFields, split_flat_options, split_schedule_options
from pq_core.registry import Registry
from pq_core.tasks import Call, as_task

HERE = __name__
DEFAULTS = TaskOptions()

billing = TaskGroup("billing", queue="billing", defaults=TaskOptions(max_attempts=4, grace=1))


@billing.task(name="receipt", aliases=["billing.mail:send_receipt"], priority=Priority.HIGH, timeout=30)
def send_receipt(order_id: int, *, copy: bool = False) -> str:
    """Send it."""
    return f"{order_id} {copy}"


@billing.task
def report() -> None: ...


@billing.task
async def fetch(url: str) -> int:
    return len(url)


@billing.task
def clash(key: str, priority: int = 0) -> None: ...


def plain(x: int) -> int:
    return x


def spec_of(call: Call[Any], defaults: TaskOptions = DEFAULTS) -> dict[str, Any]:
    registry = Registry(allow=[HERE])
    registry.include(billing)
    return call.spec(defaults, registry)


class TestNames:
    def test_a_name_follows_its_groups_prefix(self) -> None:
        assert send_receipt.name == "billing.receipt"

    def test_without_name_the_function_follows_the_prefix(self) -> None:
        assert report.name == "billing.report"

    def test_without_name_and_prefix_it_is_module_and_qualname(self) -> None:
        assert TaskGroup().task(plain).name == f"{HERE}:plain"

    def test_a_name_without_prefix_stands_alone(self) -> None:
        assert TaskGroup().task(name="receipt")(plain).name == "receipt"

    def test_local_functions_and_lambdas_need_a_name(self) -> None:
        def local() -> None: ...

        with pytest.raises(InvalidTask, match="name="):
            TaskGroup("x").task(local)
        with pytest.raises(InvalidTask, match="name="):
            TaskGroup().task(lambda: None)
        assert TaskGroup().task(name="local")(local).name == "local"
        assert TaskGroup().task(name="part")(functools.partial(plain, 7)).call() is not None

    @pytest.mark.parametrize("name", ["", " a", "a\0", "a\n", "\ud800", "x" * 256, 7])
    def test_odd_names_are_refused(self, name: Any) -> None:
        with pytest.raises(InvalidTask, match="name="):
            TaskGroup().task(name=name)(plain)
        with pytest.raises(InvalidTask, match="aliases="):
            TaskGroup().task(name="fine", aliases=[name])(plain)
        with pytest.raises(InvalidTask, match="prefix="):
            TaskGroup(name)

    def test_one_string_for_aliases_is_a_slip(self) -> None:
        with pytest.raises(InvalidTask, match=r"aliases=\['old'\]"):
            TaskGroup().task(name="new", aliases="old")(plain)

    def test_two_tasks_of_one_name_are_refused_with_both_places(self) -> None:
        group = TaskGroup()
        group.task(name="one", aliases=["old"])(plain)

        for name, aliases in (("one", ()), ("old", ()), ("two", ["one"])):
            with pytest.raises(InvalidTask, match=r"(?s)report.*plain"):
                group.task(name=name, aliases=aliases)(report.function)
        assert [task.name for task in group.tasks] == ["one"]

    def test_of_the_same_lines_loaded_twice_the_later_counts(self) -> None:
        group = TaskGroup()
        first = group.task(plain)
        second = group.task(plain)

        assert group.tasks == (second,)
        assert first is not second


class TestFunctions:
    def test_a_task_is_called_like_its_function(self) -> None:
        assert send_receipt(7, copy=True) == "7 True"
        assert asyncio.run(fetch("abc")) == 3

    def test_a_task_looks_like_its_function(self) -> None:
        assert send_receipt.__doc__ == "Send it."
        assert send_receipt.__name__ == "send_receipt"
        assert inspect.signature(send_receipt) == inspect.signature(send_receipt.function)
        assert repr(send_receipt) == "<Task billing.receipt>"
        assert fetch.is_async
        assert not send_receipt.is_async

    def test_what_is_no_function_is_refused(self) -> None:
        def generator() -> Iterator[int]:
            yield 1

        group: Any = TaskGroup()
        for wrong, words in ((7, "no function"), (dict, "class"), (generator, "generator")):
            with pytest.raises(InvalidTask, match=words):
                group.task(name="x")(wrong)

    @pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, 2**31])
    def test_versions_count_from_one(self, version: Any) -> None:
        with pytest.raises(InvalidTask, match="version="):
            TaskGroup().task(name="x", version=version)(plain)


class TestCalls:
    def test_a_call_holds_what_it_was_given(self) -> None:
        made = send_receipt.call(7, copy=True)

        assert (made.task, made.args, made.kwargs, made.settings) == (send_receipt, (7,), {"copy": True}, CallOptions())
        assert repr(made) == "<Call billing.receipt(7, copy=True)>"

    @pytest.mark.parametrize(
        ("args", "kwargs", "words"),
        [
            ((), {}, "missing a required argument: 'order_id'"),
            ((7, 8), {}, "too many positional"),
            ((7,), {"copi": True}, "unexpected keyword argument 'copi'"),
            ((7,), {"order_id": 7}, "multiple values"),
        ],
    )
    def test_arguments_that_do_not_fit_are_refused_where_the_call_is_made(
        self, args: Any, kwargs: Any, words: str
    ) -> None:
        bound: Any = send_receipt.options(priority=1)
        for make in (send_receipt.call, bound.call, send_receipt.enqueue, bound.enqueue):
            with pytest.raises(InvalidTask, match=words) as error:
                make(*args, **kwargs)
            assert "billing.receipt" in str(error.value)
            assert "order_id: 'int'" in str(error.value) or "order_id: int" in str(error.value)

    def test_a_parameter_may_be_called_self(self) -> None:
        @TaskGroup().task(name="x")
        def odd(self: int) -> int:
            return self

        assert odd.call(self=7).kwargs == {"self": 7}
        assert odd(self=7) == 7

    def test_options_of_a_call_change_a_copy(self) -> None:
        made = send_receipt.call(7)

        changed = made.options(priority=3).options(queue="other")

        assert (changed.settings.priority, changed.settings.queue) == (3, "other")
        assert made.settings == CallOptions()

    def test_options_of_a_task_go_to_the_calls_made_from_it(self) -> None:
        bound = send_receipt.options(priority=3).options(client_id="c")

        assert bound.call(7) == send_receipt.call(7).options(priority=3, client_id="c")

    def test_run_at_and_run_in_replace_each_other_but_not_in_one_breath(self) -> None:
        at = datetime(2030, 1, 1, tzinfo=UTC)
        made = send_receipt.call(7).options(run_at=at).options(run_in=timedelta(seconds=5))

        assert (made.settings.run_at, made.settings.run_in) == (None, timedelta(seconds=5))
        with pytest.raises(InvalidOption, match="one of them"):
            send_receipt.options(run_at=at, run_in=timedelta(seconds=5))

    def test_an_undecorated_function_is_called_by_call(self) -> None:
        assert call(plain, 7).task.name == f"{HERE}:plain"
        assert call(send_receipt, 7) == send_receipt.call(7)
        with pytest.raises(InvalidTask, match="missing"):
            call(plain)  # type: ignore[call-overload]


class TestSpecs:
    def test_a_spec_is_what_pq_enqueue_takes_and_leaves_out_what_is_unsaid(self) -> None:
        assert spec_of(call(plain, 7)) == {"name": f"{HERE}:plain", "args": [7], "kwargs": {}}

    def test_call_goes_over_task_over_group_over_defaults(self) -> None:
        defaults = TaskOptions(max_attempts=9, on_lost="fail", queue="elsewhere", timeout=1)

        spec = spec_of(send_receipt.call(7).options(priority=1), defaults)

        assert spec == {
            "name": "billing.receipt",
            "args": [7],
            "kwargs": {},
            "priority": 1,  # the call's
            "timeout": 30.0,  # the task's
            "queue": "billing",
            "max_attempts": 4,
            "grace": 1.0,  # the group's
            "on_lost": "fail",  # the defaults'
        }

    def test_every_option_is_written_as_plain_json(self) -> None:
        at = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
        options = call(plain, 7).options(
            run_at=at,
            client_id="c",
            on_duplicate="return",
            unique="unfinished",
            headers={"a": "b"},
            require_transaction=True,
            backoff=Backoff(base=1, factor=3, max=9, jitter=0),
            memory_limit=2**20,
            result_limit=5,
            max_starts=6,
        )

        spec = spec_of(options)

        del spec["name"], spec["args"], spec["kwargs"]
        assert spec == {
            "run_at": "2030-01-01T10:00:00+00:00",
            "client_id": "c",
            "on_duplicate": "return",
            "unique": "unfinished",
            "headers": {"a": "b"},
            "backoff": {"base": 1, "factor": 3, "max": 9, "jitter": 0},
            "memory_limit": 2**20,
            "result_limit": 5,
            "max_starts": 6,
        }
        assert type(spec_of(call(plain, 7).options(priority=Priority.LOW))["priority"]) is int
        assert spec_of(call(plain, 7).options(run_in=timedelta(minutes=1)))["run_in"] == 60.0

    def test_what_runs_on_failure_is_a_spec_of_its_own(self) -> None:
        spec = spec_of(call(plain, 7).options(on_failure=send_receipt.call(8).options(priority=2)))

        assert spec["on_failure"]["name"] == "billing.receipt"
        assert (spec["on_failure"]["args"], spec["on_failure"]["priority"]) == ([8], 2)

    def test_a_task_stands_for_its_call_on_failure(self) -> None:
        assert spec_of(call(plain, 7).options(on_failure=report))["on_failure"]["name"] == "billing.report"
        with pytest.raises(InvalidTask, match="missing"):
            call(plain, 7).options(on_failure=send_receipt)  # type: ignore[arg-type]

    def test_a_default_on_failure_does_not_apply_to_itself(self) -> None:
        spec = spec_of(call(plain, 7), TaskOptions(on_failure=report.call()))

        assert spec["on_failure"]["name"] == "billing.report"
        assert "on_failure" not in spec["on_failure"]

    def test_a_version_is_written_from_two_on(self) -> None:
        group = TaskGroup()
        registry = Registry()
        registry.include(group)

        @group.task(name="x", version=2)
        def newer() -> None: ...

        assert newer.call().spec(DEFAULTS, registry)["version"] == 2
        assert "version" not in spec_of(report.call())

    def test_arguments_that_cannot_be_stored_are_refused_by_name(self) -> None:
        with pytest.raises(PayloadError, match=r"billing\.receipt.*order_id"):
            spec_of(send_receipt.call(object()))  # type: ignore[arg-type]
        registry = Registry(allow=[HERE])
        with pytest.raises(PayloadTooLarge):
            call(plain, 10**60).spec(DEFAULTS, registry, payload_limit=50)


class TestOptions:
    def test_the_typed_names_are_those_of_the_dataclasses(self) -> None:
        task = {f.name for f in fields(TaskOptions)}
        whole = {f.name for f in fields(CallOptions)}

        assert set(TaskFields.__annotations__) == task
        assert set(CallFields.__annotations__) == whole - CODE_ONLY

    @pytest.mark.parametrize(
        ("name", "value", "fix"),
        [
            ("priority", True, "Priority.HIGH"),
            ("priority", "high", "Priority.HIGH"),
            ("priority", 40000, "32767"),
            ("priority", 1.5, "integer"),
            ("queue", "", "not empty"),
            ("queue", "a\0b", "without"),
            ("queue", "a,b", "commas"),
            ("queue", "q" * 256, "255"),
            ("queue", 7, "text"),
            ("max_attempts", 0, "at least 1"),
            ("max_attempts", True, "at least 1"),
            ("max_attempts", math.nan, "at least 1"),
            ("backoff", 3, "Backoff("),
            ("timeout", 0, "above 0"),
            ("timeout", -1, "above 0"),
            ("timeout", True, "above 0"),
            ("timeout", math.nan, "finite"),
            ("timeout", math.inf, "finite"),
            ("timeout", timedelta(seconds=90), "timeout=90"),
            ("grace", -0.5, "0 or more"),
            ("grace", math.nan, "finite"),
            ("memory_limit", 512, "512 * 2**20"),
            ("memory_limit", 1e9, "integer"),
            ("result_limit", -1, "bytes"),
            ("max_starts", -1, "0: any number"),
            ("on_lost", "again", "'retry' or 'fail'"),
            ("on_failure", print, "call"),
            ("run_at", datetime(2030, 1, 1), "tzinfo="),
            ("run_at", timedelta(1), "run_in="),
            ("run_at", "tomorrow", "datetime"),
            ("run_at", datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), "9999"),
            ("run_in", 5, "timedelta(seconds=5)"),
            ("run_in", timedelta(seconds=-1), "0 or more"),
            ("run_in", timedelta.max, "1,000 years"),
            ("client_id", "", "255"),
            ("client_id", "x" * 256, "255"),
            ("client_id", "a\0", "store"),
            ("client_id", "\udc80", "store"),
            ("client_id", 7, "text"),
            ("on_duplicate", "ignore", "'raise' or 'return'"),
            ("unique", "always", "'retained' or 'unfinished'"),
            ("headers", {"a": 1}, "text"),
            ("headers", {"a": "\0"}, "store"),
            ("headers", ["a"], "mapping"),
            ("require_transaction", 1, "True or False"),
            ("retry_on", (ValueError,), "definition"),
        ],
    )
    def test_a_value_that_makes_no_sense_is_refused_with_the_fix(self, name: str, value: Any, fix: str) -> None:
        with pytest.raises(InvalidOption) as error:
            send_receipt.options(**{name: value})

        assert f"{name}=" in str(error.value)
        assert fix in str(error.value)

    @pytest.mark.parametrize(
        ("value", "fix"), [(ValueError, r"\(ValueError,\)"), ((7,), "tuple"), ([ValueError], "tuple")]
    )
    def test_retry_on_takes_a_tuple_of_exceptions(self, value: Any, fix: str) -> None:
        with pytest.raises(InvalidOption, match=fix):
            TaskGroup().task(name="x", retry_on=value)(plain)
        assert TaskGroup().task(name="x", retry_on=(OSError,))(plain).settings.retry_on == (OSError,)

    def test_an_unknown_option_is_answered_with_a_near_one(self) -> None:
        with pytest.raises(InvalidOption, match="did you mean 'priority'"):
            send_receipt.options(prority=7)  # type: ignore[call-arg]
        with pytest.raises(InvalidOption, match="there is no option 'client_id'"):
            TaskGroup().task(name="x", client_id="c")(plain)  # type: ignore[call-overload]

    def test_a_groups_options_are_checked_as_well(self) -> None:
        with pytest.raises(InvalidOption, match="max_attempts=0"):
            TaskGroup("x", defaults=TaskOptions(max_attempts=0))
        with pytest.raises(InvalidOption, match="queue="):
            TaskGroup("x", queue="a,b")


class TestFlatForm:
    def test_the_four_options_of_enqueue_are_taken_from_among_the_arguments(self) -> None:
        at = datetime(2030, 1, 1, tzinfo=UTC)

        options, own = split_flat_options(
            send_receipt,
            {"run_at": at, "priority": 1, "client_id": "c", "max_runtime_seconds": 9, "copy": True},
        )

        assert options == CallOptions(run_at=at, priority=1, client_id="c", timeout=9)
        assert own == {"copy": True}

    def test_newer_options_are_never_taken_flat(self) -> None:
        assert split_flat_options(send_receipt, {"queue": "q", "timeout": 3}) == (
            CallOptions(),
            {"queue": "q", "timeout": 3},
        )

    def test_options_of_schedule_do_not_pass_as_options_of_enqueue(self) -> None:
        with pytest.raises(InvalidOption, match=r"pq\.schedule"):
            split_flat_options(send_receipt, {"cron": "* * * * *"})

    def test_schedule_gets_its_own_apart(self) -> None:
        given = {"cron": "* * * * *", "key": "k", "active": False, "priority": 1, "copy": True}

        schedule, options, own = split_schedule_options(send_receipt, given)

        assert schedule == {"cron": "* * * * *", "key": "k", "active": False}
        assert options == CallOptions(priority=1)
        assert own == {"copy": True}
        with pytest.raises(InvalidOption, match="run_every"):
            split_schedule_options(send_receipt, {"run_at": datetime.now(UTC)})

    def test_parameters_named_like_options_need_the_other_form(self) -> None:
        assert clash.clashing == {"key", "priority"}
        assert send_receipt.clashing == frozenset()
        assert clash.call("k", priority=3).kwargs == {"priority": 3}
        with pytest.raises(InvalidTask, match=r"key, priority.*clash\.options\(…\)\.call\(…\)"):
            split_flat_options(clash, {})


class TestUpgrades:
    def make(self) -> Any:
        @TaskGroup().task(name="mail", version=4)
        def mail(*, to: list[str], subject: str) -> None: ...

        @mail.upgrade(from_version=1)
        def from_1(address: str) -> tuple[tuple[str, str], dict[str, Any]]:
            return (address, "hello"), {}

        @mail.upgrade(from_version=3)
        def from_3(address: str, subject: str) -> Call[None]:
            return mail.call(to=[address], subject=subject)

        return mail

    def test_old_arguments_go_through_every_step_that_there_is(self) -> None:
        mail = self.make()

        assert mail.upgraded(("a",), {}, 1) == ((), {"to": ["a"], "subject": "hello"})
        assert mail.upgraded(("a", "b"), {}, 2) == ((), {"to": ["a"], "subject": "b"})
        assert mail.upgraded((), {"to": ["a"], "subject": "b"}, 4) == ((), {"to": ["a"], "subject": "b"})

    def test_newer_arguments_are_for_newer_code(self) -> None:
        with pytest.raises(UnknownTask, match="version 5 is newer"):
            self.make().upgraded((), {}, 5)

    def test_stored_arguments_are_read_by_the_first_upgrade_they_meet(self) -> None:
        mail = self.make()

        assert [list(mail.signature_of(version).parameters) for version in (1, 2, 3, 4)] == [
            ["address"],
            ["address", "subject"],
            ["address", "subject"],
            ["to", "subject"],
        ]
        assert mail.signature_of(4).parameters["to"].annotation == list[str]
        assert mail.signature_of(1) is mail.signature_of(1)

    def test_an_upgrade_that_returns_something_else_is_told(self) -> None:
        @TaskGroup().task(name="x", version=2)
        def task(x: int) -> None: ...

        @task.upgrade(from_version=1)
        def wrong(x: int) -> Any:
            return report.call() if x else (x, {})

        for argument in (0, 1):
            with pytest.raises(InvalidTask, match=r"version 1, .*wrong.* return \(args, kwargs\)"):
                task.upgraded((argument,), {}, 1)

    def test_steps_that_make_no_sense_are_refused(self) -> None:
        mail = self.make()

        for version in (0, 4, 5, True, "1"):
            with pytest.raises(InvalidTask, match="from_version="):
                mail.upgrade(from_version=version)
        with pytest.raises(InvalidTask, match="already"):
            mail.upgrade(from_version=1)

    def test_versions_may_be_dates(self) -> None:
        @TaskGroup().task(name="x", version=20300101)
        def task(x: int) -> None: ...

        assert task.upgraded((1,), {}, 1) == ((1,), {})


def test_a_plain_function_is_one_task_each_time() -> None:
    assert as_task(plain) is as_task(plain)
    assert as_task(report) is report


def none() -> None: ...
def two(a: int, b: int) -> None: ...
def half(a: int, b: int = 1) -> None: ...
def by_place(a: int, /, b: int) -> None: ...
def by_name(a: int, *, b: int, c: int = 1) -> None: ...
def endless(a: int, *b: int, c: int = 1) -> None: ...
def everything(a: int, /, b: int = 1, *c: int, d: int, **e: int) -> None: ...


@pytest.mark.parametrize("function", [none, two, half, by_place, by_name, endless, everything])
def test_the_quick_look_at_arguments_says_what_python_says(function: Any) -> None:
    signature = inspect.signature(function)
    arity = Arity(signature)
    takes_any_name = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    seen = set()
    for given in range(5):
        for names in itertools.chain.from_iterable(itertools.combinations("abcdx", n) for n in range(4)):
            args, kwargs = (0,) * given, dict.fromkeys(names, 0)
            try:
                signature.bind(*args, **kwargs)
                fits = True
            except TypeError:
                fits = False
            quick = arity.fits(args, kwargs)
            seen.add(quick)
            # It may leave the names of **kwargs to Python, and must be right otherwise.
            assert quick == fits or (takes_any_name and fits), (given, names)
    assert seen == {True, False}
