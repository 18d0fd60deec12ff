"""A connection that comes back: opened, watched by the selector, replaced with backoff when it is lost."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.worker.connection import (
    Callback,
    Connection,
    OnNotify,
    Parameters,
    Query,
    Results,
    State,
    StatementError,
)

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

logger = logging.getLogger("pq.worker")

CONNECT_TIMEOUT = 10.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LEFT_PAUSE = 1.0
"""Seconds before the next try after a server that answers and is the wrong one."""


class Link:
    """One connection of a worker, renewed for as long as it takes.

    ``purpose``: a word for the log. ``patience``: seconds that an answer may take before the connection counts as
    half-open and is given up. ``hopeless``: says of a reason whether waiting can't help, so that the worker ends over
    it and says so itself. ``on_refused``: gets each error of a statement, before the statement's own callback does.
    ``guarded``: each new session is for nothing but ``Lease.check`` until ``admit``: the server may be another than
    before.
    """

    def __init__(
        self,
        connect: Callable[[], PGconn],
        *,
        selector: selectors.BaseSelector,
        setup: str,
        purpose: str,
        patience: float,
        hopeless: Callable[[str], object],
        guarded: bool = False,
        on_ready: Callable[[], None] | None = None,
        on_lost: Callable[[], None] | None = None,
        on_notify: OnNotify | None = None,
        on_refused: Callable[[StatementError], None] | None = None,
    ) -> None:
        self._connect = connect
        self._selector = selector
        self._setup = setup
        self._purpose = purpose
        self.patience = patience
        self._hopeless = hopeless
        self._guarded = guarded
        self._admitted = False
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_notify = on_notify
        self._on_refused = on_refused
        self._connection: Connection | None = None
        self._registered: tuple[int, int] | None = None
        self._pause = FIRST_PAUSE
        self._retry_at = 0.0
        self._overdue_at: float | None = None
        self.failures = 0
        self.last_error = ""
        self.ever_ready = False
        self.ready_since = 0.0

    @property
    def idle(self) -> bool:
        """True when a statement can be sent."""
        return self._admitted and self._connected

    @property
    def unproved(self) -> bool:
        """True when nothing may be sent but what finds out which server this is."""
        return self._connected and not self._admitted

    @property
    def _connected(self) -> bool:
        return self._connection is not None and self._connection.state is State.IDLE

    def admit(self) -> None:
        """Let the session be used: the server is known, and so is what this worker has there."""
        self._admitted = True

    def doubt(self) -> None:
        """Take it back: what the session leads to has to be found out anew."""
        self._admitted = not self._guarded

    def leave(self, reason: str) -> None:
        """Give the connection up and open another, not at once: the DSN may lead to the same server again."""
        if self._connection is not None:
            self._pause = max(self._pause, LEFT_PAUSE)
            self._lost(reason)

    @property
    def fileno(self) -> int | None:
        """The socket's descriptor while there is one."""
        return self._registered[0] if self._registered else None

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do, on the monotonic clock."""
        return self._retry_at if self._connection is None else self._overdue_at

    def advance(self, now: float) -> None:
        """Open the connection if it is time, give it up if it is overdue."""
        if self._connection is None:
            if now >= self._retry_at:
                self._open(now)
        elif self._overdue_at is not None and now >= self._overdue_at:
            self._lost(f"no answer for {self.patience:g} s")

    def _open(self, now: float) -> None:
        self._overdue_at = now + CONNECT_TIMEOUT
        try:
            self._connection = Connection(
                self._connect, setup=self._setup, on_ready=self._ready, on_broken=self._lost, on_notify=self._on_notify
            )
        except Exception as error:  # the driver's, or a DSN callable's: all mean that there is no connection now
            self._lost(str(error))
            return
        self._watch()

    def _ready(self) -> None:
        self._pause = FIRST_PAUSE
        self._overdue_at = None
        self._admitted = not self._guarded
        self.ready_since = monotonic()
        if self.failures:
            logger.info("the %s connection is back", self._purpose)
        self.failures = 0
        self.ever_ready = True
        if self._on_ready is not None:
            self._on_ready()

    def send(self, statements: Sequence[tuple[Query, Parameters]], callback: Callback) -> None:
        """Send statements as one transaction; only when ``idle``."""
        assert self._connection is not None
        self._overdue_at = monotonic() + self.patience

        def told(results: Results | None, error: StatementError | None) -> None:
            if error is not None and self._on_refused is not None:
                self._on_refused(error)
            callback(results, error)

        self._connection.send(statements, told)
        self._watch()

    def pump(self) -> None:
        """Read and write what can be; the selector's callback."""
        if self._connection is not None:
            self._connection.pump()
            if self._connection is not None and self._connection.state is State.IDLE:
                self._overdue_at = None
            self._watch()

    def _watch(self) -> None:
        connection = self._connection
        if connection is None or connection.state is State.BROKEN:
            return
        wanted = (connection.fileno, connection.events)
        if wanted == self._registered and connection.state is not State.CONNECTING:
            return
        # While connecting libpq may close one socket and open another under the same number: register anew.
        self._unwatch()
        self._selector.register(wanted[0], wanted[1], self)
        self._registered = wanted

    def _unwatch(self) -> None:
        if self._registered is not None:
            self._selector.unregister(self._registered[0])
            self._registered = None

    def _lost(self, reason: str) -> None:
        self._unwatch()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._overdue_at = None
        self.failures += 1
        lines = reason.strip().splitlines() or ["unknown"]
        self.last_error = next((line for line in lines if "FATAL" in line), lines[0])
        if self.ever_ready or not self._hopeless(self.last_error):
            logger.warning(
                "the %s connection is lost: %s; next try in %.1f s", self._purpose, self.last_error, self._pause
            )
        self._retry_at = monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if self._on_lost is not None:
            self._on_lost()

    def close(self) -> None:
        """End the session."""
        self._unwatch()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
