"""The demo's receiver of webhooks: a small server on this machine that checks what it gets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = 0.2
"""Seconds that the receiver takes for each call, so that calls at once can be seen."""
RETRY_AFTER = 1
"""Seconds for which it wants to be left alone by the first one that calls."""
_OLDEST = 300.0


@dataclass(slots=True)
class Received:
    """What the receiver saw. ``most``: calls at once. ``keys``: the idempotency keys of each order, in their order.

    ``problems``: what was wrong with calls. ``waits``: seconds until somebody came back who was told to wait.
    """

    most: int = 0
    keys: dict[int, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, secret: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.secret = secret.encode()
        self.received = Received()
        self.lock = threading.Lock()
        self.now = 0
        self.refused: dict[int, float] = {}

    def take(self, order: int, key: str, problem: str | None) -> int:
        """Note a call; return the status to answer with."""
        with self.lock:
            self.received.keys.setdefault(order, []).append(key)
            if problem is not None:
                self.received.problems.append(f"order {order}: {problem}")
                return 401
            if order in self.refused:
                self.received.waits.append(time.monotonic() - self.refused.pop(order))
            elif not self.received.waits and not self.refused:
                self.refused[order] = time.monotonic()
                return 429
            return 200


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        server = self.server
        with server.lock:
            server.now += 1
            server.received.most = max(server.received.most, server.now)
        try:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            time.sleep(BUSY)
            order = int(json.loads(body)["order"])
            status = server.take(order, self.headers.get("idempotency-key") or "", self._problem(body))
        finally:
            # Before the answer: with it the caller's place is free.
            with server.lock:
                server.now -= 1
        answer = json.dumps({"order": order, "taken": status == 200}).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", str(RETRY_AFTER))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is the demo's."""

    def _problem(self, body: bytes) -> str | None:
        """Return what is wrong with the signature, None if it is the sender's."""
        ident, moment = self.headers.get("webhook-id") or "", self.headers.get("webhook-timestamp") or ""
        if not moment.isdigit() or abs(time.time() - int(moment)) > _OLDEST:
            return f"its time is {moment!r}"
        digest = hmac.new(self.server.secret, f"{ident}.{moment}.".encode() + body, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(digest).decode()
        given = (self.headers.get("webhook-signature") or "").split()
        return None if any(hmac.compare_digest(one, expected) for one in given) else "its signature is wrong"


@contextmanager
def receiver(secret: str) -> Iterator[tuple[str, Received]]:
    """Serve for the block. Yields host and port, and what comes in."""
    server = _Server(secret)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", server.received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
