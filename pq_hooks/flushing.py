"""Flushing an SDK before its process ends, without waiting for a collector that does not answer."""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from collections.abc import Callable
from time import monotonic

PATIENCE = 3
"""Flushes one after another that did not end in time, before further ones get little time."""
PAUSE = 5.0
"""Seconds for which they get little."""
LITTLE = 0.05
"""Seconds that they get: enough for a collector that is back."""

_log = logging.getLogger("pq.plugins")
# What all processes know: flushes that did not end in time since the last that did, and until when they get little.
_STATE = struct.Struct("Qd")


class Flusher:
    """Runs a flush for at most ``limit`` seconds, whatever the SDK makes of its own timeouts.

    The flush runs in a daemon thread that is joined for so long; what is left of it ends with the process. That a
    collector does not answer is known to all processes forked after this object was made: while it is down, not every
    task has to wait for it. Several may note it at once; a miscount costs one flush.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        self._thread: threading.Thread | None = None
        self._pid = 0

    def __call__(self, flush: Callable[[], object]) -> bool:
        """Return whether the flush ended in time."""
        now = monotonic()
        failed, little_until = _STATE.unpack_from(self._shared)
        end = now + (min(LITTLE, self.limit) if now < little_until else self.limit)
        if self._pid != os.getpid():  # threads stay behind in a fork
            self._pid, self._thread = os.getpid(), None
        if self._thread is not None:
            # That of an earlier task in this process: one at a time, or they would pile up.
            self._thread.join(max(0.0, end - monotonic()))
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=_contained, args=(flush,), name="pq-flush", daemon=True)
            self._thread.start()
            self._thread.join(max(0.0, end - monotonic()))
        done = not self._thread.is_alive()
        if done:
            _STATE.pack_into(self._shared, 0, 0, 0.0)
        elif now >= little_until:
            failed += 1
            _STATE.pack_into(self._shared, 0, failed, monotonic() + PAUSE if failed >= PATIENCE else 0.0)
        return done


def _contained(flush: Callable[[], object]) -> None:
    try:
        flush()
    except Exception:
        _log.warning("what a task has reported can't be sent", exc_info=True)
