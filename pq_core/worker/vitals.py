"""Signs of life for whoever looks after this process: a health file for probes, sd_notify for systemd.

Imports as little as the keeper does, and loads nothing of the application.
"""

from __future__ import annotations

import json
import os
import socket
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

EVERY = 5.0
"""Seconds between two signs of life."""
STALE = 30.0
"""Seconds after which a sign of life counts as old, unless the probe says otherwise."""


class Vitals:
    """``health_file``: written anew with each sign; None for none. ``notifier``: systemd, if it asked."""

    def __init__(self, *, health_file: str | None, notifier: Notifier | None, log: Callable[[str], None]) -> None:
        self._file = health_file
        self._notifier = notifier
        self._log = log
        self._next = 0.0
        self._every = min(EVERY, notifier.watchdog / 3) if notifier is not None and notifier.watchdog else EVERY
        self._ready = False
        self._stopping = False
        self._complained = False
        self._last: tuple[int, bool] | None = None

    @property
    def wanted(self) -> bool:
        """True if anybody is told."""
        return self._file is not None or self._notifier is not None

    def ready(self) -> None:
        """Say once that all workers have started."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1", "STATUS=running")

    def stopping(self) -> None:
        """Say once that it is about to end."""
        if not self._stopping:
            self._stopping = True
            self._tell("STOPPING=1", "STATUS=draining")

    def sign(self, *, workers: int, now: float | None = None) -> None:
        """Give a sign of life if it is time, or if something has changed. ``workers``: how many hold a lease."""
        now = monotonic() if now is None else now
        state = (workers, self._stopping)
        if now < self._next and state == self._last:
            return
        self._next = now + self._every
        self._last = state
        self._tell("WATCHDOG=1")
        if self._file is not None:
            try:
                write(
                    self._file,
                    {"monotonic": now, "pid": os.getpid(), "workers": workers, "stopping": int(self._stopping)},
                )
                self._complained = False
            except OSError as error:
                if not self._complained:
                    self._log(f"the health file can't be written: {error}")
                self._complained = True

    def _tell(self, *lines: str) -> None:
        if self._notifier is not None:
            self._notifier.say(*lines)


class Notifier:
    """The socket on which systemd listens. ``watchdog``: seconds within which it wants to hear something, 0: no."""

    def __init__(self, address: str, *, watchdog: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Notifier | None:
        """Return what ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` ask for, and take them out: children shall not answer."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        meant_for = environment.pop("WATCHDOG_PID", "")
        if address[:1] not in ("/", "@"):
            return None
        ours = microseconds.isdigit() and meant_for in ("", str(os.getpid()))
        return cls(address, watchdog=int(microseconds) / 1e6 if ours else 0.0)

    def say(self, *lines: str) -> bool:
        """Send one message; False if nobody takes it, which is no reason to stop working."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return False
        return True


def write(path: str, sign: dict[str, float | int]) -> None:
    """Replace the health file: a reader sees the old one or the new one, whole."""
    beside = f"{path}.{os.getpid()}.new"
    with open(beside, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be the keeper's largest import
        file.write(json.dumps(sign) + "\n")
    os.replace(beside, path)  # noqa: PTH105


class Sign:
    """The last sign of life in a health file.

    ``age``: in seconds, None where there is none. ``workers``: how many held a lease. ``words``: on all of it.
    """

    def __init__(self, age: float | None, words: str, *, workers: int = 0, stopping: bool = False) -> None:
        self.age = age
        self.words = words
        self.workers = workers
        self.stopping = stopping


def read(path: str) -> Sign:
    """Return what a health file says.

    By the clock that all processes of a machine share and nobody can set; a sign of before a reboot is none.
    """
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            sign = json.loads(file.read())
        found = monotonic() - float(sign["monotonic"])
        workers, pid = int(sign["workers"]), int(sign["pid"])
        stopping = bool(sign.get("stopping", 0))
    except OSError as error:
        return Sign(None, f"{path}: {error.strerror}")
    except (ValueError, TypeError, KeyError, AttributeError):
        return Sign(None, f"{path} is no health file")
    if found < 0:
        return Sign(None, f"{path} is from before the machine's last start")
    words = f"last sign of life {found:.1f} s ago, of process {pid} with {workers} worker(s) at work"
    return Sign(found, words, workers=workers, stopping=stopping)
