"""The pages as a program sees them: what is found, hidden, changed; the browser's tests see the rest."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest

from pq_adapters.dashboard import Principal, Role, create_app, finding, reading
from pq_adapters.dashboard.figures import figures_of
from pq_core import PQ

FILL = """
INSERT INTO pq_tasks (name, queue, priority, payload, status, outcome, created_at, run_at, started_at, completed_at,
    due, worker_id, schedule_id, tick_at, client_id, client_id_unique, error, error_fingerprint, attempts, fence)
SELECT 'job.' || n % 3, 'q' || n % 4, (ARRAY[0, 50, 100])[1 + n % 3], '{"args": [], "kwargs": {}}', k.status,
    CASE k.status WHEN 'completed' THEN 'succeeded' WHEN 'failed' THEN 'raised' WHEN 'cancelled' THEN 'cancelled' END,
    now() - n * interval '1 second',
    now() + CASE WHEN k.kind = 'scheduled' THEN interval '1 hour' * (1 + n % 5) ELSE interval '0' END,
    CASE WHEN k.status <> 'pending' THEN now() - interval '1 minute' * (n % 7) END,
    CASE WHEN k.status NOT IN ('pending', 'running') THEN now() - interval '1 minute' * (n % 7) END,
    k.kind <> 'scheduled', CASE WHEN k.status <> 'pending' THEN 1 + n % 2 END, CASE WHEN n % 2 = 0 THEN 1 END,
    CASE WHEN n % 2 = 0 THEN now() - n * interval '1 minute' - o.i * interval '1 second' END,
    'c' || n || k.kind, 'unfinished', CASE k.status WHEN 'failed' THEN 'ValueError: no ' || n % 2 END,
    CASE k.status WHEN 'failed' THEN 'f' || n % 2 END, 1, 1
FROM generate_series(1, 12) n CROSS JOIN (VALUES (1, 'pending', 'waiting'), (2, 'pending', 'scheduled'),
    (3, 'running', 'running'), (4, 'completed', 'completed'), (5, 'failed', 'failed'), (6, 'cancelled', 'cancelled')
) k(i, status, kind) CROSS JOIN LATERAL (SELECT k.i) o(i)
"""
SECRET = "hunter2"
SENSITIVE = f"""
INSERT INTO pq_tasks (name, payload, status, outcome, run_at, started_at, completed_at, due, attempts, fence, options,
    error, error_fingerprint, result, output)
VALUES ('job.secret', '{{"args": ["{SECRET}"], "kwargs": {{}}}}', 'failed', 'raised', now(), now(), now(), true, 1, 1,
    '{{"sensitive": true}}', E'Traceback (most recent call last):\\n  File "a.py", line 1, in f\\nValueError: {SECRET}',
    'f', '"{SECRET}"', 'printed {SECRET}');
INSERT INTO pq_attempts (task_id, fence, number, outcome, error, output)
SELECT id, 1, 1, 'raised', error, output FROM pq_tasks
"""


def using(dsn: str, body: Callable[[httpx.AsyncClient, PQ], Awaitable[None]], **options: Any) -> None:
    """Run a body with a client of the dashboard."""

    async def whole() -> None:
        async with PQ(dsn) as pq:
            app = create_app(pq, **{"require_login": False, **options})
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await body(client, pq)
            figures_of(app.state.dashboard).forget()

    asyncio.run(whole())


async def all_ids(client: httpx.AsyncClient, query: str) -> list[int]:
    """Return the ids of all pages of a filter, in order."""
    found: list[int] = []
    link: str | None = f"?{query}"
    for _ in range(200):
        answer = await client.get(f"/tasks{link}")
        assert answer.status_code == 200
        found += [int(number) for number in re.findall(r'name="ids" value="(\d+)"', answer.text)]
        following = re.search(r'rel="next" href="([^"]+)"', answer.text)
        if following is None:
            return found
        link = html.unescape(following[1])
    raise AssertionError("the pages have no end")


CASES = {
    "": "true",
    "state=waiting": "status = 'pending' AND due",
    "state=waiting&queue=q1": "status = 'pending' AND due AND queue = 'q1'",
    "state=waiting&name=job.1": "status = 'pending' AND due AND name = 'job.1'",
    "state=scheduled": "status = 'pending' AND NOT due",
    "state=running": "status = 'running'",
    "state=completed": "status = 'completed'",
    "state=failed&name=job.2": "status = 'failed' AND name = 'job.2'",
    "state=failed&fingerprint=f1": "status = 'failed' AND error_fingerprint = 'f1'",
    "state=cancelled&queue=q0": "status = 'cancelled' AND queue = 'q0'",
    "error=NO+1": "error LIKE '%no 1%'",
    "priority=100": "priority = 100",
    "worker=2": "worker_id = 2",
    "worker=2&state=completed": "worker_id = 2 AND status = 'completed'",
    "worker=2&state=failed&name=job.1": "worker_id = 2 AND status = 'failed' AND name = 'job.1'",
    "worker=2&state=waiting": "false",
    "worker=2&queue=q1&within=15m": "worker_id = 2 AND queue = 'q1'",
    "worker=2&schedule=1": "worker_id = 2 AND schedule_id = 1",
    "schedule=1": "schedule_id = 1",
    "schedule=1&state=failed": "schedule_id = 1 AND status = 'failed'",
    "client_id=c3failed": "client_id = 'c3failed'",
    "name=job.0&queue=q3": "name = 'job.0' AND queue = 'q3'",
    "within=15m&state=failed": "status = 'failed'",
    "within=15m": "true",
    "until=2001-01-01T00%3A00": "false",
}


@pytest.mark.parametrize(("page", "budget"), [(5, 10_000), (5, 7)], ids=["pages", "budget ends before pages"])
def test_every_filter_finds_each_task_once(
    database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, page: int, budget: int
) -> None:
    connection.execute(FILL)
    monkeypatch.setattr(finding, "BUDGET", budget)
    monkeypatch.setattr(finding, "BUDGETS", {})
    monkeypatch.setattr(finding.find, "__kwdefaults__", {**finding.find.__kwdefaults__, "limit": page})  # type: ignore[attr-defined]

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for query, where in CASES.items():
            wanted = sorted(row[0] for row in connection.execute(f"SELECT id FROM pq_tasks WHERE {where}"))  # type: ignore[call-overload]
            found = await all_ids(client, query)
            assert sorted(found) == wanted, query

    using(database, body)


@pytest.mark.parametrize("budget", [10_000, 7])
def test_worker_leads_to_what_it_runs_what_it_ended_and_what_it_tried_before(
    database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    connection.execute(FILL)
    # Of each failed and each running task three attempts before, the first by worker 7, the others by 8 or 9.
    connection.execute(
        "INSERT INTO pq_attempts (task_id, fence, number, worker_id, outcome)"
        " SELECT t.id, f - 3, f, CASE f WHEN 1 THEN 7 ELSE 8 + t.id / 6 % 2 END, 'raised'"
        " FROM pq_tasks t, generate_series(1, 3) f WHERE t.status IN ('failed', 'running')"
    )
    monkeypatch.setattr(finding, "BUDGET", budget)
    monkeypatch.setattr(finding, "BUDGETS", {})
    monkeypatch.setattr(finding.find, "__kwdefaults__", {**finding.find.__kwdefaults__, "limit": 5})  # type: ignore[attr-defined]
    its = "SET worker_id = 8 WHERE status IN ('running', 'completed', 'cancelled') AND id / 6 % 2 = 0"
    connection.execute(f"UPDATE pq_tasks {its}")  # type: ignore[call-overload]
    cases = {
        "worker=7": "status IN ('failed', 'running')",
        "worker=7&state=failed": "status = 'failed'",
        "worker=7&state=failed&name=job.1": "status = 'failed' AND name = 'job.1'",
        "worker=8": "id / 6 % 2 = 0 AND status IN ('failed', 'running', 'completed', 'cancelled')",
        "worker=8&state=completed": "id / 6 % 2 = 0 AND status = 'completed'",
        "worker=8&state=completed&queue=q1": "id / 6 % 2 = 0 AND status = 'completed' AND queue = 'q1'",
        "worker=8&state=failed": "id / 6 % 2 = 0 AND status = 'failed'",
        "worker=8&state=running": "id / 6 % 2 = 0 AND status = 'running'",
        "worker=8&within=1h": "id / 6 % 2 = 0 AND status IN ('failed', 'running', 'completed', 'cancelled')",
        "worker=8&client_id=c3failed": "client_id = 'c3failed' AND id / 6 % 2 = 0",
        "worker=99": "false",
    }

    assert connection.execute("SELECT count(*) FROM pq_tasks WHERE worker_id = 8").fetchone() == (18,)
    order = (
        "SELECT id FROM pq_tasks WHERE worker_id = 8 ORDER BY status <> 'running',"
        " CASE status WHEN 'running' THEN started_at ELSE completed_at END DESC, id DESC"
    )
    by_end = [row[0] for row in connection.execute(order)]

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for query, where in cases.items():
            wanted = sorted(row[0] for row in connection.execute(f"SELECT id FROM pq_tasks WHERE {where}"))  # type: ignore[call-overload]
            assert sorted(await all_ids(client, query)) == wanted, query
        assert (await all_ids(client, "worker=8"))[: len(by_end)] == by_end, "what runs, then what ended last"
        for place in ("[3, 1]", "[-1, 1]", "[1]", "[]", "[0, 1]", '["a", 1]', "{}", "[[], 1]"):
            assert (await client.get("/tasks", params={"worker": 8, "after": place})).status_code == 422, place

    using(database, body)


@pytest.mark.parametrize("worker", [1, 7, 99], ids=["busy", "rare", "unknown"])
def test_what_a_worker_ended_is_found_within_the_index(
    database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, worker: int
) -> None:
    connection.execute("SET synchronous_commit = on")  # else a vacuum right after it can't say that all see the rows
    connection.execute(
        "INSERT INTO pq_tasks (name, payload, status, outcome, output, run_at, completed_at, due, worker_id)"
        """ SELECT 'job', '{"args": [], "kwargs": {}}', (ARRAY['completed', 'failed', 'cancelled'])[1 + n % 3],"""
        " 'x', repeat('x', 600),"
        " now(), now() - n * interval '1 second', true, CASE WHEN n % 5000 = 0 THEN 7 ELSE 1 + n % 3 END"
        " FROM generate_series(1, 20000) n"
    )
    connection.execute("VACUUM ANALYZE pq_tasks")
    sent: list[tuple[str, str]] = []
    question = reading.question

    def note(schema: str, name: str, *given: Any, **words: Any) -> Any:
        request = question(schema, name, *given, **words)
        if "pq_tasks" in words.get("window", "") and "pq_attempts" not in words["window"]:
            sent.append((request.statement.before + "%s" + request.statement.after, request.parameters))
        return request

    monkeypatch.setattr(reading, "question", note)

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for query in ("", "&state=completed", "&queue=nowhere", "&state=failed&name=nothing"):
            assert (await client.get(f"/tasks?worker={worker}{query}")).status_code == 200

    using(database, body)
    assert len(sent) > 8
    for text, given in sent:
        [[[plan]]] = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}".encode(), [given]).fetchall()
        for node in nodes(plan["Plan"]):
            assert node["Node Type"] != "Seq Scan", text
            assert node.get("Rows Removed by Filter", 0) <= finding.CAP + 1, text
            if node["Node Type"] == "Sort" and f"LIMIT {finding.PAGE + 1}) t WHERE true" in text:
                assert node["Actual Rows"] <= finding.PAGE, text


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all nodes of a plan."""
    return [plan, *(node for below in plan.get("Plans", ()) for node in nodes(below))]


def test_waiting_tasks_come_in_the_order_in_which_they_are_claimed(
    database: str, connection: psycopg.Connection
) -> None:
    connection.execute(FILL)
    order = "SELECT id FROM pq_tasks WHERE status = 'pending' AND due ORDER BY priority DESC, run_at, id"
    wanted = [row[0] for row in connection.execute(order)]

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        assert await all_ids(client, "state=waiting") == wanted

    using(database, body)


@pytest.mark.parametrize(
    "query",
    [
        "state=asleep",
        "priority=high",
        "worker=x",
        "within=ever",
        "until=soon",
        "after=x",
        "after=%5B1%2C2%5D",
        'after=["x"]',
        "state=failed&after=[1,2]",
        'state=failed&after=["soon",1]',
        "name=a%00b",
    ],
)
def test_filter_that_can_not_be_is_told(database: str, query: str) -> None:
    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        answer = await client.get(f"/tasks?{query}")
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text

    using(database, body)


def test_what_is_sensitive_is_nowhere(database: str, connection: psycopg.Connection) -> None:
    connection.execute(SENSITIVE)
    row = connection.execute("SELECT id FROM pq_tasks").fetchone()
    assert row is not None

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for path in (
            f"/tasks/{row[0]}",
            "/tasks",
            "/tasks?state=failed",
            "/failures",
            "/",
            "/function?name=job.secret",
        ):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "job.secret" in answer.text, path
            assert SECRET not in answer.text, path
        assert "is hidden" in (await client.get(f"/tasks/{row[0]}")).text
        assert await all_ids(client, f"error={SECRET}") == []

    using(database, body)


def test_what_tasks_are_called_is_text_and_nothing_else(database: str, connection: psycopg.Connection) -> None:
    evil = "<script>alert(1)</script>\"'&"
    connection.execute(
        "INSERT INTO pq_tasks (name, queue, payload, status, run_at, started_at, completed_at, due, error, outcome,"
        " output, client_id, headers, result)"
        " VALUES (%(e)s, %(e)s, jsonb_build_object('args', jsonb_build_array(%(e)s::text)),"
        " 'failed', now(), now(), now(), true, %(e)s, 'raised', %(e)s, %(e)s,"
        " jsonb_build_object(%(e)s::text, %(e)s::text), to_jsonb(%(e)s::text))",
        {"e": evil},
    )

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for path in ("/tasks", "/tasks/1", "/failures", "/", "/queues", "/tasks?state=failed"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "<script>alert" not in answer.text, path
        answer = await client.get("/function", params={"name": evil})
        assert "<script>alert" not in answer.text

    using(database, body)


def test_bulk_changes_what_was_counted_and_not_what_came_after(database: str, connection: psycopg.Connection) -> None:
    connection.execute(FILL)

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        shown = (await client.get("/tasks/bulk?action=retry&state=failed&name=job.1")).text
        asked_at = html.unescape(re.search(r'name="asked_at" value="([^"]+)"', shown)[1])  # type: ignore[index]
        assert re.search(r'id="count">4<', shown)
        connection.execute(
            "INSERT INTO pq_tasks (name, payload, status, run_at, completed_at, due)"
            " VALUES ('job.1', '{}', 'failed', now(), clock_timestamp(), true)"
        )

        form = {"action": "retry", "state": "failed", "name": "job.1", "asked_at": asked_at}
        answer = await client.post("/tasks/bulk", data=form)

        assert answer.status_code == 303
        assert "done=bulk-retried&n=4" in answer.headers["location"]
        assert len(await all_ids(client, "state=failed&name=job.1")) == 1
        [entry] = await pq.aaudit_log()
        assert (entry.action, entry.details["count"]) == ("tasks.retry", 4)

    using(database, body)


def test_bulk_by_ids_takes_these_alone(database: str, connection: psycopg.Connection) -> None:
    connection.execute(FILL)

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        ids = (await all_ids(client, "state=completed"))[:2]
        form = {"action": "delete", "ids": [str(one) for one in ids], "asked_at": "2030-01-01T00:00:00+00:00"}
        answer = await client.post("/tasks/bulk", data=form)

        assert "n=2" in answer.headers["location"]
        assert len(await all_ids(client, "state=completed")) == 10

    using(database, body)


def test_operator_deletes_nothing(database: str, connection: psycopg.Connection) -> None:
    connection.execute(FILL)

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        assert (await client.get("/tasks/bulk?action=delete&state=completed")).status_code == 403
        form = {"action": "delete", "state": "completed", "asked_at": "2030-01-01T00:00:00+00:00"}
        assert (await client.post("/tasks/bulk", data=form)).status_code == 403
        assert len(await all_ids(client, "state=completed")) == 12

    using(database, body, auth=lambda request: Principal(name="o", role=Role.OPERATOR))


def test_pages_keep_their_place_when_mounted(database: str, connection: psycopg.Connection) -> None:
    connection.execute(FILL)

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        from starlette.applications import Starlette
        from starlette.routing import Mount

        outer = Starlette(routes=[Mount("/ops/tasks", app=create_app(pq, require_login=False))])
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as mounted:
            for path in ("/", "/tasks", "/schedules/new", "/queues"):
                answer = await mounted.get(f"/ops/tasks{path}")
                assert answer.status_code == 200
                links = re.findall(r'(?:href|src|action|data-stream|hx-get)="(/[^"]*)"', answer.text)
                assert links
                assert [link for link in links if not link.startswith("/ops/tasks/")] == []

    using(database, body)


@pytest.mark.parametrize("payload", ['"text"', "[1, 2]", '{"sealed": "abc"}', '{"args": "x", "kwargs": []}', "null"])
def test_payload_of_another_kind_is_shown_as_it_is(database: str, connection: psycopg.Connection, payload: str) -> None:
    connection.execute(
        "INSERT INTO pq_tasks (name, payload, run_at, due) VALUES ('job.other', %s::jsonb, now(), true)", (payload,)
    )

    async def body(client: httpx.AsyncClient, pq: PQ) -> None:
        for path in ("/tasks", "/tasks/1"):
            answer = await client.get(path)
            assert answer.status_code == 200, path

    using(database, body)
