"""A connection that comes back: opened, watched by the selector, replaced with backoff when it is lost."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable, Sequence
from math import inf
from random import random
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.sqlstates import READ_ONLY, ends_connection
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
from pq_core.worker.reconnecting import LONGEST_PAUSE, pause_before

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

logger = logging.getLogger("pq.worker")

CONNECT_TIMEOUT = 10.0
"""Seconds until a session is there to be used: names resolved, connected, authenticated, set up."""
LEFT_PAUSE = 1.0
"""Seconds before the next try after a server that answers and is the wrong one."""
SAID_FIRST = 3
"""Losses in a row that are logged each; what then goes on for the same reason is logged every ``SAY_AGAIN`` seconds."""
SAY_AGAIN = 5.0


class Link:
    """One connection of a worker, renewed for as long as it takes.

    ``purpose``: a word for the log. ``patience``: seconds that an answer may take before the connection counts as
    half-open and is given up. ``hopeless``: says of a reason whether waiting can't help, so that the worker ends over
    it and says so itself. ``on_refused``: gets each error of a statement, before the statement's own callback does.
    ``guarded``: each new session is for nothing but ``Lease.check`` until ``admit``: the server may be another than
    before. ``on_read_only``: a statement met a server that takes no writes.

    A connection whose server says that it is of no use (``ends_connection``) is given up as one that broke: a session
    may outlive the time of its server as the primary. ``failures``: losses since a statement was last answered; only
    that makes pauses short again, because a standby lets in everybody.
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
        on_read_only: Callable[[], None] | None = None,
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
        self._on_read_only = on_read_only
        self._connection: Connection | None = None
        self._registered: tuple[int, int] | None = None
        self._retry_at = 0.0
        self._overdue_at: float | None = None
        self._waits_for = ""
        self._no_use = ""
        self._said: tuple[str, float] = ("", 0.0)
        self._opened_at = 0.0
        self._met_read_only = False
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
            self._lost(reason, at_least=LEFT_PAUSE)

    @property
    def fileno(self) -> int | None:
        """The socket's descriptor while there is one."""
        return self._registered[0] if self._registered else None

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do, on the monotonic clock."""
        if self._connection is None:
            return self._retry_at
        return 0.0 if self._no_use and self._connected else self._overdue_at

    def advance(self, now: float) -> None:
        """Open the connection if it is time, give it up if it is overdue or of no use."""
        if self._connection is None:
            if now >= self._retry_at:
                self._open(now)
        elif self._no_use and self._connected:
            self._lost(self._no_use)
        elif self._overdue_at is not None and now >= self._overdue_at:
            self._lost(self._waited())

    def replace(self, reason: str) -> None:
        """Replace the connection that is open now, as soon as no statement is under way on it."""
        if self._connection is not None:
            self._no_use = reason

    def _waited(self) -> str:
        assert self._connection is not None
        if self._connection.state is State.CONNECTING:
            return f"not connected within {CONNECT_TIMEOUT:g} s"
        if not self._waits_for:
            return f"connected, but the session was not set up within {CONNECT_TIMEOUT:g} s"
        return f"no answer to {self._waits_for} for {self.patience:g} s"

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._overdue_at = now + CONNECT_TIMEOUT
        self._waits_for = ""
        try:
            self._connection = Connection(
                self._connect, setup=self._setup, on_ready=self._ready, on_broken=self._lost, on_notify=self._on_notify
            )
        except Exception as error:  # the driver's, or a DSN callable's: all mean that there is no connection now
            self._lost(str(error))
            return
        self._watch()

    def _ready(self) -> None:
        self._overdue_at = None
        self._admitted = not self._guarded
        self.ready_since = monotonic()
        self.ever_ready = True
        if self._on_ready is not None:
            self._on_ready()

    def send(self, statements: Sequence[tuple[Query, Parameters]], callback: Callback) -> None:
        """Send statements as one transaction; only when ``idle``."""
        assert self._connection is not None
        self._overdue_at = monotonic() + self.patience
        self._waits_for = ", ".join(dict.fromkeys(query.name.removeprefix("pq_") for query, _ in statements))
        self._connection.send(statements, lambda results, error: self._answered(callback, results, error))
        self._watch()

    def _answered(self, callback: Callback, results: Results | None, error: StatementError | None) -> None:
        if error is not None and self._on_refused is not None:
            self._on_refused(error)
        sqlstate = "" if error is None else error.sqlstate
        if error is None or (sqlstate and not ends_connection(sqlstate)):
            connection = self._connection
            callback(results, error)
            if self._connection is connection:  # else the answer told that this is the wrong server
                self._served()
            return
        if sqlstate:
            self._lost(error.message)
            if sqlstate == READ_ONLY:
                self._met_read_only = True
                if self._on_read_only is not None:
                    self._on_read_only()
            # For whoever asked it is what it is for the connection: one that broke.
            error = StatementError(error.message)
        callback(results, error)

    def _served(self) -> None:
        if not self.failures:
            return
        if self._met_read_only and monotonic() < self._opened_at + LONGEST_PAUSE:
            return  # what only reads is answered there, too
        self.failures = 0
        self._met_read_only = False
        logger.info("the %s connection is back", self._purpose)

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

    def _lost(self, reason: str, *, at_least: float = 0.0) -> None:
        self._unwatch()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._overdue_at = None
        self._no_use = ""
        self.ready_since = inf
        self.failures += 1
        pause = max(pause_before(self.failures, random()), at_least)
        lines = reason.strip().splitlines() or ["unknown"]
        self.last_error = next((line for line in lines if "FATAL" in line), lines[0])
        if self.ever_ready or not self._hopeless(self.last_error):
            self._say_lost(pause)
        self._retry_at = monotonic() + pause
        if self._on_lost is not None:
            self._on_lost()

    def _say_lost(self, pause: float) -> None:
        now = monotonic()
        reason, said_at = self._said
        if self.failures > SAID_FIRST and reason == self.last_error and now < said_at + SAY_AGAIN:
            return
        self._said = self.last_error, now
        logger.warning("the %s connection is lost: %s; next try in %.1f s", self._purpose, self.last_error, pause)

    def close(self) -> None:
        """End the session."""
        self._unwatch()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
