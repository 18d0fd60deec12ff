"""A TCP proxy on loopback that misbehaves as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import Callable

from tests.chaos.server import free_port


class Mode(enum.Enum):
    """What the proxy does with what passes through it."""

    PASS = "pass"
    DELAY = "delay"
    CUT = "cut"
    HALF_OPEN = "half-open"
    SWALLOW = "swallow"


class Proxy:
    """Forwards connections to a port of this machine. Runs in a thread of its own.

    PASS; DELAY: every piece comes ``delay`` seconds later; CUT: connections are reset, new ones too; HALF_OPEN: they
    stay, and nothing arrives any more, new ones are accepted and not answered; SWALLOW: what clients say arrives, the
    answers don't. ``trigger``: a connection whose client says this gets no answer from then on, in any mode.
    """

    def __init__(self, target: int, *, delay: float = 0.2) -> None:
        self.port = free_port()
        self.target = target
        self.delay = delay
        self.mode = Mode.PASS
        self.trigger: bytes | None = None
        self._deaf: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._swallowed = 0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait(10)

    def set(self, mode: Mode) -> None:
        """Behave otherwise from now on. What was withheld in another mode is gone: such connections are cut."""
        before, self.mode = self.mode, mode
        if mode is Mode.CUT or (before in (Mode.HALF_OPEN, Mode.SWALLOW) and mode is Mode.PASS):
            self.cut()

    def cut(self) -> None:
        """Reset what is connected now."""
        self._call(self._cut)

    @property
    def swallowed(self) -> int:
        """How many pieces of answers were withheld."""
        return self._swallowed

    def close(self) -> None:
        """End it and all its connections."""
        self._call(self._cut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, function: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(10)

    def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()
        self._open.clear()
        self._deaf.clear()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        if self.mode is Mode.CUT:
            writer.transport.abort()
            return
        try:
            upstream, up = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(up)
        there = asyncio.ensure_future(self._forward(reader, up, writer, answers=False))
        back = asyncio.ensure_future(self._forward(upstream, writer, writer, answers=True))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        # Half-open: the end of one side is one more thing that the other does not hear of.
        while self.mode is Mode.HALF_OPEN and writer in self._open:
            await asyncio.sleep(0.1)
        for one in (there, back):
            one.cancel()
        for one in (writer, up):
            self._open.discard(one)
            one.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not answers and self.trigger is not None and self.trigger in data:
                    self._deaf.add(client)
                if answers and client in self._deaf:
                    self._swallowed += 1
                    continue
                match self.mode:
                    case Mode.DELAY:
                        await asyncio.sleep(self.delay)
                    case Mode.HALF_OPEN:
                        continue
                    case Mode.SWALLOW if answers:
                        self._swallowed += 1
                        continue
                sink.write(data)
                await sink.drain()
