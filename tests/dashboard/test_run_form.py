"""The form that enqueues a task of a function, field by field."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from pq_adapters.dashboard.pages.run import arguments_of, fields_of
from pq_core import TaskGroup, payload
from tests.dashboard import dashboard_tasks as tasks
from tests.dashboard.conftest import Site

GOOD = {"name": "shop.order", "a-number": "7", "a-customer": "42", "a-day": "2030-01-31", "a-gift": "true"}


def arguments(site: Site, **changed: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    answer = site.operator.post("/function/run", data={**GOOD, **changed}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    task_id = int(answer.headers["location"].split("/tasks/")[1].split("?")[0])
    record = site.pq.get_task(task_id)
    assert record
    return payload.decode(record.payload, signature=tasks.order.typed_signature)


def test_the_form_says_what_a_function_takes(site: Site) -> None:
    page = site.operator.get("/function/run", params={"name": "shop.order"}).text

    for words in ("Take an order.", "a-number", "list[int]", ">true</option>", "Empty: None", "*int", "**float"):
        assert words in page, words
    assert "And more." not in page
    assert "/function/run?name=shop.order" in site.operator.get("/function?name=shop.order").text
    assert "shop.order" in site.operator.get("/functions").text
    assert "/function/run" not in site.viewer.get("/function?name=shop.order").text
    assert site.viewer.get("/function/run?name=shop.order").status_code == 403
    assert site.operator.get("/function/run?name=nobody").status_code == 404


def test_what_is_typed_arrives_as_the_signature_says(site: Site) -> None:
    assert arguments(site) == ((7, "42", date(2030, 1, 31), True), {})
    found = arguments(site, **{"a-lines": "[1, 2]", "a-more": "[3]", "a-note": "null", "a-extra": '{"tax": 1.5}'})
    assert found == ((7, "42", date(2030, 1, 31), True, [1, 2], 3), {"note": "null", "tax": 1.5})


def test_options_are_those_of_a_call(site: Site) -> None:
    form = {**GOOD, "run_in": "3600", "priority": "75", "queue": "slow", "client_id": "once"}
    first = site.operator.post("/function/run", data=form, follow_redirects=False)
    second = site.operator.post("/function/run", data=form)

    record = site.pq.get_task_by_client_id("once")
    assert record
    assert first.headers["location"].partition("?")[0].endswith(f"/tasks/{record.id}")
    assert (record.queue, record.priority, record.run_at > record.created_at) == ("slow", 75, True)
    assert second.status_code == 422
    assert "client_id" in second.text
    (entry,) = site.pq.audit_log(limit=1)
    assert (entry.action, entry.details["id"]) == ("task.enqueue", record.id)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a-number": "seven"}, "number is of type str"),
        ({"a-number": "1e400"}, "number is of type str"),
        ({"a-number": ""}, "number: give a value"),
        ({"a-day": "soon"}, "day"),
        ({"a-lines": "[1"}, "lines: "),
        ({"a-more": "3"}, "more: give a list"),
        ({"a-extra": '{"tax": "x"}'}, "tax is of type str"),
        ({"run_at": "soon"}, "give a time in UTC"),
    ],
)
def test_what_can_not_be_meant_is_said_and_kept(site: Site, changed: dict[str, str], words: str) -> None:
    answer = site.operator.post("/function/run", data={**GOOD, **changed})

    assert answer.status_code == 422
    assert words in answer.text
    assert 'value="2030-01-31"' in answer.text or "a-day" in changed
    assert site.pq.pending_count() == 0


def gaps(one: int = 1, two: int = 2, *rest: int, three: int = 3) -> None: ...


def fixed(one: int = 1, two: int = 2, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "typed", "expected"),
    [
        (gaps, {"a-two": "5"}, ([], {"two": 5})),
        (gaps, {"a-one": "4", "a-three": "6"}, ([4], {"three": 6})),
        (gaps, {"a-one": "4", "a-two": "5", "a-rest": "[7]"}, ([4, 5, 7], {})),
        (gaps, {"a-one": "4", "a-rest": "[7]"}, "rest: fill in all fields before it"),
        (fixed, {"a-two": "5"}, "two: fill in all fields before it"),
    ],
)
def test_a_value_after_a_gap_keeps_its_parameter(function: Any, typed: dict[str, str], expected: Any) -> None:
    fields = fields_of(TaskGroup("gaps").task(function))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            arguments_of(fields, typed)
    else:
        assert arguments_of(fields, typed) == expected
