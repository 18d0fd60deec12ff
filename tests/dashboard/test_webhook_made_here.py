"""Webhooks made without code: by the API, and with the form of the dashboard; a real worker calls a real receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pq_adapters.dashboard import create_app
from pq_core import PQ
from tests.adapters.http_server import Server, serving
from tests.dashboard.serving import client, served
from tests.integration.worker_process import eventually, running

MODULES = ["pq_adapters.webhook"]


def create_pq() -> PQ:
    """The application of these tests' workers."""
    return PQ(tasks=MODULES, app="hooks")


@pytest.fixture
def receiver(database: str, tmp_path: Path) -> Iterator[Server]:
    """A receiver, and a worker that may call it."""
    with serving() as receiver:
        environment = {
            "PQ_WEBHOOK_ALLOW": f"localhost:{receiver.port}",
            "PQ_WEBHOOK_NETWORKS": "127.0.0.0/8 ::1/128",
            "PQ_WEBHOOK_SECRET_SHOP": "t0p-secret",
        }
        with running(
            database,
            tmp_path,
            app="tests.dashboard.test_webhook_made_here:create_pq",
            environment=environment,
            poll_interval=0.2,
        ):
            yield receiver


@pytest.fixture
def operator(database: str) -> Iterator[httpx.Client]:
    with PQ(database, tasks=MODULES) as pq:
        key = pq.create_key("ada", role="operator").key
        with served(create_app(pq)) as address, client(address, key) as one:
            yield one


def paths(receiver: Server) -> list[str]:
    return [asked.path for asked in receiver.asked]


def test_api_enqueues_and_schedules_a_webhook(operator: httpx.Client, receiver: Server) -> None:
    once = {"task": "pq.webhook", "args": [receiver.url("/once")], "kwargs": {"json": {"order": 7}, "secret": "shop"}}
    task_id = operator.post("/api/v1/tasks", json=once).raise_for_status().json()["id"]
    again = {"task": "pq.webhook", "args": [receiver.url("/tick")], "kwargs": {"method": "GET"}, "run_every": 1}
    operator.post("/api/v1/schedules", json=again).raise_for_status()

    eventually(lambda: {"/once", "/tick"} <= set(paths(receiver)))

    def found() -> dict[str, object]:
        return operator.get(f"/api/v1/tasks/{task_id}").raise_for_status().json()  # type: ignore[no-any-return]

    eventually(lambda: found()["status"] == "completed")

    [asked] = [asked for asked in receiver.asked if asked.path == "/once"]
    assert (asked.method, json.loads(asked.body)) == ("POST", {"order": 7})
    assert "webhook-signature" in asked.headers
    assert found()["result"]["status"] == 200  # type: ignore[index]
    assert {asked.method for asked in receiver.asked if asked.path == "/tick"} == {"GET"}


def test_form_schedules_a_webhook(operator: httpx.Client, receiver: Server) -> None:
    form = {
        "id": "", "name": "pq.webhook", "key": "form", "rhythm": "every", "every": "1", "unit": "s",
        "args": json.dumps([receiver.url("/form")]), "kwargs": '{"method": "PUT"}', "catch_up": "latest",
    }  # fmt: skip
    assert "pq.webhook" in operator.get("/schedules/new").text
    answer = operator.post("/schedules/save", data=form)

    assert answer.status_code == 303, answer.text
    eventually(lambda: "/form" in paths(receiver))
    assert receiver.asked[0].method == "PUT"
