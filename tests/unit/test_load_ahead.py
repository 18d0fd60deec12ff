"""Which arguments a worker decodes for its children: those for which nothing of the application is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from pq_core.registry import Registry
from pq_core.task_groups import TaskGroup
from pq_core.types import ClaimedTask, TaskOptions
from pq_core.worker.child_setup import Unroutable
from pq_core.worker.inbox import pack, unpack
from pq_core.worker.program import LOADED_AHEAD, Program
from pq_core.worker.rows import claimed_task

jobs = TaskGroup()


@dataclass
class Order:
    number: int

    def __post_init__(self) -> None:
        raise AssertionError("the application's code ran in the worker")


@jobs.task(name="plain")
def plain(*args: Any, **kwargs: Any) -> None: ...


@jobs.task(name="typed")
def typed(day: date) -> None: ...


@jobs.task(name="order")
def order(order: Order) -> None: ...


@jobs.task(name="one")
def one(number: Any) -> None: ...


shown: list[str] = []


class Default:
    def __repr__(self) -> str:
        shown.append("shown")
        return "a default"


@jobs.task(name="with_default")
def with_default(number: Any, things: Any = Default()) -> None: ...  # noqa: B008


@jobs.task(name="secret", sensitive=True)
def secret(number: Any) -> None: ...


@jobs.task(name="pickled", payload="pickle")
def pickled(number: Any) -> None: ...


@jobs.task(name="newer", version=2)
def newer(number: Any) -> None: ...


@newer.upgrade(from_version=1)
def _upgraded(number: Any) -> Any:
    raise AssertionError("the application's code ran in the worker")


@pytest.fixture(scope="module")
def program() -> Program:
    registry = Registry()
    registry.include(jobs)
    return Program(registry=registry, defaults=TaskOptions(), release_delay=1.0, unroutable_after=1.0)


def stored(name: str, *args: Any, version: int = 1, **kwargs: Any) -> ClaimedTask:
    moment = b"2000-01-01 00:00:00+00"
    payload = json.dumps({"args": args, "kwargs": kwargs}, ensure_ascii=False).encode()
    row = [
        b"7", name.encode(), b"default", b"50", b"1", b"1", b"1", payload, None, str(version).encode(),
        moment, moment, moment, None, None, None, b"0", b"0", None, None, b"retry", None,
    ]  # fmt: skip
    return claimed_task(unpack(pack(row)))


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, "two", None, [3.5], {"deep": [True]}), {}), ((), {"a": {"b": "ü"}})]
)
def test_plain_json_is_what_the_child_would_load(
    program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    task = stored("plain", *args, **kwargs)
    assert program.load_ahead(task) == (args, kwargs)
    assert program.load(task) == (program.function_of(task), args, kwargs) == (plain.function, args, kwargs)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: stored("typed", "2024-02-29"), id="an annotation converts it"),
        pytest.param(lambda: stored("order", {"number": 1}), id="an annotation builds a class"),
        pytest.param(lambda: stored("plain", {"$pq": "date", "value": "2024-02-29"}), id="a tag"),
        pytest.param(lambda: stored("plain", "\\u0024pq"), id="perhaps a tag"),
        pytest.param(lambda: stored("plain", "x" * LOADED_AHEAD), id="large"),
        pytest.param(lambda: stored("secret", 1), id="sensitive"),
        pytest.param(lambda: stored("pickled", 1), id="not JSON"),
        pytest.param(lambda: stored("newer", 1), id="to be upgraded"),
        pytest.param(lambda: stored("one"), id="an argument too few"),
        pytest.param(lambda: stored("one", 1, 2), id="an argument too many"),
    ],
)
def test_the_rest_is_left_to_the_child(program: Program, make: Callable[[], ClaimedTask]) -> None:
    assert program.load_ahead(make()) is None


def test_what_does_not_fit_shows_no_default_in_the_worker(program: Program) -> None:
    assert program.load_ahead(stored("with_default", 1, 2, 3)) is None
    assert shown == []
    with pytest.raises(Unroutable):
        program.load(stored("with_default", 1, 2, 3))
    assert shown == ["shown"]


@pytest.mark.parametrize("payload", ["[]", '{"args": 1}', "{", "[" * 2000])
def test_what_is_no_payload_is_left_to_the_child(program: Program, payload: str) -> None:
    task = stored("plain")
    object.__setattr__(task, "payload", payload)
    assert program.load_ahead(task) is None
