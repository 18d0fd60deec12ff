from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

from pq_core.worker import keeper
from pq_core.worker.keeper import Page

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


def test_what_is_read_of_a_page_is_what_was_written_at_one_time() -> None:
    states = [(7, 1e9, [11, 12, 13]), (0, 0.0, []), (8, 2e9, [21])]
    page = Page(children=4)
    page.write(*states[0])
    writer = os.fork()
    if writer == 0:
        while True:
            for state in states:
                page.write(*state)
    try:
        until = time.monotonic() + 0.5
        found = []
        while time.monotonic() < until:
            found.append(page.read())
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert [one for one in found if one not in states] == []
    assert len({one[0] for one in found}) == 3, "it was written to all the time"


def test_write_that_was_never_finished_leaves_what_stood_there_before() -> None:
    page = Page(children=4)
    page.write(7, 1e9, [11, 12])
    written = page.written
    assert page.read() == (7, 1e9, [11, 12])
    page._map[8:16] = bytes(8)  # the end of the lease
    assert (page.read(), page.written) == ((7, 1e9, [11, 12]), written)
    page.write(0, 0.0, [])
    assert page.read() == (0, 0.0, [])
    assert Page(children=1).read() == (0, 0.0, [])


def test_group_of_a_child_that_has_ended_already_is_ended_before_its_number_is_given_back() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        grandchild = os.fork()
        if grandchild == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.close(reader)  # the other end stays open for as long as it lives
            time.sleep(60)
        os._exit(0)
    os.close(writer)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    assert keeper._end_adopted(child)

    assert select.select([reader], [], [], 20)[0], "the grandchild is gone, which would sleep for a minute"
    os.close(reader)


def test_successor_reads_whom_nothing_is_held_against() -> None:
    page = Page(children=2)
    assert page.acquitted == 0
    page.write(7, 1e9, list(range(11, 23)))  # as many as it holds
    page.acquit(7)
    page.write(0, 0.0, [])  # as the keeper does before it starts the next one
    assert (page.acquitted, page.read()) == (7, (0, 0.0, []))
