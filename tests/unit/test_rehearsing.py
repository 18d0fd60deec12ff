"""What a worker runs before it forks, so that its children need not be the first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import dis, json, os, sys
from pq_core.attempt import current_attempt
from pq_core.errors import NoCurrentAttempt
from pq_core.worker import child, last_words, rehearsing, wire

path = (child.run_guarded, child._run, child._call, last_words.success, wire.pack_done)
first = dis.opmap["RESUME"]

def used():
    code = [one.__code__._co_code_adaptive for one in path]
    return sum(first not in one[:8:2] for one in code)

before, descriptors = used(), sorted(os.listdir("/proc/self/fd"))
rehearsing.rehearse()
try:
    current_attempt()
    left = "an attempt"
except NoCurrentAttempt:
    left = None
same = sorted(os.listdir("/proc/self/fd")) == descriptors
print(json.dumps([before, used(), len(path), left, same]))
"""


def test_a_rehearsal_leaves_used_code_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after, functions, left, same = json.loads(done.stdout)
    assert (left, same) == (None, True)
    assert before < after == functions
