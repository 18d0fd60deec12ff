"""Tasks on their way to a reused child, one message each. Whoever receives a message owns its task.

The worker keeps the receiving end too, so it can take back what the child has not received: the kernel gives every
message to one of them. That is what makes fetching ahead safe: a task can be cancelled, given to another child or put
back up to the moment its own child takes it.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket

from pq_core.worker.rows import Row

TASK_LIMIT = 64 * 1024
"""Bytes of a task that goes through an inbox; a larger one gets a process of its own."""

_EACH = 8
"""Bytes around each column of a row, at most."""

_KIND = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)  # macOS has no sequenced packets on Unix sockets
_LEAVE = b""


def fits(row: Row) -> bool:
    """Say whether a task may go through an inbox."""
    return sum(_EACH + len(column) for column in row if column is not None) <= TASK_LIMIT


class Inbox:
    """The worker's two ends of one child's inbox."""

    __slots__ = ("_ours", "_theirs")

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, _KIND)
        self._ours.setblocking(False)
        with contextlib.suppress(OSError):
            self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * TASK_LIMIT)

    @property
    def theirs(self) -> int:
        """The descriptor that the child reads from."""
        return self._theirs.fileno()

    def put(self, message: bytes) -> bool:
        """Hand a task over; False when the inbox is full, or the child is gone."""
        try:
            self._ours.send(message)
        except OSError:
            return False
        return True

    def take_back(self) -> list[tuple[int, int]]:
        """Take out what the child has not received: (id, fence), in order."""
        taken: list[tuple[int, int]] = []
        while True:
            try:
                message = self._theirs.recv(2 * TASK_LIMIT, socket.MSG_DONTWAIT)
            except OSError:
                return taken
            if not message:
                return taken
            if unpack_stop(message) is not None:
                continue  # for a run that is taken back with it, or is being stopped in other ways
            row = unpack(message)
            taken.append((int(row[0] or 0), int(row[4] or 0)))

    def shut(self) -> None:
        """Let the child find that nothing more comes."""
        with contextlib.suppress(OSError):
            if _KIND == socket.SOCK_DGRAM:
                self._ours.send(_LEAVE)
            else:
                self._ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the descriptors back."""
        self._ours.close()
        self._theirs.close()


def pack(row: Row) -> bytes:
    """Return the message for a task. Between a process and its own fork, so the interpreter's own form will do."""
    return marshal.dumps(list(row))


def unpack(message: bytes) -> Row:
    """Return what ``pack`` was given."""
    row: Row = marshal.loads(message)
    return row


def pack_stop(id_: int, fence: int, reason: int) -> bytes:
    """Return the message that asks a child of many coroutines to stop one of them."""
    return marshal.dumps((id_, fence, int(reason)))


def unpack_stop(message: bytes) -> tuple[int, int, int] | None:
    """Return what ``pack_stop`` was given, None for a task."""
    found = marshal.loads(message)
    return found if len(found) == 3 else None


def receive(descriptor: int) -> Row | None:
    """Wait in a child for the next task; None when nothing more comes."""
    message = os.read(descriptor, 2 * TASK_LIMIT)
    return unpack(message) if message else None
