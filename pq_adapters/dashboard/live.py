"""Live pages: one poller per dashboard, which asks the database once a second while somebody looks, and tells all.

Whoever looks on names parts of pages; what the parts need decides which statement comes next, one per second in all,
however many look on. A part is rendered once for all who may see the same, and sent to those who have not got it yet.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.requests import Request

from pq_adapters.dashboard.figures import figures_of
from pq_adapters.dashboard.pages.overview import charts, tiles
from pq_adapters.dashboard.pages.queues import context as queues_context
from pq_adapters.dashboard.pages.workers import context as workers_context
from pq_adapters.dashboard.reading import ask, run
from pq_core import operating
from pq_core.errors import PQError

if TYPE_CHECKING:
    from pq_adapters.dashboard.app import Dashboard
    from pq_adapters.dashboard.roles import Principal

logger = logging.getLogger("pq.dashboard")

TICK = 1.05
"""Seconds between two statements."""
WAITING = 32
"""Messages that wait for a slow client; with one more it is let go, and its browser comes back by itself."""
QUIET = 15.0
"""Seconds after which something is sent although nothing has changed: a connection that is dead is found then."""
CLIENTS = 1000
"""Pages that one process serves live; more are told to come back later."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "overview": ("live", "queues", "hour"),
    "queues": ("queues",),
    "workers": ("live",),
    "task": ("live",),
}
"""Which statements a topic needs."""


@dataclass(slots=True, eq=False)
class Client:
    """One page that somebody has open. ``sent``: what it has got, by part."""

    request: Request
    topic: str
    task: int | None
    messages: asyncio.Queue[tuple[str, str] | None] = field(default_factory=lambda: asyncio.Queue(WAITING))
    sent: dict[str, str] = field(default_factory=dict)
    gone: bool = False

    @property
    def principal(self) -> Principal:
        """Whoever looks."""
        principal: Principal = self.request.state.principal
        return principal

    @property
    def sees(self) -> tuple[str, str, str]:
        """What its parts depend on besides the data: where the dashboard is mounted, what the viewer may do, which page
        of a list it shows."""
        view = urlencode([(name, self.request.query_params.get(name, "")) for name in ("search", "after")])
        return str(self.request.scope.get("root_path", "")), str(self.principal.role), view

    def offer(self, kind: str, data: str) -> None:
        """Put a message in, or let the client go when it takes none."""
        try:
            self.messages.put_nowait((kind, data))
        except asyncio.QueueFull:
            self.leave()

    def leave(self) -> None:
        """End its stream, after what has been put in."""
        self.gone = True
        if not self.messages.full():
            self.messages.put_nowait(None)


def state_of(task: Mapping[str, Any]) -> str:
    """Return what makes a task's page another one when it changes."""
    return f"{task['status']}.{task['fence']}.{task['cancel_requested_at'] is not None:d}.{task['due']:d}"


class Poller:
    """Asks for all who look on; there is no task and no statement while nobody does."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._clients: set[Client] = set()
        self._running: asyncio.Task[None] | None = None
        self._facts: dict[str, Any] = {}
        self._recent: deque[str] = deque(maxlen=len(NEEDS))
        self.statements = 0

    @property
    def watching(self) -> int:
        """How many pages look on."""
        return len(self._clients)

    async def stream(self, request: Request, topic: str, task: int | None, seen: str | None) -> AsyncIterator[str]:
        """Yield the events of one page until it goes. ``seen``: the state of the task that the page shows."""
        client = Client(request=request, topic=topic, task=task)
        if seen is not None:
            client.sent["!task"] = seen
        self._clients.add(client)
        try:
            yield "retry: 2000\n\n"
            if self._running is None or self._running.done():
                self._running = asyncio.create_task(self._run(), name="pq dashboard poller")
            elif all(need in self._facts for need in NEEDS[topic]) and task is None:
                await self._tell([client])
            while not client.gone or not client.messages.empty():
                try:
                    message = await asyncio.wait_for(client.messages.get(), QUIET)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if message is None:
                    break
                kind, data = message
                yield f"event: {kind}\ndata: {data}\n\n"
        finally:
            self._clients.discard(client)

    async def _run(self) -> None:
        try:
            while self._clients:
                began = monotonic()
                try:
                    await self._tick()
                except PQError as error:
                    # The database is away for a moment; pages keep what they show.
                    logger.warning("live pages: %s", error)
                except Exception:
                    logger.exception("live pages: the poller goes on")
                await asyncio.sleep(max(TICK - (monotonic() - began), 0.05))
        finally:
            # The next one who comes must not get what was true long ago.
            self._facts.clear()

    async def _tick(self) -> None:
        for client in list(self._clients):
            if not await self._dashboard.access.still(client.principal):
                client.leave()
        need = self._next()
        if need is None:
            return
        self.statements += 1
        self._facts[need] = await self._ask(need)
        await self._tell(self._clients)

    def _next(self) -> str | None:
        """Return the statement that is needed and was longest ago."""
        needed = {need for client in self._clients for need in NEEDS[client.topic]}
        if not needed:
            return None
        chosen = min(needed, key=lambda need: (self._recent.index(need) if need in self._recent else -1, need))
        if chosen in self._recent:
            self._recent.remove(chosen)
        self._recent.append(chosen)
        return chosen

    async def _ask(self, need: str) -> Any:
        pq = self._dashboard.pq
        match need:
            case "queues":
                return await run(pq, operating.queues(pq.schema))
            case "hour":
                return await figures_of(self._dashboard).series("1h")
            case _:
                tasks = sorted({client.task for client in self._clients if client.task is not None})
                [found] = await ask(pq, "live", {"tasks": tasks})
                return found

    async def _tell(self, clients: Iterable[Client]) -> None:
        """Send each client what it has not got."""
        rendered: dict[tuple[tuple[str, str, str], str, int | None], dict[str, str]] = {}
        for client in list(clients):
            if any(need not in self._facts for need in NEEDS[client.topic]):
                continue
            key = (client.sees, client.topic, client.task)
            if key not in rendered:
                rendered[key] = await self._parts(client)
            for name, html in rendered[key].items():
                if client.sent.get(name) == html:
                    continue
                first = name not in client.sent
                client.sent[name] = html
                if not name.startswith("!"):
                    client.offer("part", json.dumps({"name": name, "html": html}))
                elif not first:
                    client.offer("reload", json.dumps(f"#{name[1:]}"))

    async def _parts(self, client: Client) -> dict[str, str]:
        """Return the HTML of a topic's parts by name. A name with ``!`` is a state whose change reloads the page."""
        facts, request = self._facts, client.request
        render = self._dashboard.render
        match client.topic:
            case "overview":
                shown = tiles(facts["hour"], facts["queues"], facts["live"])
                return {
                    "tiles": await render(request, "overview_tiles.html", **shown),
                    "charts": await render(request, "overview_charts.html", **charts(facts["hour"])),
                }
            case "queues":
                rates = figures_of(self._dashboard).grouped_before("queue", "1h")
                shown = queues_context(request, facts["queues"], rates)
                return {"queues": await render(request, "queues_live.html", **shown)}
            case "workers":
                shown = workers_context(facts["live"])
                return {"workers": await render(request, "workers_live.html", **shown)}
            case _:
                task = next((one for one in facts["live"]["tasks"] if one["id"] == client.task), None)
                if task is None:
                    return {"!task": "gone"}
                parts = {"!task": state_of(task)}
                if task["status"] == "running":
                    parts[f"task-{client.task}"] = await render(request, "task_live.html", task=task)
                return parts


_known: weakref.WeakKeyDictionary[Dashboard, Poller] = weakref.WeakKeyDictionary()


def poller_of(dashboard: Dashboard) -> Poller:
    """Return the poller of a dashboard, made at first use."""
    if (poller := _known.get(dashboard)) is None:
        poller = _known[dashboard] = Poller(dashboard)
    return poller
