"""Signals as the loop gets them: their numbers, through a socket that its selector watches."""

from __future__ import annotations

import selectors
import socket


class Wakeup:
    """A pair of sockets: Python writes the number of each signal into one, the loop reads them from the other."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        selector.register(self._reader, selectors.EVENT_READ, self)

    @property
    def writer(self) -> int:
        """The descriptor for ``signal.set_wakeup_fd``."""
        return self._writer.fileno()

    @property
    def filenos(self) -> list[int]:
        """Both descriptors."""
        return [self._reader.fileno(), self._writer.fileno()]

    def numbers(self) -> bytes:
        """Return the signals that came since this was last asked, in order."""
        came = b""
        try:
            while more := self._reader.recv(4096):
                came += more
        except BlockingIOError:
            return came
        return came

    def close(self) -> None:
        """Give the descriptors back."""
        self._selector.unregister(self._reader)
        self._reader.close()
        self._writer.close()
