"""The memory that every child starts from: made small and left alone, since a fork copies its page tables."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import sys
from typing import TypeVar

from pq_core.worker.immortal import immortalize
from pq_core.worker.packing import (
    HUGE_PAGE,
    MADV_COLLAPSE,
    MADV_HUGEPAGE,
    anonymous,
    huge_ranges,
    movable,
    pack,
    rests,
    used,
)

T = TypeVar("T")


def settle(*own: object, immortal: bool = False) -> None:
    """Collect what the start left behind, give it back to the system, and keep the collector off the rest.

    Frozen objects are not looked at again: a collection in a child would otherwise write to every page it shares.
    ``immortal``: functions, classes and modules count their references no more, nor do ``own`` (see ``immortalize``).
    """
    gc.collect()
    if immortal:
        immortalize(*own)
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


def objects_of(kind: type[T]) -> list[T]:
    """Return all objects of a class and its subclasses that the collector knows, those of the image included."""
    hidden = gc.get_freeze_count() > 0
    gc.unfreeze()
    # Not isinstance(): that would ask proxies, and run what is behind them.
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
    if hidden:
        gc.freeze()
    return found


def collapse() -> int:
    """Put the heap into huge pages, as far as the kernel gives them; return how many there are now.

    A fork copies one entry for 2 MiB then instead of 512: of an image of 250 MB it took 3 ms instead of 17. Linux ≥ 6.1
    does it on request (madvise(2), MADV_COLLAPSE); elsewhere nothing happens. What a process writes after a fork breaks
    a page up again, so the one that forks had better not write much. What lies at no such address is packed (see
    ``packing``).
    """
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        heap = _heap()
    except OSError:
        return 0
    done: list[int] = []
    for start in huge_ranges(heap):
        if not used(libc, start, start + HUGE_PAGE):
            continue
        address, length = ctypes.c_void_p(start), ctypes.c_size_t(HUGE_PAGE)
        libc.madvise(address, length, MADV_HUGEPAGE)
        if libc.madvise(address, length, MADV_COLLAPSE) == 0:
            done.append(start)
        elif ctypes.get_errno() == errno.EINVAL:  # an older kernel, or one without huge pages
            return len(done)
    pack(lambda: rests(_movable(), done))
    return len(done)


def _heap() -> list[tuple[int, int]]:
    """Return the parts of private, anonymous, writable memory that whole huge pages fit into."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123 - line by line
        for line in maps:
            span, access, _, _, inode, *name = line.split(None, 5)
            if anonymous(access, inode, name):
                low, high = (int(one, 16) for one in span.split("-"))
                if high - low >= HUGE_PAGE:
                    found.append((low, high))
    return found


def _movable() -> list[tuple[int, int]]:
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_void_p
    # Near the thread's descriptor is what the kernel writes to, too (rseq(2)).
    with open("/proc/self/smaps", errors="surrogateescape", newline="\n", encoding="utf-8") as smaps:  # noqa: PTH123
        return list(movable(smaps, but=libc.pthread_self()))
