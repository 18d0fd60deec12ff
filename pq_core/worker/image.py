"""The memory that every child starts from: made small and left alone, since a fork copies its page tables."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import sys

from pq_core.worker.immortal import immortalize

MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25
HUGE_PAGE = 2 * 2**20
"""Bytes of a huge page on the machines that have this advice (x86-64, and arm64 with pages of 4 KiB)."""
MOSTLY = 0.5
"""Part of a huge page's range that must be in use already: the rest of it is memory that was not needed before."""


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


def collapse() -> int:
    """Put the heap into huge pages, as far as the kernel gives them; return how many there are now.

    A fork copies one entry for 2 MiB then instead of 512: of an image of 250 MB it took 3 ms instead of 17. Linux ≥ 6.1
    does it on request (madvise(2), MADV_COLLAPSE); elsewhere nothing happens. What a process writes after a fork breaks
    a page up again, so the one that forks had better not write much.
    """
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    done = 0
    try:
        ranges = _heap()
    except OSError:
        return 0
    for low, high in ranges:
        for start in range(low, high, HUGE_PAGE):
            if not _used(libc, start):
                continue
            address, length = ctypes.c_void_p(start), ctypes.c_size_t(HUGE_PAGE)
            libc.madvise(address, length, MADV_HUGEPAGE)
            if libc.madvise(address, length, MADV_COLLAPSE) == 0:
                done += 1
            elif ctypes.get_errno() == errno.EINVAL:  # an older kernel, or one without huge pages
                return done
    return done


def _used(libc: ctypes.CDLL, start: int) -> bool:
    resident = (ctypes.c_ubyte * (HUGE_PAGE // 4096))()
    if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(HUGE_PAGE), resident) != 0:
        return False
    return bytes(resident).count(0) <= len(resident) * (1 - MOSTLY)


def _heap() -> list[tuple[int, int]]:
    """Return the parts of private, anonymous, writable memory that whole huge pages fit into."""
    found = []
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 - read line by line
        for line in maps:
            span, access, _, _, inode, *name = line.split(None, 5)
            if access[:2] != "rw" or access[3] != "p" or inode != "0" or not _anonymous(name):
                continue
            low, high = (int(one, 16) for one in span.split("-"))
            low = -(-low // HUGE_PAGE) * HUGE_PAGE
            if high - low >= HUGE_PAGE:
                found.append((low, high // HUGE_PAGE * HUGE_PAGE))
    return found


def _anonymous(name: list[str]) -> bool:
    return not name or name[0].strip() in ("", "[heap]") or name[0].startswith("[anon:")
