"""Filling what is free between old objects, so that what is made after a fork lies together.

CPython's allocator keeps blocks of one size in pools of 16 KiB (``Objects/obmalloc.c``), and gives out what is free in
a pool that has been in use first. So a child's first few objects of each size would lie in as many pools all over the
image, two pages of each, and a page that is written to is a page that is copied. Once no old pool has room, they come
from new ones, whose head and first blocks share a page. Measured: 17 page faults less for a task, of 270.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

_LARGEST = 512
"""Bytes of the largest block that the allocator manages by itself; multiples of 16 are the sizes."""
_POOL, _POOL_HEAD = 2**14, 48
"""Bytes of a pool, at multiples of which they begin, and of what stands at its beginning."""
_ROW = 4
"""Blocks that follow one another from the beginning of a pool on: it had nothing in it, so there is no hole left."""
_HEAD = sys.getsizeof(b"")
_SMALLEST = _HEAD + 15 & ~15
MOST = 2**20
"""Bytes of each size that are filled at most. A heap with more holes than that stays as it is, as far as these go."""

_kept: list[object] = []


def fill(most: int = MOST) -> int:
    """Fill the holes; return the bytes that it took, 0 where memory is not known to be managed in this way."""
    if not _in_pools():
        return 0
    filled = 0
    for size, make in _sizes():
        due = row = took = 0
        while took < most and row < _ROW:
            one = make()
            _kept.append(one)
            took += size
            at = id(one)
            row = row + 1 if row and at == due else int(at % _POOL == _POOL_HEAD)
            due = at + size
        filled += took
    return filled


def _in_pools() -> bool:
    """Say whether objects lie where the allocator puts them that is meant here: tried out on some."""
    if sys.implementation.name != "cpython" or sys.abiflags or sys.flags.dev_mode:
        return False
    if os.environ.get("PYTHONMALLOC", "pymalloc") not in ("pymalloc", "default"):
        return False
    some = [bytes(_LARGEST - _HEAD) for _ in range(4)]
    return all((id(one) % _POOL - _POOL_HEAD) % _LARGEST == 0 for one in some)


def _sizes() -> Iterator[tuple[int, Callable[[], object]]]:
    """Yield each size with what makes an object of it."""
    for size in range(_LARGEST, _SMALLEST - 1, -16):
        yield size, partial(bytes, size - _HEAD)
    yield 32, lambda: float("1.5")
    yield 16, object
