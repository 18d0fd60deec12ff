"""The way from a child to its worker. Imports the standard library and leaves alone: see child.py."""

from __future__ import annotations

import _thread
import os
from typing import TYPE_CHECKING, Any

from pq_core.worker import guards, wire

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask


class Channel:
    """The child's end of the socket to its worker.

    Remembers which socket it was: a task that closes every descriptor and opens others may hold a file of its
    own under the same number, and nothing of ours may be written into that.
    """

    __slots__ = ("_fd", "_identity", "_lock")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = guards.identity(fd)
        self._lock = _thread.allocate_lock()

    def send(self, frame: bytes) -> bool:
        """Write one frame, whole: threads of the task may write at the same time. False when the socket is gone."""
        with self._lock:
            if guards.identity(self._fd) != self._identity:
                return False
            try:
                sent = os.write(self._fd, frame)
                while sent < len(frame):
                    sent += os.write(self._fd, memoryview(frame)[sent:])
            except OSError:
                return False
        return True


def tell(channel: Channel, kind: wire.Kind, task: ClaimedTask, **body: Any) -> None:
    """Tell the worker; one that is gone can't be told, and this process dies with it."""
    channel.send(wire.pack(kind, {"id": task.id, "fence": task.fence, **body}))
