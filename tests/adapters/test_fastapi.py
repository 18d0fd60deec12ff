"""The FastAPI adapter over HTTP: a real application under uvicorn, on a real database."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI, Request

from pq_adapters.fastapi import DepPQ, get_pq, lifespan, transaction, using
from pq_core import PQ, AsyncBoundPQ, InvalidOption, PQError
from tests.adapters import fastapi_tasks as tasks
from tests.integration.worker_process import PATIENCE, ROOT, cloned, eventually, running, until_empty

APP = f"{tasks.__name__}:create_pq"


@pytest.fixture(scope="module")
def dsn(server: str, template: str) -> Iterator[str]:
    with cloned(server, template) as dsn:
        with psycopg.connect(dsn) as connection:
            # Its violation is found by the commit, not by the statement.
            connection.execute("CREATE TABLE orders (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        yield dsn


@pytest.fixture(scope="module")
def url(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("uvicorn") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "uvicorn", "tests.adapters.fastapi_app:app", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "PQ_DATABASE_URL": dsn, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
        )
    try:
        found = eventually(
            lambda: re.search(r"running on (http://\S+)", log.read_text()) or process.poll() is not None,
            what="uvicorn's start",
        )
        assert isinstance(found, re.Match), log.read_text()
        yield found[1]
        process.terminate()
        process.wait(PATIENCE)
        assert "Application shutdown complete" in log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def http(url: str, dsn: str) -> Iterator[httpx.Client]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pq_tasks, orders CASCADE")
    with httpx.Client(base_url=url, timeout=PATIENCE) as http:
        yield http


@pytest.fixture
def pq(dsn: str) -> Iterator[PQ]:
    with PQ(dsn, tasks=[tasks.__name__]) as pq:
        yield pq


def orders(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM orders ORDER BY id").fetchall()]


def packed(pq: PQ) -> list[int]:
    """The orders that have a task."""
    return sorted(task.payload["args"][0] for task in pq.list_tasks())


@pytest.mark.parametrize("path", ["plain", "async-plain", "own-orders", "mounted/plain", "mounted/async-plain"])
def test_client_comes_with_every_request(http: httpx.Client, pq: PQ, path: str) -> None:
    answer = http.post(f"/{path}/7")

    assert answer.status_code == 202
    assert [task.id for task in pq.list_tasks()] == [answer.json()]


@pytest.mark.parametrize("path", ["orders", "async-orders", "mounted/orders", "mounted/async-orders"])
def test_row_and_task_are_there_when_the_answer_is(http: httpx.Client, dsn: str, pq: PQ, path: str) -> None:
    answer = http.post(f"/{path}/7")

    assert (answer.status_code, orders(dsn), packed(pq)) == (202, [7], [7])


@pytest.mark.parametrize("path", ["orders", "async-orders"])
def test_refused_request_leaves_neither_row_nor_task(http: httpx.Client, dsn: str, pq: PQ, path: str) -> None:
    answer = http.post(f"/{path}/7", params={"refuse": True})

    assert (answer.status_code, orders(dsn), packed(pq)) == (418, [], [])


@pytest.mark.parametrize("path", ["orders", "async-orders"])
def test_failing_commit_is_answered_by_an_error(http: httpx.Client, dsn: str, pq: PQ, path: str) -> None:
    http.post(f"/{path}/7")

    answer = http.post(f"/{path}/7")

    assert (answer.status_code, orders(dsn), packed(pq)) == (500, [7], [7])


def test_without_function_scope_a_failing_commit_is_answered_by_success(http: httpx.Client, dsn: str, pq: PQ) -> None:
    """Why ``transaction`` sets the scope, and the pages tell to: this is what happens otherwise."""
    http.post("/late-orders/7")
    eventually(lambda: orders(dsn))

    answer = http.post("/late-orders/7")

    assert (answer.status_code, orders(dsn), packed(pq)) == (202, [7], [7])


def test_own_lifespan_runs_within_ours_and_keeps_its_state(http: httpx.Client) -> None:
    assert http.get("/shop").json() == "tea"
    assert http.get("/mounted/shop").json() == "tea"


def test_status_of_a_pending_task(http: httpx.Client, pq: PQ) -> None:
    answer = http.get(f"/tasks/{pq.enqueue(tasks.pack.call(7))}")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    shown = answer.json()
    assert (shown["name"], shown["status"], shown["attempts"], shown["result"]) == ("fa.pack", "pending", 0, None)
    assert "payload" not in shown, "arguments stay inside"


def test_status_of_finished_tasks(http: httpx.Client, dsn: str, pq: PQ, tmp_path: Path) -> None:
    done, failed = pq.enqueue(tasks.pack.call(7)), pq.enqueue(tasks.fails.call(), client_id="ann")
    until_empty(dsn, tmp_path, app=APP)

    shown = http.get(f"/tasks/{done}").json()
    assert (shown["status"], shown["outcome"], shown["result"]) == ("completed", "succeeded", "1.75")
    shown = http.get(f"/tasks/{failed}").json()
    assert (shown["status"], shown["outcome"], shown["error"]) == ("failed", "raised", None)
    shown = http.get(f"/mine/{failed}", headers={"user": "ann"}).json()
    assert "ValueError: a secret" in shown["error"]


def test_status_of_a_running_task_has_its_progress(http: httpx.Client, dsn: str, pq: PQ, tmp_path: Path) -> None:
    task_id = pq.enqueue(tasks.works_on.call())
    with running(dsn, tmp_path, app=APP, grace=0.1):
        shown: dict[str, Any] = eventually(
            lambda: (found := http.get(f"/tasks/{task_id}").json()) and found["progress"] and found
        )
        pq.cancel(task_id)

    assert (shown["status"], shown["progress"], shown["progress_message"]) == ("running", 0.5, "half of it")


def test_unknown_task_is_not_found(http: httpx.Client) -> None:
    assert http.get("/tasks/4711").status_code == 404
    assert http.get(f"/tasks/{2**63}").status_code == 422
    assert http.get("/tasks/0").status_code == 422


def test_task_of_somebody_else_is_not_found(http: httpx.Client, pq: PQ) -> None:
    task_id = pq.enqueue(tasks.pack.call(7), client_id="ann")

    assert http.get(f"/mine/{task_id}", headers={"user": "ann"}).status_code == 200
    assert http.get(f"/mine/{task_id}", headers={"user": "bob"}).status_code == 404


def test_lifespan_closes_the_connections_of_the_client(database: str, connection: psycopg.Connection) -> None:
    pq = PQ(database, app="web")

    async def serve() -> int:
        async with lifespan(pq)(FastAPI()) as state:
            assert state == {"pq": pq}
            pq.stats()
            await pq.astats()
            return connections()

    def connections() -> int:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pq web' AND datname = current_database()"
        ).fetchone()
        return int(row[0]) if row else -1

    assert asyncio.run(serve()) == 2
    eventually(lambda: connections() == 0)


def test_override_reaches_both_dependencies(database: str) -> None:
    app = FastAPI()
    with PQ(database, tasks=[tasks.__name__]) as pq:

        async def order(client: DepPQ, bound: AsyncBoundPQ) -> list[int]:
            return [await client.aenqueue(tasks.pack.call(1)), await bound.aenqueue(tasks.pack.call(2))]

        order.__annotations__["bound"] = Annotated[AsyncBoundPQ, using(transaction(pq.asession))]
        app.post("/")(order)
        app.dependency_overrides[get_pq] = lambda: pq

        async def request() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
                answer = await http.post("/")
            await pq.aclose()
            return answer

        assert asyncio.run(request()).json() == sorted(task.id for task in pq.list_tasks())


def test_missing_lifespan_is_named() -> None:
    request = Request({"type": "http", "state": {}})

    with pytest.raises(PQError, match="FastAPI\\(lifespan="):
        asyncio.run(get_pq(request))


def test_using_needs_a_dependency() -> None:
    with pytest.raises(InvalidOption, match="Depends"):
        using(Annotated[int, "no dependency"])


def test_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['fastapi'] = None\nimport pq_adapters.fastapi"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert 'pip install "pq-toolkit[fastapi]"' in done.stderr.splitlines()[-1]
