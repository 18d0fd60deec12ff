"""Memory moved into parts of huge pages: what may be, what must stay, and that nothing in it changes."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pq_core.worker import packing
from pq_core.worker.packing import HUGE_PAGE, LEAST, PAGE, huge_ranges, movable, rests

ROOT = Path(__file__).parents[2]

SMAPS = """\
55d000000000-55d000200000 rw-p 00000000 00:00 0                          [heap]
Size:               2048 kB
Rss:                2048 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd hg
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me {flag} ac sd
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
ProtectionKey:         1
VmFlags: rd wr mr mw me ac sd
7f0000600000-7f0000700000 r--p 00000000 00:00 0
VmFlags: rd mr mw me ac sd
7f0000800000-7f0000900000 rw-s 00000000 00:01 7                          /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms sd
7f0000a00000-7f0000b00000 rw-p 00012000 fe:00 4711                       /usr/lib/libc.so.6
VmFlags: rd wr mr mw me ac sd
7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac
"""


@pytest.mark.parametrize("flag", ["dc", "wf", "lo", "um", "nh", "mg", "nr", "io", "of-tomorrow"])
def test_only_ordinary_memory_of_the_program_itself_is_moved(flag: str) -> None:
    smaps = SMAPS.format(flag=flag).splitlines(keepends=True)
    heap, arena = (0x55D000000000, 0x55D000200000), (0x7F0000000000, 0x7F0000100000)
    assert list(movable(smaps, but=0)) == [heap, arena]
    assert list(movable(smaps, but=arena[0])) == [heap]
    assert list(movable(smaps, but=arena[1] - 1)) == [heap]
    assert list(movable(smaps, but=arena[1])) == [heap, arena]


def test_what_is_left_beside_huge_pages() -> None:
    low, high = 3 * HUGE_PAGE - 2 * LEAST, 6 * HUGE_PAGE + LEAST
    assert list(huge_ranges([(low, high)])) == [3 * HUGE_PAGE, 4 * HUGE_PAGE, 5 * HUGE_PAGE]
    assert list(huge_ranges([(low, 4 * HUGE_PAGE - PAGE), (0, HUGE_PAGE)])) == [0]
    assert list(rests([(low, high)], [3 * HUGE_PAGE, 5 * HUGE_PAGE])) == [
        (low, 3 * HUGE_PAGE),
        (4 * HUGE_PAGE, 5 * HUGE_PAGE),
        (6 * HUGE_PAGE, high),
    ]
    assert list(rests([(low, 3 * HUGE_PAGE + LEAST - PAGE)], [])) == [(low, 3 * HUGE_PAGE)], "too small to be worth it"
    assert list(rests([(0, HUGE_PAGE)], [0])) == []


def _system_packs() -> bool:
    """Say whether this machine has what it takes, asked without the code that is tested."""
    if not sys.platform.startswith("linux"):
        return False
    libc, system = ctypes.CDLL(None), os.uname()
    memory = mmap.mmap(-1, 2 * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * (2 * HUGE_PAGE)
    view = ctypes.c_char.from_buffer(memory)
    low = -(-ctypes.addressof(view) // HUGE_PAGE) * HUGE_PAGE
    page, size = ctypes.c_void_p(low), ctypes.c_size_t(HUGE_PAGE)
    libc.madvise(page, size, packing.MADV_HUGEPAGE)
    collapsed = libc.madvise(page, size, packing.MADV_COLLAPSE) == 0
    del view
    memory.close()
    release = tuple(int(part) for part in system.release.split("-")[0].split(".")[:2])
    return collapsed and system.machine == "x86_64" and release >= packing.SINCE and hasattr(libc, "makecontext")


PROGRAM = """
import ctypes, gc, hashlib, json, os, sys, threading
from pq_core.worker import image, packing

small = [{"number": i, "text": str(i) * 5, "list": [i, i + 0.5]} for i in range(20000)]
large = [bytes([i % 256]) * 70000 for i in range(50)]
kept = ctypes.CDLL(None)
kept.mmap.restype = ctypes.c_void_p
wiped = kept.mmap(None, ctypes.c_size_t(packing.LEAST), 3, 0x22, -1, ctypes.c_long(0))
ctypes.memset(wiped, 1, packing.LEAST)
assert kept.madvise(ctypes.c_void_p(wiped), ctypes.c_size_t(packing.LEAST), 18) == 0  # MADV_WIPEONFORK

def digest():
    return hashlib.sha256(json.dumps(small).encode() + b"".join(large)).hexdigest()

def neighbours(low, high):
    # The part of the pages from low to high that follow each other in physical memory; None: not to be seen.
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(low // packing.PAGE * 8)
        entries = pagemap.read((high - low) // packing.PAGE * 8)
    frames = [int.from_bytes(entries[at:at + 7], "little") & (2**55 - 1) for at in range(0, len(entries), 8)]
    if not any(frames):
        return None
    return sum(after == one + 1 for one, after in zip(frames, frames[1:])) / len(frames)

def guarded():
    # Memory that is not to be read, and of which smaps says nothing (Linux >= 6.13; older ones refuse the advice).
    low = kept.mmap(None, ctypes.c_size_t(packing.LEAST), 3, 0x22, -1, ctypes.c_long(0))
    ctypes.memset(low, 1, packing.LEAST)
    kept.madvise(ctypes.c_void_p(low + packing.PAGE), ctypes.c_size_t(packing.PAGE), 102)
    return low

before = digest()
moved = []
real = image.pack

def pack(find):
    ranges = [one for one in find() if packing.used(ctypes.CDLL(None), *one)]
    moved.append((ranges, real(lambda: ranges)))

image.pack = pack
image.collapse()
((ranges, done),) = moved
print(sum(high - low for low, high in ranges), done)
if done:
    found = [neighbours(low, high) for low, high in ranges]
    assert None in found or min(found) > 0.8, found
assert digest() == before

if not os.fork():  # what a child writes is its own, what it reads is what was there
    assert digest() == before
    assert ctypes.string_at(wiped, 4) == bytes(4), "what is wiped in children still is"
    small[0]["text"] = "of the child"
    os._exit(0)
assert os.wait()[1] == 0
assert digest() == before

for _ in range(3):  # the allocators work on in that memory, grow it and give it back
    more = [bytearray(5000) for _ in range(2000)] + [object() for _ in range(200000)]
    large = [one + b"y" for one in large]
    del more
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
import decimal, email.message, unittest.mock  # and more of them is loaded
assert [one["number"] for one in small] == list(range(20000))

def new():
    low = kept.mmap(None, ctypes.c_size_t(packing.LEAST), 3, 0x22, -1, ctypes.c_long(0))
    ctypes.memset(low, 1, packing.LEAST)
    return low, low + packing.LEAST

guard = guarded()
one = new()
gone = new()
kept.munmap(ctypes.c_void_p(gone[0]), ctypes.c_size_t(packing.LEAST))
pieces = [(guard, guard + packing.LEAST), one]
print(packing.pack(lambda: [one]), packing.pack(lambda: [gone]))
packing.pack(lambda: pieces)
assert ctypes.string_at(one[0], packing.LEAST) == bytes([1]) * packing.LEAST

over = threading.Event()
other = threading.Thread(target=over.wait)
other.start()
print(packing.pack(lambda: [one]))  # under the hands of another
over.set()
other.join()
"""


def test_image_is_what_it_was_when_it_has_been_moved() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    asked, moved, one, gone, shared = (int(word) for word in done.stdout.split())
    assert asked > 0
    assert (gone, shared) == (0, 0)
    if _system_packs():
        assert (moved, one) == (asked, LEAST)
    else:
        assert (moved, one) == (0, 0)
