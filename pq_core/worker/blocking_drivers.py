"""Stops what a driver waits for in C code, where the interpreter runs no signal handler before the server answers.

psycopg2 waits in libpq for as long as a statement takes. A child that has loaded it has one more thread, which learns
of the signal through the wake-up descriptor, which C code writes at once, and cancels the statement; then the handler
runs. Children without such a driver have no such thread. Imports the standard library and leaves alone: see child.py.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from pq_core.worker.shared import high_descriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pq_core.worker.stopping import Stopper

_ALL = frozenset(int(one) for one in signal.valid_signals())

DRIVERS = ("psycopg2",)
LOOK = 1.0
"""Seconds between two looks at the worker's note, for a task that has taken the wake-up descriptor for itself."""


class Finder:
    """Finds no module; learns when a driver that blocks is about to be imported, by whatever code of a task."""

    def __init__(self, latest: list[Stopper | None]) -> None:
        self._latest = latest
        self._watching = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Watch from now on over the task of this process, if there is one."""
        stopper = self._latest[0]
        if name in DRIVERS and stopper is not None and not self._watching:
            self._watching = True
            watch(stopper)


def watch_imports(latest: list[Stopper | None]) -> None:
    """Have children watch over drivers that they load later. ``latest``: what takes SIGTERM in a process."""
    sys.meta_path.insert(0, Finder(latest))


def any_loaded() -> bool:
    """Say whether such a driver is in the image."""
    return any(driver in sys.modules for driver in DRIVERS)


def watch(stopper: Stopper) -> None:
    """Start the thread. No signal is ever delivered to it."""
    woken, waker = os.pipe()
    try:
        # High ones, as for the stacks: a task that closes what it did not open must not get these numbers.
        woken_high, waker_high = high_descriptor(woken), high_descriptor(waker)
    finally:
        os.close(woken)
        os.close(waker)
    os.set_blocking(waker_high, False)
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        _thread.start_new_thread(_watch, (woken_high, stopper))
        signal.set_wakeup_fd(waker_high, warn_on_full_buffer=False)
    except RuntimeError:
        return  # no room for a thread: the statement goes on until the child is killed
    except ValueError:
        return  # the driver is imported in another thread than the main one: the worker's note is looked at
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(woken: int, stopper: Stopper) -> None:
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    while True:
        if stopper.is_told():
            from pq_core.worker import statements

            # Under the lock, is_told() says that the handler has not cancelled yet; and if it runs now, it waits for
            # this before it raises: nothing that the task begins then is hit.
            statements.cancel(drivers=DRIVERS, still=stopper.is_told, patience=stopper.patience())
        try:
            if poll.poll(LOOK * 1000):
                os.read(woken, 4096)
        except OSError:
            time.sleep(LOOK)  # closed by the task
