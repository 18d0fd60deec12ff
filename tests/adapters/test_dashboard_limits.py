"""Limits on the pages and in the API: set, lifted, refused, and who waits under which."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import psycopg
import pytest

from pq_adapters.dashboard import Principal, Role, create_app
from pq_core import PQ, TaskGroup
from tests.adapters.test_dashboard_pages import all_ids, using

jobs = TaskGroup(prefix="shop")


@jobs.task(concurrency=2, rate="90/m", timeout=30, memory_limit=64 * 2**20)
def fetch(supplier: int) -> None: ...


@jobs.task
def mail(order: int) -> None: ...


def with_tasks(dsn: str, body: Callable[[httpx.AsyncClient, PQ], Awaitable[None]], role: Role = Role.OPERATOR) -> None:
    """Run a body with a client of a dashboard that knows these tasks."""

    async def whole() -> None:
        async with PQ(dsn) as pq:
            pq.include(jobs)
            app = create_app(pq, auth=lambda request: Principal(name="ada", role=role))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await body(client, pq)

    asyncio.run(whole())


def row(text: str, *parts: str) -> bool:
    """Tell whether one row of a table holds all of these."""
    return any(all(part in one for part in parts) for one in re.findall(r"<tr>.*?</tr>", text, re.DOTALL))


def test_limits_of_a_queue_are_set_and_lifted_by_form(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        form = {"queue": "mail & more", "concurrency": "3", "rate": "100/5m"}
        answer = await client.post("/queue/limit", data=form)
        assert answer.status_code == 303
        shown = (await client.get(answer.headers["location"])).text
        assert "Limits saved" in shown
        assert 'value="3"' in shown
        assert 'value="100/5m"' in shown
        listed = (await client.get("/queues")).text
        assert row(listed, "mail &amp; more", "limit: 3 at once", "limit: 100 per 5 min")

        await client.post("/queue/limit", data={"queue": "mail & more", "concurrency": "", "rate": " "})
        [queue] = await pq.aqueues()
        assert (queue.concurrency_limit, queue.rate_limit) == (None, None)
        log = [(one.action, one.target, one.actor, dict(one.details)) for one in await pq.aaudit_log()]
        assert log == [
            ("queue.limit", "mail & more", "ada", {"concurrency": None, "rate": None}),
            ("queue.limit", "mail & more", "ada", {"concurrency": 3, "rate": "100/5m"}),
        ]

    with_tasks(database, body)


@pytest.mark.parametrize(("field", "value"), [("concurrency", "0"), ("concurrency", "two"), ("rate", "fast")])
def test_limit_that_is_none_is_told_and_nothing_is_lost(database: str, field: str, value: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        form = {"queue": "mail", "concurrency": "3", "rate": "10/s", field: value}
        answer = await client.post("/queue/limit", data=form)
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text
        assert f'value="{value}"' in answer.text
        assert (await client.put("/api/v1/queues/mail/limits", json={"rate": "fast"})).status_code == 422
        assert await pq.aqueues() == []
        assert await pq.aaudit_log() == []

    with_tasks(database, body)


def test_viewer_sees_limits_and_sets_none(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        await pq.alimit_queue("mail", concurrency=7, rate="10/s")
        shown = (await client.get("/queue?name=mail")).text
        assert "<form" not in shown.partition("<main")[2]
        assert ">7<" in shown
        assert "10/s" in shown
        assert (await client.post("/queue/limit", data={"queue": "mail"})).status_code == 403
        assert (await client.put("/api/v1/queues/mail/limits", json={})).status_code == 403
        [queue] = await pq.aqueues()
        assert queue.concurrency_limit == 7

    with_tasks(database, body, Role.VIEWER)


def test_limits_of_a_queue_by_the_api(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        path = "/api/v1/queues/a%2Fb/limits"
        set_ = await client.put(path, json={"concurrency": 4, "rate": "1/30s"})
        assert (set_.status_code, set_.json()) == (200, {"name": "a/b", "changed": True})
        [queue] = (await client.get("/api/v1/queues")).json()["items"]
        assert (queue["concurrency_limit"], queue["rate_limit"], queue["rate_period"]) == (4, 1, 30)
        assert (await client.put(path, json={"concurrency": 4, "rate": "1/30s"})).json()["changed"] is False
        foreign = await client.put(path, json={}, headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403
        assert (await client.put(path, json={})).json()["changed"] is True
        [queue] = (await client.get("/api/v1/queues")).json()["items"]
        assert (queue["concurrency_limit"], queue["rate_limit"]) == (None, None)

    with_tasks(database, body)


def test_what_waits_under_limits_of_its_own_is_found_by_queue_key_and_function(
    database: str, connection: psycopg.Connection
) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        keyed = [
            int(await pq.aenqueue(mail.options(concurrency_key="tenant 42", concurrency_limit=3, queue=queue).call(i)))
            for i, queue in enumerate(["mail", "mail", "bulk"])
        ]
        other = int(await pq.aenqueue(mail.options(concurrency_key="tenant 43").call(1)))
        limited = [int(await pq.aenqueue(fetch.call(i))) for i in range(4)]
        await pq.aenqueue(mail.call(9))
        connection.execute(
            "UPDATE pq_tasks SET status = 'running', worker_id = 1, started_at = now() WHERE id = ANY (%s)",
            ([keyed[0], limited[0]],),
        )
        connection.execute("INSERT INTO pq_limits VALUES ('key:tenant 42', NULL, now() + interval '1 hour')")

        assert sorted(await all_ids(client, "state=held")) == sorted([*keyed[1:], other, *limited[1:]])
        assert await all_ids(client, "state=held&key=tenant+42&queue=bulk") == [keyed[2]]
        assert sorted(await all_ids(client, "key=tenant+42")) == keyed
        shown = (await client.get("/limits")).text
        assert row(shown, "tenant 42", "3 at once with this key", ">mail<", "paused")
        assert row(shown, "tenant 43", "1 at once with this key", ">default<")
        assert row(shown, "shop.fetch", "2 at once of this function, 1.5 per s of this function")
        assert "is paused until" in shown
        one = (await client.get("/limits?key=tenant 42")).text
        assert "tenant 43" not in one
        assert all(f"/tasks/{task_id}" in one for task_id in keyed)
        assert "tenant 43" not in (await client.get("/queue?name=mail")).text
        function = (await client.get("/function?name=shop.fetch")).text
        assert "<dt>At once</dt><dd>2</dd>" in function
        assert "<dt>Starts</dt><dd>90/m</dd>" in function
        assert "<dt>Memory limit</dt><dd>64 MiB</dd>" in function
        assert row(function, "shop.fetch", 'data-label="Running" class="n">1<', 'strong">3<')
        assert "tenant" not in function
        task = (await client.get(f"/tasks/{keyed[1]}")).text
        assert "waits for a place under its limits" in task
        assert "paused until" in task
        assert "3 at once with this key" in task

        counted = await client.post(
            "/api/v1/tasks/bulk/cancel", json={"filter": {"name": "shop.fetch"}, "dry_run": True}
        )
        assert counted.json()["count"] == 4
        confirm = (await client.get("/tasks/bulk?action=cancel&state=held&key=tenant+42")).text
        assert 'id="count">2<' in confirm

    with_tasks(database, body)


def test_pages_of_held_tasks_follow_each_other(
    database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pq_adapters.dashboard import finding

    monkeypatch.setattr(finding.find, "__kwdefaults__", {**finding.find.__kwdefaults__, "limit": 3})  # type: ignore[attr-defined]

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for i in range(20):
            options = mail.options(concurrency_key=f"k{i % 3}", queue=f"q{i % 2}", priority=i % 4, run_in=timedelta(0))
            await pq.aenqueue(options.call(i))
        found = await all_ids(client, "state=held")
        assert (len(found), len(set(found))) == (20, 20)

    with_tasks(database, body)


def test_function_that_nobody_declared_has_no_limits(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        answer = await client.get("/function?name=no.such")
        assert answer.status_code == 200
        assert ">Limits<" not in answer.text

    using(database, body)
