"""A Postgres connection that never blocks: the worker's selector tells it when to read and write.

Statements are sent as one pipeline, which is one round trip and one transaction; the callback gets their
results together, or the first error. Built on libpq's own asynchronous calls.
"""

from __future__ import annotations

import enum
import hashlib
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import OperationalError, pq

from pq_core.worker.rows import Row

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

Parameters = Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Query:
    """One statement of a turn; placeholders are ``$1`` and on. ``prepared``: what it is prepared under."""

    name: str
    text: str
    prepared: str = field(init=False)

    def __post_init__(self) -> None:
        # Behind a pooler the session may be one on which another schema's or another version's worker has prepared.
        digest = hashlib.blake2b(self.text.encode(), digest_size=6).hexdigest()
        object.__setattr__(self, "prepared", f"{self.name}_{digest}")


@dataclass(frozen=True, slots=True)
class StatementError:
    """What the server said against a statement.

    ``sqlstate`` is empty when the connection broke. ``statement``: the name of the query that it was said of; empty
    also where the commit failed.
    """

    message: str
    sqlstate: str = ""
    statement: str = ""

    def __str__(self) -> str:
        return self.message


Results = list[list[Row]]
Callback = Callable[[Results | None, StatementError | None], None]
OnNotify = Callable[[str, str, bool], None]


class State(enum.Enum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    IDLE = "idle"
    BUSY = "busy"
    BROKEN = "broken"


class Connection:
    """One non-blocking connection.

    ``connect`` starts it (``pq_core.database.start_connection``). ``setup`` is sent first, as simple queries.
    ``on_ready`` is called once it can be used, ``on_broken`` once when it is lost, ``on_notify`` per notification
    with channel, payload, and whether it came while nothing was under way. A pooler in transaction mode passes none on
    then; within a transaction it does if the server's session that this one got happens to listen.
    """

    def __init__(
        self,
        connect: Callable[[], PGconn],
        *,
        setup: str,
        on_ready: Callable[[], None],
        on_broken: Callable[[str], None],
        on_notify: OnNotify | None = None,
    ) -> None:
        self._setup = setup
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._on_notify = on_notify
        self._prepared: set[str] = set()
        self._can_prepare = True
        self._sent: deque[tuple[str, bool]] = deque()
        self._results: Results = []
        self._error: StatementError | None = None
        self._callback: Callback | None = None
        self._statements: Sequence[tuple[Query, Parameters]] = ()
        self._wants_write = False
        self._became_ready = False
        self._notes: deque[tuple[str, str, bool]] = deque()
        self._done: tuple[Callback, Results | None, StatementError | None] | None = None
        self._pgconn = connect()
        self.state = State.CONNECTING
        self._polling: int = pq.PollingStatus.WRITING
        if self._pgconn.status == pq.ConnStatus.BAD:
            raise ConnectionError(_text(self._pgconn.error_message))

    @property
    def fileno(self) -> int:
        """The socket's descriptor; it may change while connecting (several hosts)."""
        return self._pgconn.socket

    @property
    def events(self) -> int:
        """What to wait for, as a mask of ``selectors`` events."""
        if self.state is State.CONNECTING:
            return selectors.EVENT_WRITE if self._polling == pq.PollingStatus.WRITING else selectors.EVENT_READ
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._wants_write else 0)

    def send(self, statements: Sequence[tuple[Query, Parameters]], callback: Callback) -> None:
        """Send ``statements`` as one transaction; only when IDLE."""
        if self.state is not State.IDLE:
            raise RuntimeError(f"the connection is {self.state.value}")
        self.state = State.BUSY
        self._callback = callback
        self._statements = statements
        self._results = []
        self._error = None
        pgconn = self._pgconn
        try:
            for query, parameters in statements:
                self._send_one(pgconn, query, parameters)
            pgconn.pipeline_sync()
            self._flush()
        except OperationalError as error:
            self._break(str(error))

    def _send_one(self, pgconn: PGconn, query: Query, parameters: Parameters) -> None:
        if not self._can_prepare:
            pgconn.send_query_params(query.text.encode(), parameters)
            self._sent.append((query.name, True))
            return
        name = query.prepared.encode()
        if query.name not in self._prepared:
            pgconn.send_prepare(name, query.text.encode())
            self._prepared.add(query.name)
            self._sent.append((query.name, False))
        pgconn.send_query_prepared(name, parameters)
        self._sent.append((query.name, True))

    def pump(self) -> None:
        """Do what can be done without waiting; call it when the selector reports the socket."""
        try:
            match self.state:
                case State.CONNECTING:
                    self._connect_further()
                case State.IDLE | State.BUSY:
                    self._read()
                case State.BROKEN:
                    return
        except OperationalError as error:
            self._break(str(error))
        self._deliver()

    def _deliver(self) -> None:
        """Hand out what was read; outside the guard above, whose errors are the connection's."""
        if self._became_ready:
            self._became_ready = False
            self._on_ready()
        while self._notes:
            note = self._notes.popleft()
            if self._on_notify is not None:
                self._on_notify(*note)
        if (done := self._done) is not None:
            self._done = None
            callback, results, error = done
            callback(results, error)

    def _connect_further(self) -> None:
        self._polling = self._pgconn.connect_poll()
        if self._polling == pq.PollingStatus.FAILED:
            self._break(_text(self._pgconn.error_message))
        elif self._polling == pq.PollingStatus.OK:
            # Setting up is a handful of SETs and LISTENs on a fresh session: sent as one simple query, read like
            # any other answer, and only then is the connection put into pipeline mode.
            self._pgconn.nonblocking = 1
            self._pgconn.send_query(self._setup.encode())
            self.state = State.BUSY
            self._callback = None
            self._flush()

    def _read(self) -> None:
        pgconn = self._pgconn
        if self._wants_write:
            self._flush()
        pgconn.consume_input()
        self._notifications()
        while self.state is State.BUSY and not pgconn.is_busy():
            result = pgconn.get_result()
            if self._callback is None:
                self._read_setup(result)
            elif self._take(result):
                self._notifications()  # what came within the transaction, as long as it is under way
                self._finish()
        self._notifications()

    def _read_setup(self, result: PGresult | None) -> None:
        if result is None:
            self._notifications()
            self._pgconn.enter_pipeline_mode()
            self.state = State.IDLE
            self._became_ready = True
        elif result.status == pq.ExecStatus.FATAL_ERROR:
            self._break(_text(result.error_message))

    def _take(self, result: PGresult | None) -> bool:
        """Note one result; return True when the pipeline is at its end."""
        if result is None:
            return False  # the end of one statement's results
        status = result.status
        if status == pq.ExecStatus.PIPELINE_SYNC:
            return True
        name, wanted = self._sent.popleft() if self._sent else ("", False)
        if status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            if wanted:
                width, height = result.nfields, result.ntuples
                get = result.get_value
                columns = range(width)
                self._results.append([[get(row, column) for column in columns] for row in range(height)])
        else:
            if not wanted:
                # Its own PREPARE failed or was passed over. One that succeeded stays, also when what follows fails:
                # the server does not roll it back.
                self._prepared.discard(name)
            if status != pq.ExecStatus.PIPELINE_ABORTED and self._error is None:
                self._error = StatementError(_text(result.error_message), _sqlstate(result), name)
        return False

    def _finish(self) -> None:
        callback, error = self._callback, self._error
        self._callback = None
        self._sent.clear()
        self.state = State.IDLE
        if callback is not None and error is not None and error.sqlstate in ("26000", "42P05") and self._can_prepare:
            # A pooler gave this transaction another server session than the one that prepared, or one on which
            # somebody else has. Nothing of it was done: once more, without.
            self._can_prepare = False
            self.send(self._statements, callback)
            return
        if callback is not None:
            self._done = (callback, None if error else self._results, error)

    def _notifications(self) -> None:
        """Collect what has come, with the state of this moment."""
        while (note := self._pgconn.notifies()) is not None:
            channel, payload = (text.decode("utf-8", "replace") for text in (note.relname, note.extra))
            self._notes.append((channel, payload, self.state is State.IDLE))

    def _flush(self) -> None:
        self._wants_write = bool(self._pgconn.flush())

    def _break(self, message: str) -> None:
        if self.state is State.BROKEN:
            return
        self.state = State.BROKEN
        self._on_broken(message.strip() or "the connection was lost")

    def close(self) -> None:
        """End the session; in the process that opened it only. A statement under way ends as broken."""
        self.state = State.BROKEN
        self._pgconn.finish()
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(None, StatementError("the connection was given up"))


def _text(message: bytes | str | None) -> str:
    if isinstance(message, bytes):
        message = message.decode("utf-8", "replace")
    return (message or "").strip()


def _sqlstate(result: PGresult) -> str:
    field = result.error_field(pq.DiagnosticField.SQLSTATE)
    return field.decode() if field else ""
