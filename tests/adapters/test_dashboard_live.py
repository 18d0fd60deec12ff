"""Live pages: how much they ask of the database, who gets what, and what becomes of those who don't listen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from pq_adapters.dashboard import Principal, Role, create_app, live
from pq_adapters.dashboard.live import poller_of
from pq_core import PQ

TASK = '{"name": "t", "queue": "mail"}'


class Window:
    """One open page: an ASGI client that takes what it is sent, or does not."""

    def __init__(self, app: Any, path: str, *, headers: dict[str, str] | None = None, reads: bool = True) -> None:
        self.parts: list[tuple[str, str]] = []
        self.status: int | None = None
        self._gone = asyncio.Event()
        self._reads = asyncio.Event()
        if reads:
            self._reads.set()
        target = urlsplit(path)
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": target.path, "raw_path": target.path.encode(), "root_path": "",
            "query_string": target.query.encode(), "client": ("127.0.0.1", 1), "server": ("localhost", 80),
            "headers": [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in (headers or {}).items())],
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._gone.is_set():
            raise OSError("the browser is gone")
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        await self._reads.wait()
        for event in message.get("body", b"").decode().split("\n\n"):
            kind, _, data = event.partition("\ndata: ")
            if data:
                said = json.loads(data)
                name = kind.removeprefix("event: ")
                self.parts.append((said["name"], said["html"]) if name == "part" else (name, said))

    def read_on(self) -> None:
        self._reads.set()

    async def close(self) -> None:
        self._gone.set()
        self._reads.set()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def windows(app: Any, *paths: str, **options: Any) -> AsyncIterator[list[Window]]:
    opened = [Window(app, path, **options) for path in paths]
    try:
        yield opened
    finally:
        for window in opened:
            await window.close()


async def until(look: Callable[[], bool], *, within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not look():
        assert time.monotonic() < end, "did not come true"
        await asyncio.sleep(0.05)


def run(body: Callable[[PQ], Awaitable[None]], dsn: str) -> None:
    async def whole() -> None:
        async with PQ(dsn) as pq:
            await body(pq)

    asyncio.run(whole())


class CountingPQ(PQ):
    """Counts what it asks of the database: transactions that are opened, and single statements."""

    asked = 0

    @asynccontextmanager
    async def asession(self) -> AsyncIterator[Any]:
        self.asked += 1
        async with super().asession() as connection:
            yield connection

    async def _arun(self, request: Any) -> Any:
        self.asked += 1
        return await super()._arun(request)


def test_fifty_open_pages_ask_once_a_second_and_none_ask_nothing(database: str) -> None:
    async def body() -> None:
        async with CountingPQ(database) as pq:
            app = create_app(pq, require_login=False)
            poller = poller_of(app.state.dashboard)
            tasks = [(await pq._arun(pq.store.enqueue(TASK)))[0] for _ in range(10)]
            topics = ["/live?topic=overview", "/live?topic=queues", "/live?topic=workers"]
            paths = [topics[i % 3] for i in range(40)] + [f"/live?task={task_id}" for task_id in tasks]
            async with windows(app, *paths) as opened:
                await until(lambda: all(window.parts for window in opened[:40]))
                before, began = pq.asked, time.monotonic()
                await asyncio.sleep(8)
                during, took = pq.asked - before, time.monotonic() - began

                assert poller.watching == 50
                assert 2 <= during <= took + 1
            await until(lambda: poller.watching == 0)
            await asyncio.sleep(1.5)
            before = pq.asked
            await asyncio.sleep(3)
            assert pq.asked == before

    asyncio.run(body())


def test_page_gets_what_changes_and_only_that(database: str) -> None:
    async def body(pq: PQ) -> None:
        app = create_app(pq, require_login=False)
        async with windows(app, "/live?topic=queues", "/live?topic=queues") as (first, second):
            await until(lambda: bool(first.parts and second.parts))
            await pq._arun(pq.store.enqueue(TASK))
            await until(lambda: len(first.parts) >= 2 and len(second.parts) >= 2)

            assert "No queues yet" in first.parts[0][1]
            assert "mail" in first.parts[1][1]
            async with windows(app, "/live?topic=queues") as [late]:
                await until(lambda: bool(late.parts))
                assert "mail" in late.parts[0][1]

    run(body, database)


def test_task_that_ended_before_its_page_listened_is_reloaded(database: str) -> None:
    async def body(pq: PQ) -> None:
        app = create_app(pq, require_login=False)
        task_id, _ = await pq._arun(pq.store.enqueue(TASK))
        await pq.acancel(task_id)
        async with windows(app, f"/live?task={task_id}&seen=running.1.0.1") as [window]:
            await until(lambda: bool(window.parts))
            assert window.parts == [("reload", "#task")]

    run(body, database)


def test_viewer_is_not_sent_what_operators_may_do(database: str) -> None:
    def auth(request: Any) -> Principal:
        return Principal(name="somebody", role=Role(request.headers["x-role"]))

    async def body(pq: PQ) -> None:
        app = create_app(pq, auth=auth)
        await pq._arun(pq.store.enqueue(TASK))
        async with windows(app, "/live?topic=queues", headers={"x-role": "viewer"}) as [viewer]:
            async with windows(app, "/live?topic=queues", headers={"x-role": "operator"}) as [operator]:
                await until(lambda: bool(viewer.parts and operator.parts))
                assert "<form" not in viewer.parts[-1][1]
                assert "<form" in operator.parts[-1][1]

    run(body, database)


def test_slow_page_is_let_go_and_the_others_go_on(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WAITING", 2)
    monkeypatch.setattr(live, "TICK", 0.05)

    async def body(pq: PQ) -> None:
        app = create_app(pq, require_login=False)
        poller = poller_of(app.state.dashboard)
        async with windows(app, "/live?topic=queues", reads=False) as [slow]:
            async with windows(app, "/live?topic=queues") as [quick]:
                await until(lambda: poller.watching == 2)
                for count in range(1, 8):
                    await pq._arun(pq.store.enqueue(TASK))
                    await until(lambda count=count: len(quick.parts) > count)  # type: ignore[misc]
                slow.read_on()
                await until(slow.task.done)

                assert not quick.task.done()
                assert len(slow.parts) < len(quick.parts)
                assert poller.watching == 1

    run(body, database)


def test_stream_ends_with_the_key(database: str) -> None:

    async def body(pq: PQ) -> None:
        app = create_app(pq)
        key = await pq.acreate_key("somebody", role="viewer")
        headers = {"authorization": f"Bearer {key.key}"}
        async with windows(app, "/live?topic=queues", headers=headers) as [window]:
            await until(lambda: bool(window.parts))
            await pq.arevoke_key(key.id)
            await until(window.task.done)

    run(body, database)


@pytest.mark.parametrize("query", ["", "?topic=nothing", "?topic=task", "?task=x", "?task=-1"])
def test_stream_of_nothing_is_refused(database: str, query: str) -> None:
    async def body(pq: PQ) -> None:
        async with windows(create_app(pq, require_login=False), f"/live{query}") as [window]:
            await until(window.task.done)
            assert window.status == 422

    run(body, database)
