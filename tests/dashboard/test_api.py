"""The JSON API over real HTTP: what it does, what it refuses, and what it writes down."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from starlette.requests import ClientDisconnect

from pq_adapters.dashboard.problems import problem_of
from pq_core import Backoff, TaskStatus, WaitTimeout
from tests.dashboard import dashboard_tasks as tasks
from tests.dashboard.conftest import Site
from tests.integration.worker_process import eventually, running, until_empty

API = "/api/v1"
APP = f"{tasks.__name__}:create_pq"


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    return found


def done(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def test_enqueued_task_runs_with_refined_arguments(site: Site, database: str, tmp_path: Path) -> None:
    body = {"task": "shop.greet", "args": ["Ada"], "kwargs": {"day": "2026-01-31"}, "client_id": "hello"}
    task_id = done(site.operator.post(f"{API}/tasks", json=body), 201)["id"]

    until_empty(database, tmp_path, app=APP)

    task = done(site.viewer.get(f"{API}/tasks/{task_id}"))
    assert (task["status"], task["result"], task["client_id"]) == ("completed", "hello Ada", "hello")
    # The success at a first try leaves no attempt, and is found by its worker all the same.
    worker = task["worker_id"]
    assert [one["id"] for one in done(site.viewer.get(f"{API}/tasks?worker_id={worker}"))["items"]] == [task_id]
    assert f'href="/tasks/{task_id}"' in site.viewer.get(f"/tasks?worker={worker}").text
    assert f'href="/tasks?worker={worker}"' in site.viewer.get(f"/tasks/{task_id}").text
    (entry,) = site.pq.audit_log()
    assert (entry.actor, entry.action, entry.details) == (
        "the operator",
        "task.enqueue",
        {"task": "shop.greet", "id": task_id},
    )


def test_tasks_that_snooze_or_are_put_back_are_not_shown_as_failing(site: Site, database: str, tmp_path: Path) -> None:
    snoozed = site.pq.enqueue(tasks.postpone.call("the bank is closed\nuntil nine"))
    failing = site.pq.enqueue(tasks.fail.options(max_attempts=2, backoff=Backoff(base=600)).call("no such bank"))
    with running(database, tmp_path, app=APP, drain_timeout=0, grace=1) as worker:
        napping = site.pq.enqueue(tasks.nap.call(600))
        eventually(lambda: site.pq.get_task(napping).status == "running")
        eventually(lambda: site.pq.get_task(failing).error)
        eventually(lambda: site.pq.get_task(snoozed).error)
        worker.stop()

    rows = dict(re.findall(r'<a href="/tasks/(\d+)">.*?</a>(.*?)</tr>', site.viewer.get("/tasks").text, re.DOTALL))
    assert "RuntimeError: no such bank" in rows[str(failing)]
    assert "status retrying" in rows[str(failing)]
    assert "until nine" in rows[str(snoozed)]  # its arguments, as of each that waits
    assert "status snoozed" in rows[str(snoozed)]
    assert "interrupted" not in rows[str(napping)]
    assert "600" in rows[str(napping)]

    pages = {task_id: site.viewer.get(f"/tasks/{task_id}").text for task_id in (failing, snoozed, napping)}
    assert "What it last failed with" in pages[failing]
    for task_id, said in ((snoozed, "snoozed: the bank is closed"), (napping, "interrupted: its worker stopped")):
        assert f'<span class="what">{said}' in pages[task_id]
        assert "What it last failed with" not in pages[task_id]
        assert 'class="final"' not in pages[task_id]
        assert "<summary>Error</summary>" not in pages[task_id]
    assert "until nine" in pages[snoozed]


def test_characters_that_turn_text_are_written_out_on_pages(site: Site, database: str, tmp_path: Path) -> None:
    turning = "".join(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    queue, written = f"mail{turning}gpj", "".join(f"\\u{ord(one):04x}" for one in turning)
    options = {"queue": queue, "client_id": f"c{turning}", "concurrency_key": f"k{turning}"}
    options["headers"] = {f"h{turning}": f"v{turning}"}
    task_id = site.pq.enqueue(tasks.fail.options(**options).call(f"a{turning}"))
    with running(database, tmp_path, app=APP, queues=[queue]):
        eventually(lambda: site.pq.get_task(task_id).status == "failed")
        site.pq.create_key(f"n{turning}", role="viewer")
        site.pq.schedule(tasks.greet.call(f"a{turning}"), cron="@daily", key=f"s{turning}")
        site.pq.enqueue(tasks.nap.options(**{**options, "client_id": None}).call(600))
        eventually(lambda: site.pq.stats().queues[queue].running == 1)
        quoted = quote(queue)
        paths = ["/", "/tasks", f"/tasks?queue={quoted}", f"/tasks/{task_id}", "/failures", "/queues", "/workers"]
        paths += [f"/queue?name={quoted}", "/limits", "/keys", "/schedules", "/schedules/1", "/schedules/1/edit"]
        paths += [f"/tasks/bulk?action=retry&state=failed&queue={quoted}", f"/function?name={quote(turning)}"]
        pages = {path: site.admin.get(path).text for path in paths}
    for path, page in pages.items():
        seen = re.sub(r'value="[^"]*"|<textarea[^>]*>[^<]*', "", page)
        assert not set(turning) & set(seen), path
        assert written in page or path.endswith("/edit"), path

    # What a form sends back is what there is.
    field = re.search(r'name="queue" value="([^"]*)"', pages["/queues"])
    assert field is not None
    site.operator.post("/queues/pause", data={"queue": field[1]}, headers={"Origin": site.address})
    assert "Paused by the operator" in site.viewer.get(f"/queue?name={quoted}").text
    kept = "".join(re.findall(r"<textarea[^>]*>([^<]*)", pages["/schedules/1/edit"]))
    assert f"a{turning}" in kept


def test_taken_client_id(site: Site) -> None:
    body = {"task": "shop.greet", "args": ["Ada"], "client_id": "one"}
    task_id = done(site.operator.post(f"{API}/tasks", json=body), 201)["id"]

    assert problem(site.operator.post(f"{API}/tasks", json=body), 409)["existing_id"] == task_id
    again = site.operator.post(f"{API}/tasks", json={**body, "on_duplicate": "return"})
    assert done(again, 201) == {"id": task_id}
    replaced = site.operator.post(f"{API}/tasks", json={**body, "args": ["Bob"], "on_duplicate": "replace"})
    assert done(replaced, 201) == {"id": task_id}
    record = site.pq.get_task(task_id)
    assert record is not None
    assert record.payload["args"] == ["Bob"]
    # What was refused is not in the log.
    assert len(site.pq.audit_log()) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"task": "os.system", "args": ["true"]}, "os.system"),
        ({"task": "shop.greet"}, "name"),
        ({"task": "shop.greet", "args": ["a"], "kwargs": {"day": "someday"}}, "day"),
        ({"task": "shop.greet", "args": ["a", "b"]}, "positional"),
        ({"task": "shop.greet", "args": ["a\x00"]}, "NUL"),
        ({"task": "shop.greet", "args": ["a"], "colour": "red"}, "unknown member 'colour'"),
        ({"task": "shop.greet", "args": ["a"], "priority": True}, "body.priority must be of type integer"),
        ({"task": "shop.greet", "args": ["a"], "run_at": "2026-01-31T10:00:00"}, "body.run_at"),
        ({"task": "shop.greet", "args": ["a"], "run_at": "2100-01-01T00:00:00Z", "run_in": 5}, "run_in"),
        ({"args": ["a"]}, "'task'"),
        ([], "object"),
    ],
)
def test_refuses_what_makes_no_sense(site: Site, body: Any, words: str) -> None:
    assert words in problem(site.operator.post(f"{API}/tasks", json=body), 422)["detail"]

    assert site.pq.counts()[TaskStatus.PENDING] == 0
    assert site.pq.audit_log() == []


def test_refuses_what_is_no_json(site: Site) -> None:
    json = {"Content-Type": "application/json"}
    problem(site.operator.post(f"{API}/tasks", content=b"{", headers=json), 400)
    problem(site.operator.post(f"{API}/tasks", content=b'{"task": NaN}', headers=json), 400)
    problem(site.operator.post(f"{API}/tasks", content=b"[" * 100_000, headers=json), 400)
    problem(site.operator.post(f"{API}/tasks", data={"task": "shop.greet"}), 415)
    problem(site.operator.post(f"{API}/tasks", content=b" " * (2**20 + 1), headers=json), 413)
    in_pieces = iter([b" " * 2**19] * 3)
    problem(site.operator.post(f"{API}/tasks", content=in_pieces, headers=json), 413)


def test_pages_follow_each_other(site: Site) -> None:
    ids = sorted(site.pq.enqueue_many(tasks.greet.call(str(n)) for n in range(7)))

    first = done(site.viewer.get(f"{API}/tasks", params={"limit": 4}))
    second = done(site.viewer.get(f"{API}/tasks", params={"limit": 4, "before_id": first["next"]}))

    assert [one["id"] for one in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None


def test_filters(site: Site) -> None:
    schedule_id = site.pq.schedule(tasks.greet.call("x"), cron="0 0 1 1 *")
    run = site.pq.run_schedule_now(schedule_id)
    mine = site.pq.enqueue(tasks.greet.call("a"), client_id="c", queue="q/1", priority=7)
    other = site.pq.enqueue(tasks.nap.call(0))
    site.pq.cancel(other)

    def found(**chosen: Any) -> list[int]:
        return [one["id"] for one in done(site.viewer.get(f"{API}/tasks", params=chosen))["items"]]

    assert found(client_id="c") == found(queue="q/1") == found(priority=7) == [mine]
    assert found(schedule_id=schedule_id) == [run]
    assert found(name="shop.nap") == found(status="cancelled,failed") == [other]
    assert found(status="pending") == [mine, run]
    assert found(since="2100-01-01T00:00:00Z") == found(worker_id=1) == found(error="x") == []
    assert len(found(before="2100-01-01T00:00:00Z")) == 3
    assert found(ids=f"{mine},{run}") == [mine, run]
    assert done(site.viewer.get(f"{API}/tasks/count", params={"queue": "q/1"})) == {"count": 1, "more": False}
    problem(site.viewer.get(f"{API}/tasks", params={"colour": "red"}), 422)
    problem(site.viewer.get(f"{API}/tasks", params={"limit": 501}), 422)
    problem(site.viewer.get(f"{API}/tasks", params={"queue": "a\x00"}), 422)
    problem(site.viewer.get(f"{API}/tasks?queue=a&queue=b"), 422)


def test_one_task_from_failure_to_its_end(site: Site, database: str, tmp_path: Path) -> None:
    task_id = site.pq.enqueue(tasks.fail.call("no"))
    until_empty(database, tmp_path, app=APP)
    path = f"{API}/tasks/{task_id}"

    (attempt,) = done(site.viewer.get(f"{path}/attempts"))["items"]
    assert attempt["outcome"] == "raised"
    problem(site.operator.post(f"{path}/reschedule", json={"run_in": 60}), 409)
    assert done(site.operator.post(f"{path}/retry")) == {"id": task_id, "done": True}
    problem(site.operator.post(f"{path}/retry"), 409)
    done(site.operator.post(f"{path}/reschedule", json={"run_at": "2100-01-01T00:00:00Z", "priority": 3}))
    record = site.pq.get_task(task_id)
    assert record is not None
    assert (record.run_at.year, record.priority) == (2100, 3)
    done(site.operator.post(f"{path}/cancel", json={"reason": "enough"}))
    problem(site.operator.post(f"{path}/cancel"), 409)
    done(site.admin.delete(path))
    problem(site.viewer.get(path), 404)
    problem(site.operator.post(f"{path}/retry"), 404)
    log = [(one.action, one.target) for one in site.pq.audit_log()][::-1]
    assert log == [(f"task.{verb}", str(task_id)) for verb in ("retry", "reschedule", "cancel", "delete")]


def test_bulk_counts_first(site: Site) -> None:
    site.pq.enqueue_many(tasks.greet.call(str(n)) for n in range(5))
    kept = site.pq.enqueue(tasks.greet.call("kept"), queue="other")
    chosen = {"filter": {"queue": "default"}}

    assert done(site.operator.post(f"{API}/tasks/bulk/cancel", json={**chosen, "dry_run": True})) == {
        "count": 5,
        "more": False,
        "done": False,
    }
    wrong = site.operator.post(f"{API}/tasks/bulk/cancel", json={**chosen, "expected": 4})
    assert problem(wrong, 409)["count"] == 5
    assert site.pq.audit_log() == []
    right = site.operator.post(f"{API}/tasks/bulk/cancel", json={**chosen, "expected": 5, "reason": "why"})
    assert done(right)["count"] == 5
    assert done(site.operator.post(f"{API}/tasks/bulk/retry", json={"filter": {"status": ["cancelled"]}}))["count"] == 5
    problem(site.operator.post(f"{API}/tasks/bulk/delete", json=chosen), 403)
    assert done(site.admin.post(f"{API}/tasks/bulk/delete", json=chosen))["count"] == 5
    problem(site.admin.post(f"{API}/tasks/bulk/delete", json={"filter": {}}), 422)
    assert [one.id for one in site.pq.list_tasks()] == [kept]
    assert [one.details["count"] for one in site.pq.audit_log()] == [5, 5, 5]


def test_schedules(site: Site) -> None:
    body = {"task": "shop.greet", "args": ["Ada"], "cron": "0 9 * * 1", "timezone": "Europe/Berlin", "key": "k"}
    schedule_id = done(site.operator.post(f"{API}/schedules", json=body), 201)["id"]
    path = f"{API}/schedules/{schedule_id}"

    assert done(site.viewer.get(path))["cron"] == "0 9 * * 1"
    times = done(site.viewer.get(f"{path}/next", params={"count": 3, "after": "2100-01-01T00:00:00Z"}))["items"]
    assert times == ["2100-01-04T09:00:00+01:00", "2100-01-11T09:00:00+01:00", "2100-01-18T09:00:00+01:00"]
    done(site.operator.put(path, json={"args": ["Bob"], "run_every": 60, "max_concurrent": 0, "priority": 3}))
    changed = done(site.viewer.get(path))
    assert (changed["cron"], changed["run_every"], changed["max_concurrent"], changed["key"]) == (None, 60, None, "k")
    done(site.operator.post(f"{path}/pause"))
    assert done(site.viewer.get(f"{API}/schedules", params={"active": "false"}))["items"][0]["id"] == schedule_id
    done(site.operator.post(f"{path}/resume"))
    task_id = done(site.operator.post(f"{path}/run"), 201)["id"]
    assert [one["id"] for one in done(site.viewer.get(f"{path}/runs"))["items"]] == [task_id]
    problem(site.operator.post(f"{API}/schedules", json={**body, "cron": "every day"}), 422)
    problem(site.operator.post(f"{API}/schedules", json={**body, "run_every": 5}), 422)
    done(site.operator.delete(path))
    for verb, ending in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/run"), ("GET", "/next")):
        role = site.viewer if verb == "GET" else site.operator
        problem(role.request(verb, path + ending), 404)


def test_preview_while_typing(site: Site) -> None:
    def preview(**query: Any) -> httpx.Response:
        return site.viewer.get(f"{API}/schedules/preview", params={"after": "2026-10-24T12:00:00Z", **query})

    assert len(done(preview(cron="*/5 * * * *"))["items"]) == 10
    assert done(preview(cron="0 8 * * *", timezone="Europe/Berlin", count=2))["items"] == [
        "2026-10-25T08:00:00+01:00",
        "2026-10-26T08:00:00+01:00",
    ]
    assert done(preview(run_every=90, count=1))["items"] == ["2026-10-24T12:01:30+00:00"]
    for wrong in ({"cron": "* *"}, {"cron": "* * * * *", "timezone": "Nowhere/None"}, {}, {"run_every": "x"}):
        problem(preview(**wrong), 422)


def test_paused_queue_is_obeyed_within_a_second_and_resumed(site: Site, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app=APP):
        path = f"{API}/queues/default"
        assert done(site.operator.post(f"{path}/pause")) == {"name": "default", "changed": True}
        assert done(site.operator.post(f"{path}/pause"))["changed"] is False
        paused = [site.pq.enqueue(tasks.greet.call(str(n))) for n in range(5)]
        # A task of another queue tells that the worker has looked since.
        (queue,) = [one for one in done(site.viewer.get(f"{API}/queues"))["items"] if one["name"] == "default"]
        assert (queue["due"], queue["paused_by"], queue["workers"]) == (5, "the operator", 1)
        with pytest.raises(WaitTimeout):
            site.pq.wait(paused[0], timeout=2)
        assert site.pq.counts()[TaskStatus.PENDING] == 5

        assert done(site.operator.post(f"{path}/resume"))["changed"] is True

        site.pq.wait(paused[-1], timeout=30)
    assert [one.action for one in site.pq.audit_log()] == ["queue.resume", "queue.pause", "queue.pause"]


def test_queue_names_may_hold_anything(site: Site) -> None:
    name = "a/b c?ü%2F"
    path = httpx.URL("http://x").copy_with(path="/").raw_path.decode() + "api/v1/queues/a%2Fb%20c%3F%C3%BC%252F/pause"
    assert done(site.operator.post(path))["name"] == name

    assert [one.name for one in site.pq.queues()] == [name]


def test_drained_worker_stops(site: Site, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app=APP, lease=600) as worker:
        (known,) = done(site.viewer.get(f"{API}/workers"))["items"]
        problem(site.operator.post(f"{API}/workers/{known['id']}/drain"), 403)
        done(site.admin.post(f"{API}/workers/{known['id']}/drain"))

        # Its next heartbeat would come in minutes: it was told.
        eventually(lambda: f"worker {known['id']} stopped" in worker.text)

    problem(site.admin.post(f"{API}/workers/4711/drain"), 404)


def test_stopped_worker_puts_back_what_it_runs(site: Site, database: str, tmp_path: Path) -> None:
    id_ = site.pq.enqueue(tasks.nap.call(600))
    with running(database, tmp_path, app=APP, lease=600, drain_timeout=600) as worker:
        eventually(lambda: (task := site.pq.get_task(id_)) and task.status is TaskStatus.RUNNING)
        (known,) = done(site.viewer.get(f"{API}/workers"))["items"]
        assert (known["draining"], known["stopping"]) == (False, False)
        problem(site.operator.post(f"{API}/workers/{known['id']}/stop"), 403)
        assert done(site.admin.post(f"{API}/workers/{known['id']}/stop")) == {"id": known["id"], "done": True}

        eventually(lambda: f"worker {known['id']} stopped" in worker.text)

    task = site.pq.get_task(id_)
    assert task is not None
    assert (task.status, task.attempts) == (TaskStatus.PENDING, 0)
    assert ("worker.stop", str(known["id"])) in [(one.action, one.target) for one in site.pq.audit_log()]
    problem(site.admin.post(f"{API}/workers/4711/stop"), 404)


def test_statistics(site: Site, database: str, tmp_path: Path) -> None:
    site.pq.enqueue(tasks.greet.call("a"))
    site.pq.enqueue(tasks.fail.call("a"))
    until_empty(database, tmp_path, app=APP)

    items = done(site.viewer.get(f"{API}/statistics", params={"by": "name,outcome", "last": 86400}))["items"]
    assert {(one["name"], one["outcome"], one["count"]) for one in items} == {
        ("shop.greet", "succeeded", 1),
        ("shop.fail", "raised", 1),
    }
    assert all(one["run_p95"] > 0 for one in items)
    series = site.viewer.get(f"{API}/statistics", params={"by": "time", "step": 60, "since": "2026-01-01T00:00:00Z"})
    assert done(series)["items"][0]["time"] is not None
    problem(site.viewer.get(f"{API}/statistics", params={"by": "time"}), 422)


def test_keys_by_the_api(site: Site) -> None:
    problem(site.operator.get(f"{API}/keys"), 403)
    made = done(site.admin.post(f"{API}/keys", json={"name": "new", "role": "viewer"}), 201)
    headers = {"Authorization": f"Bearer {made['key']}"}

    assert done(site.anonymous.get(f"{API}/whoami", headers=headers)) == {
        "name": "new",
        "role": "viewer",
        "key_id": made["id"],
    }
    listed = site.admin.get(f"{API}/keys").text
    assert made["key"][:9] in listed
    assert made["key"] not in listed
    done(site.admin.delete(f"{API}/keys/{made['id']}"))
    problem(site.anonymous.get(f"{API}/whoami", headers=headers), 401)
    problem(site.admin.delete(f"{API}/keys/{made['id']}"), 404)
    log = done(site.admin.get(f"{API}/audit", params={"limit": 1}))
    assert log["items"][0]["action"] == "key.revoke"
    assert done(site.admin.get(f"{API}/audit", params={"before_id": log["next"]}))["next"] is None


def test_without_the_application_nothing_can_be_enqueued(site: Site, database: str) -> None:
    from pq_adapters.dashboard import create_app
    from pq_core import PQ
    from tests.dashboard.serving import client, served

    with served(create_app(PQ(database))) as address, client(address, site.keys["operator"]) as operator:
        found = problem(operator.post(f"{API}/tasks", json={"task": "shop.greet", "args": ["a"]}), 409)

    assert "pq dashboard APP" in found["detail"]


def test_completed_task_says_why_it_has_no_result(site: Site) -> None:
    task_id = site.pq.enqueue(tasks.greet.call("Ada"))
    with site.pq.session() as connection:
        words = "the result can't be stored: too odd"
        connection.execute("UPDATE pq_tasks SET status = 'completed', error = %s WHERE id = %s", (words, task_id))

    page = site.viewer.get(f"/tasks/{task_id}").text
    assert "Why there is no result" in page
    assert "stored: too odd" in page


def test_part_of_a_page_whose_session_has_ended_leads_the_page_to_the_login(site: Site) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": f"{site.address}/tasks?state=failed"}
    answer = site.anonymous.get("/tasks?state=failed&part=rows", headers=headers)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login?next=%2Ftasks%3Fstate%3Dfailed")
    assert answer.text == ""


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-01-01T00:00:00"])
def test_times_that_can_not_be_are_refused(site: Site, moment: str) -> None:
    form = {"action": "cancel", "asked_at": moment, "ids": "1"}
    assert site.operator.post("/tasks/bulk", data=form).status_code == 422
    schedule = {"task": "shop.greet", "args": ["Ada"], "run_every": 60, "start_at": moment}
    assert site.operator.post(f"{API}/schedules", json=schedule).status_code == 422


def test_audit_of_picked_tasks_names_each(site: Site) -> None:
    ids = site.pq.enqueue_many(tasks.greet.call(str(n)) for n in range(5))
    form = {"action": "cancel", "asked_at": "2030-01-01T00:00:00+00:00", "ids": [str(one) for one in ids]}
    assert site.operator.post("/tasks/bulk", data=form).status_code == 303
    (entry,) = site.pq.audit_log()
    assert entry.details is not None
    assert (entry.details["ids"], entry.details["count"]) == (list(ids), 5)


def test_request_that_ends_half_way_is_no_error_of_ours() -> None:
    assert problem_of(ClientDisconnect()).status == 400


def test_lists_are_bounded_however_large_the_tasks(site: Site, database: str, tmp_path: Path) -> None:
    """Documents that compress well are small as stored: their length as text counts, too."""
    plain = site.pq.enqueue(tasks.greet.call("short"))
    large = site.pq.enqueue_many(tasks.greet.call(name) for name in ("x" * 500_000, "é" * 1500, os.urandom(1500).hex()))
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE pq_tasks SET error = repeat('e', 50000), output = repeat('o', 50000)")
    schedule_id = site.pq.schedule(tasks.greet.call("y" * 3000), run_every=tasks.HOUR)
    run = site.pq.run_schedule_now(schedule_id)

    answer = site.viewer.get(f"{API}/tasks")
    found = {one["id"]: one for one in done(answer)["items"]}
    (listed,) = done(site.viewer.get(f"{API}/schedules"))["items"]
    (made,) = done(site.viewer.get(f"{API}/schedules/{schedule_id}/runs"))["items"]

    assert len(answer.content) < 40_000
    assert found[plain]["payload"] == {"args": ["short"], "kwargs": {}}
    assert found[plain]["excerpts"] == ["error", "output"]
    assert [found[task]["payload"] for task in large] == [None] * 3
    assert all("payload" in found[task]["excerpts"] for task in large)
    assert done(site.viewer.get(f"{API}/tasks/{large[0]}"))["payload"]["args"] == ["x" * 500_000]
    assert (listed["payload"], listed["excerpts"]) == (None, ["payload"])
    assert (made["id"], made["payload"], made["excerpts"]) == (run, None, ["payload"])
    assert done(site.viewer.get(f"{API}/schedules/{schedule_id}"))["payload"]["args"] == ["y" * 3000]


def test_attempts_and_queues_come_in_pages(site: Site, database: str) -> None:
    task_id = site.pq.enqueue(tasks.greet.call("x"))
    site.pq.enqueue_many(tasks.greet.call("x").options(queue=f"bulk-{n:03}") for n in range(120))
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO pq_attempts (task_id, fence, number, outcome)"
            " SELECT %s, n, n, 'raised' FROM generate_series(1, 5) n",
            (task_id,),
        )
    path = f"{API}/tasks/{task_id}/attempts"

    first = done(site.viewer.get(path, params={"limit": 3}))
    second = done(site.viewer.get(path, params={"limit": 3, "after_id": first["next"]}))
    queues = done(site.viewer.get(f"{API}/queues", params={"search": "BULK", "limit": 100}))
    rest = done(site.viewer.get(f"{API}/queues", params={"search": "BULK", "after": queues["next"]}))
    page = site.viewer.get("/queues").text
    last = site.viewer.get("/queues", params={"search": "bulk", "after": "bulk-099"}).text

    assert [one["fence"] for one in first["items"]] == [1, 2, 3]
    assert [one["fence"] for one in second["items"]] == [4, 5]
    assert (second["next"], rest["next"]) == (None, None)
    assert [one["name"] for one in queues["items"] + rest["items"]] == [f"bulk-{n:03}" for n in range(120)]
    assert page.count(">bulk-") == 100
    assert "search=&amp;after=bulk-099" in page
    assert last.count(">bulk-") == 20
    assert "First page" in last
    problem(site.viewer.get(f"{API}/tasks/999999/attempts"), 404)


def test_what_is_sensitive_is_hidden_from_every_answer(site: Site) -> None:
    task_id = site.pq.enqueue(tasks.whisper.call("s3cret"))
    schedule_id = site.pq.schedule(tasks.whisper.call("s3cret"), run_every=tasks.HOUR)
    run = site.pq.run_schedule_now(schedule_id)
    paths = (
        "/tasks", f"/tasks/{task_id}", f"/tasks/{run}", "/schedules", f"/schedules/{schedule_id}",
        f"/schedules/{schedule_id}/runs", f"/tasks/{task_id}/attempts",
    )  # fmt: skip

    for path in paths:
        answer = site.admin.get(f"{API}{path}")
        assert answer.status_code == 200
        assert "s3cret" not in answer.text, path
