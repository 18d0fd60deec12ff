from __future__ import annotations

import contextvars
import gc
from collections.abc import Iterator

import pytest

from pq_core import PQ, DatabaseNotConfigured, TaskGroup, current, set_default


@pytest.fixture(autouse=True)
def nobody_else() -> Iterator[None]:
    gc.collect()
    known = dict(current._known)
    current._known.clear()
    yield
    set_default(None)
    current._known.clear()
    current._known.update(known)


def test_without_a_pq_the_way_out_is_named() -> None:
    with pytest.raises(DatabaseNotConfigured, match=r"pq = PQ\(\.\.\.\)"):
        current.default()

    @TaskGroup().task(name="x")
    def task() -> None: ...

    with pytest.raises(DatabaseNotConfigured):
        task.enqueue()


def test_the_only_pq_is_the_default() -> None:
    pq = PQ()

    assert current.default() is pq


def test_of_several_one_has_to_be_set() -> None:
    one, other = PQ(), PQ()

    with pytest.raises(DatabaseNotConfigured, match=r"2 PQs.*set_default"):
        current.default()
    set_default(other)

    assert current.default() is other
    assert one is not other


def test_a_task_goes_to_the_pq_that_has_its_group() -> None:
    one, other, group = PQ(), PQ(), TaskGroup()
    one.include(group)
    set_default(other)

    assert current.pq_for(group.owner) is one
    other.include(group)
    assert group.owner is None


def test_a_task_of_a_pq_belongs_to_it() -> None:
    one, _other = PQ(), PQ()

    @one.task(name="x")
    def task() -> None: ...

    assert task.group is not None
    assert task.group.owner is one


def test_overriding_goes_before_all_and_ends_with_the_block() -> None:
    one, test, inner = PQ(), PQ(), PQ()

    with current.override(test):
        assert current.pq_for(one) is test
        with current.override(inner):
            assert current.default() is inner
        assert current.default() is test
        assert contextvars.Context().run(current.pq_for, one) is one

    assert current.pq_for(one) is one
