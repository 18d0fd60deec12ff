"""The memory that every child starts from: made small and left alone, since a fork copies its page tables."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import sys
from dataclasses import dataclass, field
from time import monotonic

from pq_core.worker.immortal import immortalize

MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25
HUGE_PAGE = 2 * 2**20
"""Bytes of a huge page on the machines that have this advice (x86-64, and arm64 with pages of 4 KiB)."""
MOSTLY = 0.5
"""Part of a huge page's range that must be in use already: the rest of it is memory that was not needed before."""
MEND_AFTER = 20
"""Forks after which an idle worker looks after its image again."""
STEP = 0.003
"""Seconds that an idle worker spends on its image in one turn."""


def settle(*, immortal: bool = False) -> None:
    """Collect what the start left behind, give it back to the system, and keep the collector off the rest.

    Frozen objects are not looked at again: a collection in a child would otherwise write to every page it shares.
    ``immortal``: functions, classes and modules count their references no more (see ``immortalize``).
    """
    gc.collect()
    if immortal:
        immortalize()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


@dataclass(slots=True)
class HugePages:
    """The heap in huge pages, as far as the kernel gives them: a fork copies one entry for 2 MiB instead of 512.

    Forking an image of 250 MB took 3 ms instead of 17. Linux ≥ 6.1 does it on request (madvise(2), MADV_COLLAPSE);
    elsewhere nothing happens. What this process writes after a fork breaks a page up again, so it is to be repeated
    when there is time and no child shares the memory.
    """

    enabled: bool = True
    mend_after: int = MEND_AFTER
    _libc: ctypes.CDLL | None = field(default=None, repr=False)
    _pending: list[int] = field(default_factory=list)
    _mended_at: int = 0

    def collapse(self) -> int:
        """Collapse what can be; return how many huge pages there are now."""
        self.plan()
        done = 0
        while self._pending:
            done += self._collapse(self._pending.pop())
        return done

    def unsettled(self, forks: int) -> bool:
        """Say whether there is something to mend after ``forks``, once no child shares the memory."""
        return self.enabled and (bool(self._pending) or forks - self._mended_at >= self.mend_after)

    def tend(self, *, forks: int, idle: bool) -> bool:
        """Mend a little of what ``forks`` broke up, only while ``idle``; True when there is more to do."""
        if not self.enabled or not idle:
            return False
        if forks - self._mended_at >= self.mend_after and not self._pending:
            self._mended_at = forks
            self.plan()
        return bool(self._pending) and self.step(monotonic() + STEP)

    def plan(self) -> None:
        """Note all ranges that are worth being one page."""
        if not sys.platform.startswith("linux"):
            self.enabled = False
        if not self.enabled:
            return
        if self._libc is None:
            self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._pending = [start for low, high in _heap() for start in range(low, high, HUGE_PAGE)]
        except OSError:
            self._pending = []

    def step(self, until: float) -> bool:
        """Work on the plan up to ``until`` (of the monotonic clock); True when there is more to do."""
        while self._pending and monotonic() < until:
            self._collapse(self._pending.pop())
        return bool(self._pending)

    def _collapse(self, start: int) -> bool:
        if self._libc is None or not self._used(start):
            return False
        address, length = ctypes.c_void_p(start), ctypes.c_size_t(HUGE_PAGE)
        self._libc.madvise(address, length, MADV_HUGEPAGE)
        if self._libc.madvise(address, length, MADV_COLLAPSE) == 0:
            return True
        if ctypes.get_errno() == errno.EINVAL:  # an older kernel, or one without huge pages
            self.enabled = False
            self._pending.clear()
        return False

    def _used(self, start: int) -> bool:
        assert self._libc is not None
        resident = (ctypes.c_ubyte * (HUGE_PAGE // 4096))()
        if self._libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(HUGE_PAGE), resident) != 0:
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
