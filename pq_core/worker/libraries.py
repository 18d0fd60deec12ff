"""Libraries that were mapped for the start: what a worker does not use of them needs no memory of its own."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterable, Iterator

logger = logging.getLogger("pq.worker")

MADV_DONTNEED = 4


def forget_pages() -> int:
    """Take the pages of programs and libraries out of this process; return how many bytes were mapped where.

    Loading a library touches most of it, running it little: a third of an idle worker's resident memory was that. What
    is used again comes back from the system's cache, or from the file. Linux only; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None)
    done = 0
    try:
        # A name may hold any byte but a newline.
        with open("/proc/self/smaps", errors="surrogateescape", newline="\n", encoding="utf-8") as smaps:  # noqa: PTH123
            spans = list(unwritten(smaps))
    except (OSError, ValueError, IndexError) as error:
        logger.info("the pages of libraries stay in memory: /proc/self/smaps: %s", error)
        return 0
    for low, high in spans:
        if libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), MADV_DONTNEED) == 0:
            done += high - low
    return done


def unwritten(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield from, to of the mappings in ``/proc/PID/smaps`` that are as in their files: of code and constants.

    Not those that were ever written to, though they may be read-only by now (relocations): that is in memory or in the
    swap space alone, and the advice would throw it away.
    """
    span: tuple[int, int] | None = None
    seen: set[str] = set()
    for line in smaps:
        if line[0] in _ADDRESS:
            if span is not None and seen == _WRITTEN:
                yield span
            key, *values = line.split(None, 5)
            span, seen = _library(key, values), set()
        elif span is not None and line.startswith(_FIRST):  # of thousands of lines a few hundred
            key, size = line.split(None, 2)[:2]
            if key in _WRITTEN and size == "0":
                seen.add(key)
    if span is not None and seen == _WRITTEN:
        yield span


_WRITTEN = {"Anonymous:", "Swap:", "Locked:", "Private_Hugetlb:", "Shared_Hugetlb:"}
"""What must be nothing, and be said to be nothing: what was written, and huge pages, which count as no other memory."""
_FIRST = tuple(_WRITTEN)
_ADDRESS = frozenset("0123456789abcdef")
"""What a mapping's first line begins with; the others begin with a capital letter (proc_pid_smaps(5))."""


def _library(span: str, values: list[str]) -> tuple[int, int] | None:
    access, name = values[0], values[4].strip() if len(values) > 4 else ""
    if "w" in access or not access.endswith("p") or not name.startswith("/"):
        return None
    if "x" not in access and ".so" not in name:
        return None  # a file that the application has mapped itself
    low, high = (int(one, 16) for one in span.split("-"))
    return low, high
