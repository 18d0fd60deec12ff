"""What a worker and the process that forks for it say to each other: messages on a stream, some with descriptors.

A leaf: it is in the image that forks.
"""

from __future__ import annotations

import array
import enum
import marshal
import os
import socket
import struct
from typing import Any

_HEAD = struct.Struct("=II")
_READ_SIZE = 64 * 1024
MOST_DESCRIPTORS = 250
"""Descriptors that one message carries at most; the kernel takes 253 (unix(7), SCM_RIGHTS)."""

_ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Order(enum.IntEnum):
    """What a message says: the first item of it."""

    LIFE = 1
    """To the fork server: the worker's id in this life."""
    FORK = 2
    """To it: numbers of new places, and (number, place, fed, crowd, packed task) of each child; with descriptors for
    both."""
    SIGNAL = 3
    """To it: number of the child, of the signal, whether all of the process group gets it."""
    LOAD = 4
    """To it: names of modules that children need."""
    PING = 5
    """To it: it is to answer."""
    PONG = 6
    """From it: it goes on."""
    FORKED = 7
    """From it: (pid, moment) of each child in order; number and words of the error where there are fewer; who has ended
    meanwhile, as ``ENDED`` says it."""
    IMAGE = 8
    """From it: resident bytes of a child that has done nothing, after something was loaded."""
    ENDED = 9
    """From it: (number, pid, status, user and system seconds, largest resident size) of each child that has ended."""


class Gone(Exception):
    """Raised where the other side has ended."""


class Line:
    """One end of the stream between the two."""

    __slots__ = ("_data", "_descriptors", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._data = bytearray()
        self._descriptors: list[int] = []

    def send(self, order: Order, *items: Any, descriptors: list[int] | None = None) -> None:
        """Send a message, whole. Raises Gone."""
        body = marshal.dumps((int(order), *items))
        frame = _HEAD.pack(len(body), len(descriptors or ())) + body
        try:
            sent = socket.send_fds(self.sock, [frame], descriptors) if descriptors else self.sock.send(frame)
            if sent < len(frame):
                self.sock.sendall(memoryview(frame)[sent:])
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self) -> list[tuple[tuple[Any, ...], list[int] | None]]:
        """Read what there is, or wait for something; return whole messages, each with its descriptors.

        None for those: this process had no room for all of them, and holds none. Raises Gone.
        """
        try:
            # Not socket.recv_fds: it does not pass on its flags.
            data, ancillary, _, _ = self.sock.recvmsg(_READ_SIZE, _ANCILLARY, _CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise Gone(str(error)) from error
        if not data:
            raise Gone("it has hung up")
        self._data += data
        self._descriptors += _descriptors_in(ancillary)
        messages: list[tuple[tuple[Any, ...], list[int] | None]] = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> tuple[tuple[Any, ...], list[int] | None] | None:
        if len(self._data) < _HEAD.size:
            return None
        length, count = _HEAD.unpack_from(self._data)
        end = _HEAD.size + length
        if len(self._data) < end:
            return None
        message: tuple[Any, ...] = marshal.loads(memoryview(self._data)[_HEAD.size : end])
        del self._data[:end]
        if not count:
            return message, []
        # An order with descriptors is answered before the next is sent: all that came are this one's.
        found, self._descriptors = self._descriptors, []
        if len(found) == count:
            return message, found
        for descriptor in found:
            os.close(descriptor)
        return message, None


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    if not _CLOEXEC:  # macOS
        for descriptor in found:
            os.set_inheritable(descriptor, False)
    return list(found)
