"""A schedule that is changed in its form keeps what the form does not show."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pq_core import Backoff
from tests.dashboard import dashboard_tasks as tasks
from tests.dashboard.conftest import Site

ITS_OWN = {"cron", "next_run", "definition", "superseded", "updated_at", "declared_by"}
"""What a change of the rhythm changes."""


def fields_of(page: str) -> dict[str, str]:
    """Return what a browser would send: the values of the form's fields."""
    said = dict(re.findall(r'<input [^>]*?name="(\w+)"[^>]*? value="([^"]*)"', page))
    said |= dict(re.findall(r'<textarea [^>]*?name="(\w+)"[^>]*>([^<]*)</textarea>', page))
    for name, options in re.findall(r'<select [^>]*?name="(\w+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        said[name] = chosen[1] if chosen else re.findall(r'<option value="([^"]*)"', options)[0]
    checked = re.search(r'name="rhythm" value="(\w+)" checked', page)
    assert checked
    return {**{name: html.unescape(value) for name, value in said.items()}, "rhythm": checked[1]}


def row(connection: psycopg.Connection) -> dict[str, Any]:
    [[found]] = connection.execute("SELECT row_to_json(s) FROM pq_periodic s").fetchall()
    return dict(found)


@pytest.mark.parametrize("paused", [False, True])
def test_what_the_form_does_not_show_stays(site: Site, connection: psycopg.Connection, paused: bool) -> None:
    call = tasks.greet.options(
        headers={"tenant": "7"},
        memory_limit=512 * 2**20,
        grace=3,
        result_limit=1000,
        backoff=Backoff(base=7),
        on_lost="fail",
        on_failure=tasks.fail.call("late"),
        concurrency_key="ada",
        concurrency_limit=2,
        queue="slow",
        priority=25,
        max_attempts=4,
        timeout=90,
    ).call("Ada")
    schedule_id = site.pq.schedule(
        call,
        cron="0 9 * * *",
        timezone="Asia/Kolkata",
        key="daily",
        client_id="the-daily-one",
        start_at=datetime(2030, 1, 1, 12, 30, 15, 250000, tzinfo=UTC),
        end_at=datetime(2040, 1, 1, tzinfo=UTC),
        jitter=5,
        catch_up="all",
        catch_up_limit=7,
        max_concurrent=3,
    )
    if paused:
        site.pq.pause_schedule(schedule_id)
    before = row(connection)

    said = fields_of(site.operator.get(f"/schedules/{schedule_id}/edit").text)
    answer = site.operator.post("/schedules/save", data={**said, "cron": "30 17 * * *"})

    assert (answer.status_code, answer.headers["location"]) == (303, f"/schedules/{schedule_id}?done=schedule-saved")
    after = row(connection)
    assert after["cron"] == "30 17 * * *"
    assert {name: value for name, value in after.items() if name not in ITS_OWN} == {
        name: value for name, value in before.items() if name not in ITS_OWN
    }


def test_what_the_form_clears_is_gone(site: Site, connection: psycopg.Connection) -> None:
    schedule_id = site.pq.schedule(tasks.greet.call("Ada"), cron="0 9 * * *", jitter=5, max_concurrent=3)

    said = fields_of(site.operator.get(f"/schedules/{schedule_id}/edit").text)
    site.operator.post("/schedules/save", data={**said, "jitter": "", "max_concurrent": "", "args": '["Bo"]'})

    after = row(connection)
    assert (after["jitter"], after["max_concurrent"], after["payload"]["args"]) == (None, None, ["Bo"])


def test_form_that_names_another_schedule_takes_nothing_over(site: Site, connection: psycopg.Connection) -> None:
    other = site.pq.schedule(tasks.greet.options(headers={"a": "b"}).call("Ada"), cron="0 9 * * *", key="other")
    said = {"name": "shop.greet", "key": "mine", "rhythm": "cron", "cron": "0 8 * * *", "args": '["x"]'}
    said["id"] = str(other)

    site.operator.post("/schedules/save", data=said)

    found = connection.execute("SELECT key, headers FROM pq_periodic ORDER BY id").fetchall()
    assert found == [("other", {"a": "b"}), ("mine", None)]
