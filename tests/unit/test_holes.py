"""After the holes are filled, new objects come from memory of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import gc, os, sys
from pq_core.worker import holes

# Every second of many objects of many sizes is given back: memory full of holes.
many = [[bytes(size) for _ in range(2000)] for size in range(15, 470, 16)]
for one in many:
    del one[::2]
pools = {id(each) >> 14 for one in many for each in one}
gc.collect()
before = len({id(bytes(size)) >> 14 for size in range(15, 470, 16)} & pools)
took = holes.fill()
new = [bytes(size) for size in range(15, 470, 16)]
after = len({id(one) >> 14 for one in new} & pools)
print(took, before, after, holes.fill(most=0))
"""


def run(**environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


def test_new_objects_lie_in_pools_of_their_own() -> None:
    took, before, after, nothing = run()
    assert took > 2**20
    assert after < 5 < before
    assert nothing == 0


def test_another_allocator_is_left_alone() -> None:
    assert run(PYTHONMALLOC="malloc")[0] == 0
