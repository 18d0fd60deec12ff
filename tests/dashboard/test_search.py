"""Searching in what tasks were given."""

from __future__ import annotations

import re
from datetime import date

import pytest

from tests.dashboard import dashboard_tasks as tasks
from tests.dashboard.conftest import Site


def ids(site: Site, holds: str, **more: str) -> list[int]:
    answer = site.viewer.get("/tasks", params={"holds": holds, **more})
    assert answer.status_code == 200, answer.text
    return sorted({int(one) for one in re.findall(r'href="/tasks/(\d+)"', answer.text)})


def test_arguments_are_found_by_name_or_place(site: Site) -> None:
    by_place = site.pq.enqueue(tasks.greet.call("Ada"))
    by_name = site.pq.enqueue(tasks.greet.call(name="Ada"))
    dated = site.pq.enqueue(tasks.greet.call("7", day=date(2030, 1, 31)))
    number = site.pq.enqueue(tasks.nap.call(7))
    order = site.pq.enqueue(tasks.order.call(7, "Ada", date(2030, 1, 31), True, [1, 2], deep=1.5))
    tenant = site.pq.enqueue(tasks.greet.options(headers={"tenant": "acme"}).call("Bob"))
    site.pq.enqueue(tasks.whisper.options(headers={"tenant": "acme"}).call("Ada"))
    site.pq.enqueue(tasks.greet.call("x" * 100_000))

    assert ids(site, "args.name=Ada") == [by_place, by_name]
    assert ids(site, "args.customer=Ada") == [order]
    assert ids(site, "args.day=2030-01-31") == [dated, order]
    assert ids(site, "args.name=7") == [dated], "text, where it is text"
    assert ids(site, "args.seconds=7") == [number]
    assert ids(site, 'args.name="7"') == [dated]
    assert ids(site, "args.0=7") == [dated, number, order]
    assert ids(site, "args.lines=[1, 2]") == [order]
    assert ids(site, "args.lines.1=2") == [order]
    assert ids(site, "args.deep=1.5", state="waiting") == [order]
    assert ids(site, "headers.tenant=acme") == [tenant]
    assert ids(site, "args.secret=Ada") == ids(site, "args.name=nobody") == ids(site, "args.none=1") == []


@pytest.mark.parametrize("holds", ["order=7", "args.=7", "args.order", "payload.x=1", "args.a\x00=1"])
def test_what_is_no_search_is_said(site: Site, holds: str) -> None:
    answer = site.viewer.get("/tasks", params={"holds": holds})

    assert answer.status_code == 422
    assert "holds: " in answer.text


def test_a_page_is_sorted_by_any_column(site: Site) -> None:
    first, second, third = (
        site.pq.enqueue(tasks.greet.options(queue=queue, priority=priority).call("x"))
        for queue, priority in (("b", 50), ("a", 50), ("a", 75))
    )

    def order(sort: str) -> list[int]:
        text = site.viewer.get("/tasks", params={"sort": sort}).text
        return [int(one) for one in re.findall(r'<a href="/tasks/(\d+)"', text)]

    assert order("") == order("nonsense") == order("-id") == [third, second, first]
    assert order("id") == order("when") == [first, second, third]
    assert order("queue") == [third, second, first]
    assert order("-queue")[0] == first
    page = site.viewer.get("/tasks", params={"sort": "took", "state": "waiting"}).text
    assert 'aria-sort="ascending"' in page
    assert "state=waiting&amp;sort=-took" in page


def test_schedules_are_paused_in_their_list(site: Site) -> None:
    schedule_id = site.pq.schedule(tasks.greet.call("x"), run_every=tasks.HOUR)

    paused = site.operator.post(f"/schedules/{schedule_id}/pause", data={"to": "list"}, follow_redirects=False)

    assert paused.headers["location"].startswith("/schedules?")
    assert f"/schedules/{schedule_id}/resume" in site.operator.get("/schedules").text
    assert f"/schedules/{schedule_id}/resume" not in site.viewer.get("/schedules").text
    schedule = site.pq.get_schedule(schedule_id)
    assert schedule
    assert not schedule.active
