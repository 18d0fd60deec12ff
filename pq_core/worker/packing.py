"""Memory whose addresses let it be in no huge page, moved into parts of huge pages all the same.

A huge page is mapped as one only at a multiple of its size. Arenas of the interpreter are 1 MiB each, with libraries
between them, so of the heap of a small application hardly anything can be mapped so, and of a larger one a good part
can't. But small pages that are neighbours in one huge page are cheaper to fork, too: Linux ≥ 6.9 goes through them in
runs. Measured with the 12 MB of a small application, eight tasks at once: CPU time of a task 0.81 to 0.89.

Between the copying and the moving nobody may write to that memory, and everything that Python does writes there. So
both are one call to the C library: contexts (makecontext(3)), of which the first copies, the second moves and the third
looks what came of it, each followed by the next, and the last one by the caller.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from pq_core.worker.bare_fork import alone
from pq_core.worker.guards import status_bytes

logger = logging.getLogger("pq.worker")

HUGE_PAGE = 2 * 2**20
"""Bytes of a huge page on the machines that have the advice for it (x86-64, and arm64 with pages of 4 KiB)."""
MADV_HUGEPAGE = 14
MADV_POPULATE_READ = 22
MADV_COLLAPSE = 25
MOSTLY = 0.5
"""Part of a range that must be in use already: the rest of it is memory that was not needed before."""

PAGE = 4096
LEAST = 16 * PAGE
"""Bytes of the smallest piece that is moved: each becomes a mapping of its own, which costs as much as a few pages."""
SINCE = (6, 9)
"""The Linux that forks runs of neighbours at once; an older one goes page by page."""

_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_HARMLESS = frozenset(["rd", "wr", "mr", "mw", "me", "ac", "sd", "hg"])
"""What may be set of a mapping (proc_pid_smaps(5), VmFlags): new memory in its place has it, or needs none of it. One
that a fork leaves out or wipes, one that is locked or watched, must stay what it is."""
_CALLS = 3
_CONTEXT_SIZE = 8192
"""Bytes set apart for each ``ucontext_t``, which has less than a thousand (glibc, x86-64)."""
_STACK_SIZE = 64 * 1024
_STACKS = (_CALLS + 1) * _CONTEXT_SIZE
_VECTOR = _STACKS + _CALLS * _STACK_SIZE
_UNSEEN = 0x7E
"""What mincore(2) says of no page."""


def huge_ranges(heap: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Yield the start of each whole huge page in ``heap``, as from, to."""
    for low, high in heap:
        yield from range(-(-low // HUGE_PAGE) * HUGE_PAGE, high - HUGE_PAGE + 1, HUGE_PAGE)


def rests(heap: Iterable[tuple[int, int]], huge: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield from, to of what is left of ``heap`` without the huge pages that begin at ``huge``, 2 MiB at most each."""
    taken = frozenset(huge)
    for low, high in heap:
        while low < high:
            end = min(high, (low // HUGE_PAGE + 1) * HUGE_PAGE)
            if low not in taken and end - low >= LEAST:
                yield low, end
            low = end


def movable(smaps: Iterable[str], *, but: int) -> Iterator[tuple[int, int]]:
    """Yield from, to of the private memory in ``/proc/PID/smaps`` that nobody but the program writes to.

    ``but``: an address; what holds it is left out.
    """
    span: tuple[int, int] | None = None
    for line in smaps:
        if line[0] in _ADDRESS:
            key, access, _, _, inode, *name = line.split(None, 5)
            low, high = (int(one, 16) for one in key.split("-"))
            span = (low, high) if anonymous(access, inode, name) and not low <= but < high else None
        elif span is None:
            continue
        elif line.startswith("ProtectionKey:") and line.split()[1] != "0":
            span = None
        elif line.startswith("VmFlags:"):
            if _HARMLESS.issuperset(line.split()[1:]):
                yield span
            span = None


_ADDRESS = frozenset("0123456789abcdef")
"""What a mapping's first line begins with; the others begin with a capital letter."""


def anonymous(access: str, inode: str, name: list[str]) -> bool:
    """Say of a mapping in ``/proc/PID/maps`` whether it is private, writable memory of no file, and no stack."""
    named = name[0].strip() if name else ""
    return access.startswith("rw-p") and inode == "0" and (named in ("", "[heap]") or named.startswith("[anon:"))


def used(libc: ctypes.CDLL, low: int, high: int) -> bool:
    """Say whether most of the pages from ``low`` to ``high`` are in memory."""
    resident = (ctypes.c_ubyte * ((high - low) // PAGE))()
    if libc.mincore(ctypes.c_void_p(low), ctypes.c_size_t(high - low), resident) != 0:
        return False
    return bytes(resident).count(0) <= len(resident) * (1 - MOSTLY)


def pack(find: Callable[[], Iterable[tuple[int, int]]]) -> int:
    """Move the memory that ``find`` returns, as from, to, into parts of huge pages; return how many bytes were moved.

    ``find`` is asked when all is there that this takes itself. Nothing happens where it can't be done, or nothing is
    known of it: elsewhere than on Linux ≥ 6.9 on x86-64 with glibc, with other threads, or where pages are locked or
    pinned, as they are for devices. The addresses stay what they are.
    """
    if not _possible():
        return 0
    mover = None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
    try:
        mover = _Mover(ctypes.PyDLL(None))
        for low, high in list(find()):
            if used(mover.libc, low, high) and not mover.take(low, high):
                break
    except (OSError, ValueError, MemoryError, AttributeError) as error:  # the last: another C library than glibc
        logger.info("not all of the image is in huge pages: %s", error)
    finally:
        if mover is not None:
            mover.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0 if mover is None else mover.moved


_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}


def _possible() -> bool:
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32 or mmap.PAGESIZE != PAGE:
        return False
    system = os.uname()
    release = tuple(int("".join(takewhile(str.isdigit, part)) or 0) for part in system.release.split(".")[:2])
    return system.machine == "x86_64" and release >= SINCE and alone() and not _pinned()


def _pinned() -> bool:
    """Say whether a device may write to pages of this process (RDMA, io_uring, VFIO): it would go on with those."""
    return any(status_bytes(field) != 0 for field in ("VmPin", "VmLck"))


class _Head(ctypes.Structure):
    """The beginning of ``ucontext_t`` (glibc, x86-64)."""

    _fields_ = (
        ("flags", ctypes.c_ulong),
        ("link", ctypes.c_void_p),
        ("stack", ctypes.c_void_p),
        ("stack_flags", ctypes.c_int),
        ("stack_size", ctypes.c_size_t),
    )


@dataclass(slots=True)
class _Mover:
    """Fills one huge page after the other. Raises AttributeError where the C library has no contexts."""

    libc: ctypes.PyDLL
    moved: int = 0
    _page: int = 0
    _left: int = 0
    _room: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, _VECTOR + HUGE_PAGE // PAGE))
    _at: int = field(init=False)
    _view: Any = field(init=False)
    _memcpy: Any = field(init=False)
    _mremap: Any = field(init=False)
    _mincore: Any = field(init=False)

    def __post_init__(self) -> None:
        libc = self.libc
        libc.mmap.restype = ctypes.c_void_p
        for name in ("getcontext", "makecontext", "swapcontext", "munmap", "madvise"):
            getattr(libc, name)
        self._memcpy, self._mremap, self._mincore = (
            ctypes.cast(function, ctypes.c_void_p) for function in (libc.memcpy, libc.mremap, libc.mincore)
        )
        self._view = ctypes.c_char.from_buffer(self._room)
        self._at = ctypes.addressof(self._view)

    def take(self, low: int, high: int) -> bool:
        """Move what can be of what is from ``low`` to ``high``; False when no more huge pages are to be had."""
        while low < high:
            if not self._left and not self._next_page():
                return False
            if low < self._page + HUGE_PAGE and self._page < high:
                return True  # it has been given back since, and this page has come to lie there
            size = min(high - low, self._left)
            start = self._page + HUGE_PAGE - self._left
            self._left -= size  # whatever happens: when it has been moved, something else may come to lie there
            if self._move(start, low, size):
                self.moved += size
            else:
                self._drop(start, start + size)
            low += size
        return True

    def _move(self, start: int, low: int, size: int) -> bool:
        """Copy ``size`` bytes from ``low`` to ``start``, and move these pages to where those were; False: as before."""
        first, then, length = ctypes.c_void_p(start), ctypes.c_void_p(low), ctypes.c_size_t(size)
        how, vector = ctypes.c_long(_MREMAP_MAYMOVE | _MREMAP_FIXED), self._at + _VECTOR
        ctypes.memset(vector, _UNSEEN, size // PAGE)
        # What mremap says is lost, so the pages are looked at where they came from: nothing is to be there. In the same
        # breath, for the next arena may come to lie there.
        run = self._in_a_row(
            (self._memcpy, first, then, length),
            (self._mremap, first, length, length, how, then),
            (self._mincore, first, length, ctypes.c_void_p(vector)),
        )
        # Some memory is not to be read, without a word in smaps (MADV_GUARD_INSTALL); or it has been given back since.
        if self.libc.madvise(then, length, MADV_POPULATE_READ) != 0:
            return False
        self.libc.swapcontext(*run)
        return ctypes.string_at(vector, size // PAGE).count(_UNSEEN) == size // PAGE

    def _in_a_row(self, *calls: tuple[Any, ...]) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
        """Return contexts which, swapped, call functions of the C library without anything in between, and return."""
        contexts = [ctypes.c_void_p(self._at + number * _CONTEXT_SIZE) for number in range(len(calls) + 1)]
        stack = self._at + _STACKS
        for number, (function, *args) in enumerate(calls, 1):
            context = contexts[number]
            self.libc.getcontext(context)
            head = _Head.from_address(context.value or 0)
            head.link = contexts[(number + 1) % len(contexts)].value
            head.stack = stack
            head.stack_size = _STACK_SIZE
            stack += _STACK_SIZE
            self.libc.makecontext(context, function, ctypes.c_int(len(args)), *args)
        return contexts[0], contexts[1]

    def _next_page(self) -> bool:
        """Get another huge page."""
        nowhere, length, none = ctypes.c_void_p(None), ctypes.c_size_t(2 * HUGE_PAGE), ctypes.c_long(-1)
        access = ctypes.c_int(mmap.PROT_READ | mmap.PROT_WRITE)
        kind = ctypes.c_int(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        low = self.libc.mmap(nowhere, length, access, kind, none, ctypes.c_long(0))
        if low in (None, 2**64 - 1):
            return False
        self._page = -(-low // HUGE_PAGE) * HUGE_PAGE
        self._left = HUGE_PAGE
        self._drop(low, self._page)
        self._drop(self._page + HUGE_PAGE, low + 2 * HUGE_PAGE)
        page, size = ctypes.c_void_p(self._page), ctypes.c_size_t(HUGE_PAGE)
        self.libc.madvise(page, size, MADV_HUGEPAGE)
        ctypes.memset(self._page, 0, 1)  # there has to be something to collapse
        return bool(self.libc.madvise(page, size, MADV_COLLAPSE) == 0)

    def _drop(self, low: int, high: int) -> None:
        if high > low:
            self.libc.munmap(ctypes.c_void_p(low), ctypes.c_size_t(high - low))

    def close(self) -> None:
        """Give back what is left of the last huge page."""
        if self._left:
            self._drop(self._page + HUGE_PAGE - self._left, self._page + HUGE_PAGE)
        self._left = 0
        self._view = None
        self._room.close()
