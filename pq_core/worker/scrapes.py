"""A tiny HTTP server in the worker's own loop: it answers scrapes, never waits for anybody, and needs no thread."""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable
from time import monotonic

from pq_core.worker.metrics import CONTENT_TYPE

logger = logging.getLogger("pq.worker")

CLIENTS = 16
"""Connections at once; more wait in the kernel's queue."""
PATIENCE = 5.0
"""Seconds that one request may take altogether."""
REQUEST_BYTES = 8192
AGAIN = 1.0
"""Seconds until a port that is taken is tried again: the worker that this one replaces may still have it."""


class ScrapeServer:
    """``text``: makes the page of ``GET /metrics``. ``unready``: why ``GET /ready`` says no; empty while it says yes.

    ``GET /health`` gets ``ok``: the loop turns.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        selector: selectors.BaseSelector,
        text: Callable[[], str],
        unready: Callable[[], str],
    ) -> None:
        self._address = address
        self.selector = selector
        self._text = text
        self._unready = unready
        self._listener: socket.socket | None = None
        self._clients: dict[int, Scrape] = {}
        self._open_at = 0.0
        self._complained = False

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do."""
        events = [client.until for client in self._clients.values()]
        if self._listener is None:
            events.append(self._open_at)
        return min(events, default=None)

    def advance(self, now: float) -> None:
        """Open the port if it is time, and leave those who take too long."""
        if self._listener is None and now >= self._open_at:
            self._open(now)
        for client in [client for client in self._clients.values() if now >= client.until]:
            self.leave(client)

    def filenos(self) -> list[int]:
        """Return the descriptors that a child must put out of use."""
        return [*self._clients, *([self._listener.fileno()] if self._listener is not None else [])]

    def pump(self) -> None:
        """Take the next connection; the selector's callback."""
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        if len(self._clients) >= CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = Scrape(connection, self, monotonic() + PATIENCE)
        self._clients[connection.fileno()] = client
        self.selector.register(connection, selectors.EVENT_READ, client)

    def close(self) -> None:
        """Give the port up."""
        for client in list(self._clients.values()):
            self.leave(client)
        if self._listener is not None:
            self.selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _open(self, now: float) -> None:
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((host, port))
            listener.listen(CLIENTS)
        except OSError as error:
            listener.close()
            self._open_at = now + AGAIN
            if not self._complained:
                logger.warning("no metrics yet: %s port %d: %s; trying again", host, port, error.strerror)
            self._complained = True
            return
        self._listener = listener
        self.selector.register(listener, selectors.EVENT_READ, self)
        logger.info("metrics: http://%s:%d/metrics", host, port)

    def answer(self, request: bytes) -> bytes:
        """Return the whole answer to a request."""
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "text/plain", "only GET\n")
        match path:
            case b"/metrics":
                return _response("200 OK", CONTENT_TYPE, self._text(), head=method == b"HEAD")
            case b"/health":
                return _response("200 OK", "text/plain", "ok\n", head=method == b"HEAD")
            case b"/ready":
                why = self._unready()
                status = "503 Service Unavailable" if why else "200 OK"
                return _response(status, "text/plain", f"{why or 'ready'}\n", head=method == b"HEAD")
            case _:
                return _response("404 Not Found", "text/plain", "there are /metrics, /health and /ready\n")

    def leave(self, client: Scrape) -> None:
        """Close a connection."""
        self._clients.pop(client.fileno, None)
        self.selector.unregister(client.connection)
        client.connection.close()


class Scrape:
    """One connection: a request comes in, an answer goes out, that is all."""

    def __init__(self, connection: socket.socket, server: ScrapeServer, until: float) -> None:
        self.connection = connection
        self.fileno = connection.fileno()
        self.until = until
        self._server = server
        self._received = b""
        self._left: memoryview | None = None

    def pump(self) -> None:
        """Read or write what can be; the selector's callback."""
        try:
            if self._left is None:
                self._read()
            if self._left is not None:
                self._left = self._left[self.connection.send(self._left) :]
        except BlockingIOError:
            return
        except OSError:
            self._server.leave(self)
            return
        if self._left is not None and not self._left:
            self._server.leave(self)

    def _read(self) -> None:
        data = self.connection.recv(4096)
        self._received += data
        if not data:
            raise ConnectionResetError
        if b"\r\n\r\n" in self._received or b"\n\n" in self._received:
            self._left = memoryview(self._server.answer(self._received))
        elif len(self._received) > REQUEST_BYTES:
            self._left = memoryview(_response("431 Request Header Fields Too Large", "text/plain", "too long\n"))
        if self._left is not None:
            self._server.selector.modify(self.connection, selectors.EVENT_WRITE, self)


def _response(status: str, content_type: str, text: str, *, head: bool = False) -> bytes:
    body = text.encode("utf-8", "replace")
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + (b"" if head else body)
