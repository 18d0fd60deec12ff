"""The statements that this process has under way: found, and cancelled at the server, when its task is to stop.

A task that waits for the server is stopped by an exception like any other, but its session would go on: it would keep
its locks from the next attempt, and might commit after the task is on record as cancelled. Whoever holds a connection,
a pool or an ORM, it is an object of its driver, and the collector knows where that is. What was there before the fork
is not looked at: frozen, and the parent's business.

Runs in a signal handler: takes no lock that the interrupted code could hold, of ``threading`` or ``logging`` neither.
"""

from __future__ import annotations

import _thread
import gc
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.worker.stopping import PATIENCE

if TYPE_CHECKING:
    from types import FrameType

AGAIN = 0.25
"""Seconds after which a statement that goes on is cancelled once more: a server ignores a request that overtakes the
statement on its way."""

_ACTIVE = 1
"""libpq's PQTRANS_ACTIVE: a statement was sent, and its end has not been read."""
_CANCEL_REQUEST = 80877102

_one_at_a_time = _thread.allocate_lock()


@dataclass(frozen=True, slots=True)
class Statement:
    """One that is under way. ``over`` says whether its end has come."""

    cancel: Callable[[], None]
    over: Callable[[], bool]


def cancel(
    frame: FrameType | None = None,
    drivers: Iterable[str] = ("psycopg", "psycopg2", "asyncpg"),
    *,
    still: Callable[[], bool] = lambda: True,
    patience: float = PATIENCE,
) -> list[str]:
    """Cancel what the connections of ``drivers`` have under way and wait for its end; return what went wrong.

    ``frame``: what the main thread was in, where this is it: psycopg is left knowing that the statement is over, so
    that the task can roll back. ``still``: whether it is still to be done, asked once nobody else cancels, and again
    before each request: what the task begins after its stop is left alone. ``patience``: seconds, half as many again
    with what a request takes.
    """
    loaded = {driver for driver in drivers if driver in sys.modules}
    if not loaded:
        return []
    until = monotonic() + patience
    if not _one_at_a_time.acquire(timeout=patience):
        return ["another thread is still cancelling statements"]
    try:
        if not still():
            return []
        found = list(_under_way(loaded))
        problems: list[str] = []
        waits = [_begin(partial(_end, one, until, problems, still)) for one in found]
        if frame is not None and "psycopg" in loaded:
            _read_to_the_end(frame, until)
        for wait in waits:
            if not wait.acquire(timeout=max(until + min(AGAIN, patience / 2) - monotonic(), 0)):
                problems.append("the server did not take the request to cancel a statement in time")
        return problems
    finally:
        _one_at_a_time.release()


def _under_way(drivers: set[str]) -> Iterator[Statement]:
    kinds: dict[type, Callable[[Any], Statement | None]] = {}
    for driver, names, statement_of in (
        ("psycopg", ("Connection", "AsyncConnection"), _of_psycopg),
        ("psycopg2._psycopg", ("connection",), _of_psycopg2),
        ("asyncpg.connection", ("Connection",), _of_asyncpg),
    ):
        # What is being imported this very moment has no connections yet.
        found = [getattr(sys.modules.get(driver), name, None) for name in names if driver.partition(".")[0] in drivers]
        kinds |= dict.fromkeys((kind for kind in found if kind is not None), statement_of)
    for connection, kind in _instances(tuple(kinds)):
        try:
            statement = kinds[kind](connection)
        except Exception:
            continue  # closed or lost this very moment: nothing is under way there
        if statement is not None:
            yield statement


def _instances(kinds: tuple[type, ...]) -> list[tuple[Any, type]]:
    """Return objects of ``kinds`` that are not the parent's, each with the one that it is of."""
    known: dict[type, type | None] = {}
    found = []
    for one in gc.get_objects():
        own = type(one)  # not isinstance: it asks the object, and a lazy one would begin to do things
        if own not in known:
            known[own] = next((kind for kind in kinds if kind in type.mro(own)), None)
        if (kind := known[own]) is not None:
            found.append((one, kind))
    return found


def _of_psycopg(connection: Any) -> Statement | None:
    pgconn = connection.pgconn
    if pgconn.transaction_status != _ACTIVE or not _is_socket(pgconn.socket):
        return None
    fd = pgconn.socket
    return Statement(lambda: _cancel_by_libpq(pgconn), lambda: pgconn.transaction_status != _ACTIVE or _is_readable(fd))


def _cancel_by_libpq(pgconn: Any) -> None:
    psycopg: Any = sys.modules["psycopg"]
    libpq = psycopg.pq
    try:
        request = pgconn.cancel_conn()  # as the connection was made, encrypted too
    except psycopg.NotSupportedError:  # libpq below 17
        pgconn.get_cancel().cancel()
        return
    try:
        request.start()
        until = monotonic() + PATIENCE
        while (status := request.poll()) != libpq.PollingStatus.OK:
            if status == libpq.PollingStatus.FAILED:
                raise OSError(request.get_error_message())
            if monotonic() >= until:
                raise TimeoutError(f"no answer for {PATIENCE:g} s")
            poll = select.poll()
            poll.register(request.socket, select.POLLIN if status == libpq.PollingStatus.READING else select.POLLOUT)
            poll.poll(AGAIN * 1000)
    finally:
        request.finish()


def _of_psycopg2(connection: Any) -> Statement | None:
    if connection.closed or connection.get_transaction_status() != _ACTIVE or not _is_socket(connection.fileno()):
        return None
    fd = connection.fileno()
    return Statement(connection.cancel, lambda: connection.get_transaction_status() != _ACTIVE or _is_readable(fd))


def _of_asyncpg(connection: Any) -> Statement | None:
    protocol, transport = connection._protocol, connection._transport
    if connection.is_closed() or not _awaits_an_answer(protocol):
        return None
    fd = transport.get_extra_info("socket").fileno()
    if not _is_socket(fd):
        return None
    address, key = connection._addr, (protocol.backend_pid, protocol.backend_secret)
    return Statement(lambda: _request_cancel(address, key), lambda: _is_readable(fd))


def _awaits_an_answer(protocol: Any) -> bool:
    """Say whether a statement is under way: asyncpg shows its future to nobody else than the collector."""
    return any(hasattr(one, "_asyncio_future_blocking") and not one.done() for one in gc.get_referents(protocol))


def _request_cancel(address: str | tuple[str, int], key: tuple[int, int]) -> None:
    """Send what asyncpg would send once its loop runs again. Servers take it unencrypted, too: it is from libpq."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE)
        connection.connect(address)
    else:
        connection = socket.create_connection(address[:2], PATIENCE)
    with connection:
        connection.sendall(struct.pack("!llll", 16, _CANCEL_REQUEST, *key))
        connection.recv(1)  # nothing: the server hangs up once the signal is sent


async def cancelled_by_asyncpg() -> None:
    """Wait until what asyncpg is cancelling by itself, after its coroutines have ended, is over at the server."""
    import asyncio

    kind = getattr(sys.modules.get("asyncpg.connection"), "Connection", None)
    if kind is None:
        return
    protocols = [connection._protocol for connection, _ in _instances((kind,)) if not connection.is_closed()]
    ends = [asyncio.ensure_future(one._wait_for_cancellation()) for one in protocols if one._is_cancelling()]
    if ends:
        await asyncio.wait(ends, timeout=PATIENCE)


def _is_socket(fd: int) -> bool:
    """Say whether there is a connection: a parent's has been replaced by /dev/null."""
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _begin(work: Callable[[], None]) -> _thread.LockType:
    """Run ``work`` in a thread, or here where there is room for none; return a lock that is free when it is done."""
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            work()
        finally:
            done.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:
        run()
    return done


def _end(statement: Statement, until: float, problems: list[str], still: Callable[[], bool]) -> None:
    try:
        while still():
            statement.cancel()
            again = min(monotonic() + AGAIN, until)
            while not statement.over():
                if (now := monotonic()) >= until:
                    problems.append("a statement was cancelled at the server and had not ended in time")
                    return
                if now >= again:
                    break
                select.select((), (), (), 0.002)
            else:
                return
    except Exception as error:
        if not _is_over(statement):
            problems.append(f"a statement could not be cancelled at the server: {error}")


def _is_over(statement: Statement) -> bool:
    try:
        return statement.over()
    except Exception:
        return True  # the connection is closed


def _read_to_the_end(frame: FrameType, until: float) -> None:
    """Read the end of the statement that psycopg waited for in the main thread, which will not do it any more."""
    psycopg: Any = sys.modules["psycopg"]
    if not hasattr(psycopg, "Connection"):
        return
    code = psycopg.Connection.wait.__code__
    one: FrameType | None = frame
    while one is not None and one.f_code is not code:
        one = one.f_back
    if one is None:
        return
    pgconn = one.f_locals["self"].pgconn
    try:
        _read_results(pgconn, psycopg.pq, until)
    except psycopg.Error:
        return  # the connection is lost: there is nothing to read, and the task meets the same error


def _read_results(pgconn: Any, libpq: Any, until: float) -> None:
    if pgconn.pipeline_status != libpq.PipelineStatus.OFF:
        return  # it ends with errors for all that is in it, which leaving the pipeline reads
    copying = (libpq.ExecStatus.COPY_IN, libpq.ExecStatus.COPY_OUT, libpq.ExecStatus.COPY_BOTH)
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while pgconn.transaction_status == _ACTIVE:
        if not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None or result.status in copying:
                return
            continue
        if monotonic() >= until:
            return
        poll.poll(AGAIN * 1000)
        pgconn.consume_input()
