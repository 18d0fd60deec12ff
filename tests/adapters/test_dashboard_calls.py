"""Calls of a URL made by the dashboard's form: once, on a schedule, changed, refused."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from pq_adapters.dashboard import Principal, Role, create_app
from pq_core import PQ

URL = "https://api.example.com/orders?x=1"
FIELDS = {
    "url": URL, "method": "PUT", "headers": "X-Region: eu\nAuthorization: Bearer ${token}\n", "body": '{"order": 7}',
    "secret": "shop", "wait": "12.5", "redirects": "2", "rhythm": "now", "run_in": "0",
}  # fmt: skip
KWARGS = {
    "method": "PUT", "headers": {"X-Region": "eu", "Authorization": "Bearer ${token}"}, "json": {"order": 7},
    "secret": "shop", "timeout": 12.5, "redirects": 2,
}  # fmt: skip
Body = Callable[[httpx.AsyncClient, PQ], Awaitable[None]]


def with_webhook(dsn: str, body: Body, *, role: Role = Role.OPERATOR, tasks: tuple[str, ...] | None = None) -> None:
    """Run a body with a client of a dashboard whose application has the task."""

    async def whole() -> None:
        async with PQ(dsn, tasks=["pq_adapters.webhook"] if tasks is None else tasks) as pq:
            app = create_app(pq, auth=lambda request: Principal(name="ada", role=role))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await body(client, pq)

    asyncio.run(whole())


def fields(page: str) -> dict[str, str]:
    """Return what a page's form would send, as far as these tests need it."""
    found = dict(re.findall(r'<input[^>]* name="(\w+)"[^>]*? value="([^"]*)"', page))
    found |= dict(re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>([^<]*)</textarea>', page))
    for name, options in re.findall(r'<select[^>]* name="(\w+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r"<option(?: value=\"([^\"]*)\")? selected>([^<]*)", options)
        found[name] = (chosen[1] or chosen[2]) if chosen else ""
    kind = re.search(r'name="rhythm" value="(\w+)" checked', page)
    return {**{name: html.unescape(value) for name, value in found.items()}, "rhythm": kind[1] if kind else ""}


def test_url_is_called_once(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        answer = await client.post("/calls", data={**FIELDS, "queue": "hooks", "max_attempts": "3"})

        assert answer.status_code == 303
        [task] = await pq.alist_tasks()
        assert answer.headers["location"].startswith(f"/tasks/{task.id}?")
        assert (task.name, task.queue, task.max_attempts) == ("pq.webhook", "hooks", 3)
        assert task.payload == {"args": [URL], "kwargs": KWARGS}
        [entry] = await pq.aaudit_log()
        assert (entry.action, entry.details["url"]) == ("task.enqueue", "https://api.example.com/orders")
        await client.post("/calls", data={"url": URL, "rhythm": "now", "run_in": "3600"})
        later = (await pq.alist_tasks())[0]
        assert (later.run_at - later.created_at).total_seconds() == pytest.approx(3600, abs=60)
        assert later.payload == {"args": [URL], "kwargs": {"method": "POST"}}

    with_webhook(database, body)


def test_scheduled_call_is_changed_in_the_same_form(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        form = {**FIELDS, "rhythm": "cron", "cron": "0 6 * * *", "timezone": "Europe/Berlin"}
        made = await client.post("/calls", data=form)
        assert made.status_code == 303
        [schedule] = await pq.alist_schedules()
        assert (schedule.name, schedule.key, schedule.cron) == ("pq.webhook", "api.example.com/orders", "0 6 * * *")
        assert schedule.payload == {"args": [URL], "kwargs": KWARGS}

        shown = fields((await client.get(f"/schedules/{schedule.id}/edit")).text)
        assert shown["url"] == URL
        assert shown["headers"] == FIELDS["headers"].strip()
        assert (shown["method"], shown["wait"], shown["rhythm"], shown["cron"]) == ("PUT", "12.5", "cron", "0 6 * * *")
        saved = await client.post("/calls", data={**shown, "method": "GET", "body": "", "cron": "30 6 * * *"})
        assert saved.status_code == 303
        [changed] = await pq.alist_schedules()
        assert (changed.id, changed.cron, changed.timezone) == (schedule.id, "30 6 * * *", "Europe/Berlin")
        rest = {name: value for name, value in KWARGS.items() if name != "json"}
        assert changed.payload == {"args": [URL], "kwargs": {**rest, "method": "GET"}}

        again = await client.post("/calls", data=form)
        assert again.status_code == 422
        assert "already" in again.text
        assert (await client.post("/calls", data={**form, "key": "second"})).status_code == 303
        assert len(await pq.alist_schedules()) == 2

    with_webhook(database, body)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": ""}, "which URL"),
        ({"url": "ftp://api.example.com/"}, "begins with https://"),
        ({"url": "https://ada:pw@api.example.com/"}, "a user name or password"),
        ({"url": "https:///orders"}, "no host"),
        ({"url": "https://${host}/"}, "part of its host"),
        ({"headers": "Authorization: Bearer abc"}, "stored in plain sight"),
        ({"headers": "no colon here"}, "has no colon"),
        ({"headers": "Host: other"}, "can&#39;t be given"),
        ({"body": "{order: 7}"}, "not JSON"),
        ({"wait": "301"}, "up to 300"),
        ({"redirects": "99"}, "up to 10"),
        ({"redirects": "two"}, "no whole number"),
        ({"priority": "high"}, "no whole number"),
        ({"run_at": "soon"}, "give a time in UTC"),
        ({"rhythm": "cron", "cron": "61 * * * *"}, "can&#39;t be read"),
        ({"rhythm": "cron", "cron": "0 6 * * *", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
    ],
)
def test_call_that_is_wrong_is_refused_and_nothing_is_lost(database: str, wrong: dict[str, str], words: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        answer = await client.post("/calls", data={**FIELDS, **wrong})

        assert answer.status_code == 422
        assert words in answer.text
        shown = fields(answer.text)
        assert shown["secret"] == "shop"
        for name, value in wrong.items():
            if name not in ("priority", "rhythm"):
                assert shown[name] == value
        assert await pq.alist_tasks() == []
        assert await pq.alist_schedules() == []
        assert await pq.aaudit_log() == []

    with_webhook(database, body)


def test_application_without_the_task_is_told_how_to_have_it(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        shown = await client.get("/calls/new")
        assert "pq_adapters.webhook" in shown.text
        assert 'name="url"' not in shown.text
        assert (await client.post("/calls", data=FIELDS)).status_code == 422

    with_webhook(database, body, tasks=())


def test_viewer_calls_nothing(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        assert (await client.get("/calls/new")).status_code == 403
        assert (await client.post("/calls", data=FIELDS)).status_code == 403
        assert "Call a URL" not in (await client.get("/schedules")).text
        assert await pq.alist_tasks() == []

    with_webhook(database, body, role=Role.VIEWER)


def test_schedule_that_was_made_elsewhere_is_shown_in_this_form(database: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        webhook: Any = pq.registry.resolve("pq.webhook")
        made = await pq.aschedule(webhook.call(url=URL, json=[1]), run_every=timedelta(minutes=1), key="named")
        shown = fields((await client.get(f"/schedules/{made}/edit")).text)
        assert (shown["url"], shown["body"], shown["key"], shown["rhythm"]) == (URL, "[\n  1\n]", "named", "every")

    with_webhook(database, body)
