"""The one module that opens connections to the database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn

from pq_core.dsn import conninfo, find_dsn, is_embedded, redact, without_secrets
from pq_core.errors import DatabaseUnavailable
from pq_core.sqlstates import READ_ONLY, ends_connection, sqlstate_of
from pq_core.types import DSN

__all__ = [
    "AsyncConnectionPool",
    "ConnectionPool",
    "aconnect",
    "connect",
    "conninfo",
    "find_dsn",
    "redact",
    "start_connection",
]

CONNECT_TIMEOUT = 10
"""Seconds."""
NOTICE_WITHIN = 30.0
"""Seconds after which a peer that vanished without a word is noticed."""

Connection = psycopg.Connection[tuple[Any, ...]]
AsyncConnection = psycopg.AsyncConnection[tuple[Any, ...]]
C = TypeVar("C", Connection, AsyncConnection)


def connect(dsn: str, *, application_name: str = "pq", autocommit: bool = True) -> Connection:
    """Open a connection to a found DSN; what the DSN says of name and timeouts wins. Raises DatabaseUnavailable.

    Nothing is prepared on the server: that would break behind some poolers, and when tables change under it.
    """
    try:
        return psycopg.connect(_parameters(dsn, application_name), autocommit=autocommit, prepare_threshold=None)
    except psycopg.Error as error:
        raise _unavailable(dsn, error) from error


async def aconnect(dsn: str, *, application_name: str = "pq", autocommit: bool = True) -> AsyncConnection:
    """The async twin of ``connect``."""
    parameters = _parameters(dsn, application_name)
    try:
        return await psycopg.AsyncConnection.connect(parameters, autocommit=autocommit, prepare_threshold=None)
    except psycopg.Error as error:
        raise _unavailable(dsn, error) from error


def start_connection(
    dsn: str, *, application_name: str = "pq", notice_within: float | None = None, **parameters: str | int
) -> PGconn:
    """Begin a connection that the caller drives with ``connect_poll``; ``parameters`` win over the DSN's.

    ``notice_within``: seconds until a peer that vanished is noticed. libpq resolves host names inside this call;
    everything after it is non-blocking. The caller watches the time: ``connect_timeout`` has no meaning to
    ``connect_poll``. Raises DatabaseUnavailable where it fails at once.
    """
    whole = make_conninfo(_parameters(dsn, application_name, notice_within), **parameters)
    pgconn = pq.PGconn.connect_start(whole.encode())
    if pgconn.status == ConnStatus.BAD:
        error = psycopg.OperationalError(pgconn.get_error_message())
        pgconn.finish()
        raise _unavailable(dsn, error) from error
    pgconn.nonblocking = 1
    return pgconn


def vanishing(seconds: float) -> dict[str, int]:
    """Return libpq's parameters by which a peer that vanished is noticed after about ``seconds``.

    Keepalives find it while nothing is under way, or an answer is waited for. They are not sent while something that we
    said is unacknowledged, and the kernel repeats that for a quarter of an hour: ``tcp_user_timeout`` (milliseconds, on
    Linux) ends it as early.
    """
    third = max(1, int(seconds / 3))
    return {
        "keepalives": 1,
        "keepalives_idle": third,
        "keepalives_interval": third,
        "keepalives_count": 2,
        "tcp_user_timeout": int(seconds * 1000),
    }


def _parameters(dsn: str, application_name: str, notice_within: float | None = None) -> str:
    defaults: dict[str, str | int] = {"connect_timeout": CONNECT_TIMEOUT, **vanishing(notice_within or NOTICE_WITHIN)}
    return conninfo(dsn, fallback_application_name=application_name, **defaults)


def _unavailable(dsn: str, error: psycopg.Error) -> DatabaseUnavailable:
    reason = without_secrets(str(error), dsn).removeprefix("connection failed: ")
    return DatabaseUnavailable(f"can't connect to {redact(dsn)}: {reason}")


_forgotten: list[object] = []
"""Connections of a parent process: kept, because their end would be noticed at the other side."""


class _Holdings(Generic[C]):
    """The connections of one pool in one process: which are open, and which of them nobody uses.

    After a fork the child's copy forgets all of them without a word to the server, whose session is the parent's.
    """

    def __init__(self, max_idle: int) -> None:
        self._max_idle = max_idle
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # A new one: another thread of the parent may have held the old one during the fork.
        self._lock = threading.Lock()
        self._open: set[C] = set()
        self._idle: list[C] = []

    def _notice_fork(self) -> None:
        if self._pid == os.getpid():
            return
        inherited = self._open
        self._begin()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in inherited:
            with contextlib.suppress(psycopg.Error, OSError):
                os.dup2(null, connection.pgconn.socket, inheritable=False)
            _forgotten.append(connection)
        os.close(null)

    def take(self) -> C | None:
        """Return the connection used last that still lives, or None."""
        self._notice_fork()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if is_alive(connection.pgconn):
                return connection
            self.drop(connection)

    def add(self, connection: C) -> C:
        self._notice_fork()
        with self._lock:
            self._open.add(connection)
        return connection

    def owns(self, connection: C) -> bool:
        """Tell whether the connection is one of this process, and the pool was not closed since it was taken."""
        self._notice_fork()
        with self._lock:
            return connection in self._open

    def give_back(self, connection: C) -> None:
        """Keep the connection for the next user, unless it is of no use to one, or the pool was closed meanwhile."""
        self._notice_fork()
        fit = is_reusable(connection.pgconn) and connection.autocommit
        with self._lock:
            if fit and connection in self._open and len(self._idle) < self._max_idle:
                self._idle.append(connection)
                return
        self.drop(connection)

    def judge(self, connection: C, error: BaseException) -> None:
        """Take in what its user met. What ends a connection is not handed out again.

        A server that takes no writes any more lets its sessions live on: those that nobody uses go as well.
        """
        state = sqlstate_of(error)
        if state == READ_ONLY:
            self.close()
        elif ends_connection(state):
            with self._lock:
                self._open.discard(connection)

    def drop(self, connection: C) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.pgconn.finish()

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it comes back."""
        self._notice_fork()
        with self._lock:
            idle, self._idle, self._open = self._idle, [], set()
        for connection in idle:
            connection.pgconn.finish()


def is_alive(pgconn: PGconn) -> bool:
    """Tell whether an idle connection is still connected, without a round trip.

    The server speaks to an idle session only to end it, to notify or to tell a setting: read what it said.
    """
    poll = select.poll()
    try:
        poll.register(pgconn.socket, select.POLLIN)
        while poll.poll(0):
            pgconn.consume_input()
            while pgconn.notifies():
                pass
    except psycopg.Error:
        return False
    return is_reusable(pgconn)


def is_reusable(pgconn: PGconn) -> bool:
    """Tell whether nothing of its last use is left on the connection."""
    return (
        pgconn.status == ConnStatus.OK
        and pgconn.transaction_status == TransactionStatus.IDLE
        and pgconn.pipeline_status == PipelineStatus.OFF
    )


def _in_transaction(pgconn: PGconn) -> bool:
    return pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class ConnectionPool:
    """Connections in autocommit mode, opened when needed, by any thread, without a thread of its own.

    The last one used is the first one used again; at most ``max_idle`` wait unused, and there is no limit on how
    many are in use. One that the server ended while it was idle is replaced before it is handed out; one whose user
    met an error that ends it (``ends_connection``) is closed. A forked child starts empty. After ``close`` the pool
    can be used again. ``examine`` sees each new connection first; what it raises is raised to who asked for one, and
    the connection is closed.
    """

    def __init__(
        self,
        dsn: DSN | None = None,
        *,
        application_name: str = "pq",
        max_idle: int = 4,
        examine: Callable[[Connection], None] | None = None,
    ) -> None:
        self._dsn = dsn
        self._examine = examine
        self._application_name = application_name
        self._holdings: _Holdings[Connection] = _Holdings(max_idle)
        weakref.finalize(self, self._holdings.close)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection. What is left of an open transaction is rolled back."""
        connection = self._holdings.take() or self._holdings.add(self._opened())
        try:
            yield connection
        except BaseException as error:
            self._holdings.judge(connection, error)
            raise
        finally:
            # In a child of whoever took it, the transaction is the parent's.
            if self._holdings.owns(connection) and _in_transaction(connection.pgconn):
                with contextlib.suppress(psycopg.Error):
                    connection.rollback()
            self._holdings.give_back(connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection in a transaction that the process ends which began it; a forked child leaves it alone."""
        pid = os.getpid()
        with self.connection() as connection, contextlib.ExitStack() as stack:
            # Not connection.transaction(): a generator would end the transaction when it is collected.
            stack.enter_context(psycopg.Transaction(connection))
            try:
                yield connection
            finally:
                if os.getpid() != pid:
                    stack.pop_all()

    def close(self) -> None:
        self._holdings.close()

    def _opened(self) -> Connection:
        connection = self._connected()
        if self._examine is not None:
            try:
                self._examine(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _connected(self) -> Connection:
        try:
            return connect(find_dsn(self._dsn), application_name=self._application_name)
        except DatabaseUnavailable:
            if not is_embedded(self._dsn):
                raise
            # It crashed a moment ago; asking for it again waits until it is back.
            return connect(find_dsn(self._dsn), application_name=self._application_name)


class AsyncConnectionPool:
    """The async twin of ``ConnectionPool``: each event loop has connections of its own."""

    def __init__(
        self,
        dsn: DSN | None = None,
        *,
        application_name: str = "pq",
        max_idle: int = 4,
        examine: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._dsn = dsn
        self._examine = examine
        self._application_name = application_name
        self._max_idle = max_idle
        self._by_loop: dict[asyncio.AbstractEventLoop, _Holdings[AsyncConnection]] = {}
        weakref.finalize(self, _close_all, self._by_loop)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection of the running loop. What is left of an open transaction is rolled back."""
        holdings = self._holdings()
        connection = holdings.take() or holdings.add(await self._opened())
        try:
            yield connection
        except BaseException as error:
            holdings.judge(connection, error)
            raise
        finally:
            try:
                if holdings.owns(connection) and _in_transaction(connection.pgconn):
                    with contextlib.suppress(psycopg.Error):
                        await connection.rollback()
            finally:
                holdings.give_back(connection)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction that the process ends which began it; a forked child leaves it alone."""
        pid = os.getpid()
        async with self.connection() as connection, contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(psycopg.AsyncTransaction(connection))
            try:
                yield connection
            finally:
                if os.getpid() != pid:
                    stack.pop_all()

    async def aclose(self) -> None:
        """Close the connections of every loop."""
        _close_all(self._by_loop)

    def _holdings(self) -> _Holdings[AsyncConnection]:
        running = asyncio.get_running_loop()
        for loop in [loop for loop in list(self._by_loop) if loop.is_closed()]:
            self._by_loop.pop(loop).close()
        return self._by_loop.setdefault(running, _Holdings(self._max_idle))

    async def _opened(self) -> AsyncConnection:
        connection = await self._connected()
        if self._examine is not None:
            try:
                await self._examine(connection)
            except BaseException:
                connection.pgconn.finish()
                raise
        return connection

    async def _connected(self) -> AsyncConnection:
        try:
            return await aconnect(find_dsn(self._dsn), application_name=self._application_name)
        except DatabaseUnavailable:
            if not is_embedded(self._dsn):
                raise
            return await aconnect(find_dsn(self._dsn), application_name=self._application_name)


def _close_all(by_loop: dict[asyncio.AbstractEventLoop, _Holdings[AsyncConnection]]) -> None:
    for holdings in list(by_loop.values()):
        holdings.close()
