from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal
from pq_core.worker.keeper import Keeper

status = Keeper(lambda page, known_dead: 0, processes=1, children=1, log=print).run()
assert signal.set_wakeup_fd(-1) == -1
raise SystemExit(status)
"""


def test_keeper_leaves_no_descriptor_open() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
