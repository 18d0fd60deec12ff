"""The memory that every child starts from: made small and left alone, since a fork copies its page tables."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def settle() -> None:
    """Collect what the start left behind, give it back to the system, and keep the collector off the rest.

    Frozen objects are not looked at again: a collection in a child would otherwise write to every page it shares.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
