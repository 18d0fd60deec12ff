"""What a worker leaves out of its claims."""

from __future__ import annotations

import json

from pq_core.worker.refusals import LONGEST, MOST, SHARE, Refusals


def left_out(refusals: Refusals, now: float) -> dict[str, int]:
    parameter = refusals.parameter(now)
    return {} if parameter is None else dict(json.loads(parameter))


def test_nothing_is_left_out_before_anything_was_refused() -> None:
    refusals = Refusals(3600.0)

    assert refusals.parameter(1.0) is None
    assert not refusals.unsaid


def test_name_is_left_out_from_the_lowest_version_refused() -> None:
    refusals = Refusals(3600.0)

    assert refusals.add("a", 3, now=1.0)
    assert refusals.add("a", 2, now=1.0)
    assert refusals.add("a", 5, now=1.0)
    assert refusals.add('odd "name"', -(2**31), now=1.0)

    assert left_out(refusals, 2.0) == {"a": 2, 'odd "name"': -(2**31)}


def test_name_is_tried_again_after_a_part_of_the_time_after_which_it_fails() -> None:
    refusals = Refusals(60.0)
    refusals.add("a", 1, now=0.0)
    refusals.add("b", 1, now=5.0)

    assert left_out(refusals, 60 / SHARE - 0.1) == {"a": 1, "b": 1}
    assert left_out(refusals, 60 / SHARE) == {"b": 1}
    assert left_out(refusals, 60 / SHARE + 5) == {}
    # The row goes on saying it: it is likely to be refused again.
    assert json.loads(refusals.stored()) == {"a": 1, "b": 1}
    seldom = Refusals(365 * 86400.0)
    seldom.add("a", 1, now=0.0)
    assert left_out(seldom, LONGEST - 1) == {"a": 1}
    assert left_out(seldom, LONGEST) == {}


def test_row_is_written_once_for_what_it_does_not_say() -> None:
    refusals = Refusals(3600.0)
    refusals.add("a", 2, now=0.0)
    assert refusals.unsaid
    refusals.unsaid = False

    refusals.add("a", 2, now=700.0)
    refusals.add("a", 4, now=700.0)
    assert not refusals.unsaid

    refusals.say_again()
    assert refusals.unsaid


def test_as_many_names_are_remembered_as_a_statement_should_carry() -> None:
    refusals = Refusals(3600.0)

    assert all(refusals.add(f"name {n}", 1, now=0.0) for n in range(MOST))

    assert not refusals.add("one more", 1, now=0.0)
    assert refusals.add("name 0", 1, now=0.0)
    assert len(left_out(refusals, 1.0)) == MOST
