"""Processes that outlive the task which started them: found and ended. Linux alone; elsewhere only groups are ended.

Imports the standard library and leaves alone: children use it, and the process that forks them.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from pq_core.worker.exiting import has_children

POLITE = 0.5
"""Seconds between SIGTERM and SIGKILL for what an attempt has left: browsers and encoders remove their files then."""
ROUNDS = 20
"""Looks for more of them before it is given up: a process that forks faster than it is killed."""
CLEANER = b"multiprocessing.resource_tracker"
"""In the command line of the process that removes shared memory and semaphores of others once these are gone. It ends
by itself then, and must not be killed before."""


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the process table."""

    pid: int
    parent: int
    group: int
    name: str
    dead: bool

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


def processes() -> list[Process]:
    """Return all that can be seen, dead ones that nobody has waited for included."""
    found = []
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - as below
    except OSError:
        return []
    for name in names:
        if name.isdigit() and (one := _read(int(name))) is not None:
            found.append(one)
    return found


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib is in no image
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None  # it ended meanwhile
    # The name stands in parentheses and may hold some itself.
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent, group, *_ = rest.split()
    return Process(pid, int(parent), int(group), name, state in ("Z", "X"))


def below(root: int, table: list[Process]) -> list[Process]:
    """Return the living descendants of ``root``."""
    children: dict[int, list[Process]] = {}
    for one in table:
        children.setdefault(one.parent, []).append(one)
    found, open_ = [], [root]
    while open_:
        for one in children.get(open_.pop(), ()):
            open_.append(one.pid)
            if not one.dead:
                found.append(one)
    return found


def is_cleaner(pid: int) -> bool:
    """Say whether it is a resource tracker of ``multiprocessing``."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            return CLEANER in file.read()
    except OSError:
        return False


def end_below(root: int) -> list[Process]:
    """End all descendants of this process, cleaners excepted, politely at first; return what there was.

    It adopts what they leave, so none gets away.
    """
    ended: dict[int, Process] = {}
    until = time.monotonic() + POLITE
    for _ in range(ROUNDS):
        left = [one for one in below(root, processes()) if one.pid not in ended and not is_cleaner(one.pid)]
        if not left:
            break
        ended |= {one.pid: one for one in left}
        for one in left:
            _send(one.pid, signal.SIGTERM)
        while left and time.monotonic() < until:
            time.sleep(0.01)
            _reap()
            left = [one for one in left if (now := _read(one.pid)) is not None and not now.dead]
        for one in left:
            _send(one.pid, signal.SIGKILL)
    return list(ended.values())


def kill_group(group: int) -> bool:
    """Kill a process group, its cleaners excepted: they end as soon as nobody is left to clean up after.

    False if it has no member that can be seen, dead or alive.
    """
    killed: set[int] = set()
    seen = False
    for _ in range(ROUNDS):
        members = [one for one in processes() if one.group == group]
        seen = seen or bool(members)
        members = [one for one in members if one.pid not in killed and not one.dead and not is_cleaner(one.pid)]
        if not members:
            return seen
        killed |= {one.pid for one in members}
        for one in members:
            _send(one.pid, signal.SIGKILL)
    _send(-group, signal.SIGKILL)
    return True


def orphans(known: set[int], table: list[Process]) -> list[Process]:
    """Return what was left to this process by tasks that are gone: its children but for those ``known``."""
    return [one for one in table if one.parent == os.getpid() and one.pid not in known and not one.dead]


def kill_orphans(known: set[int]) -> list[Process]:
    """Kill what was left to this process, with all below, cleaners excepted; return what there was."""
    ended: dict[int, Process] = {}
    for _ in range(ROUNDS):
        table = processes()
        found = orphans(known, table)
        left = {one.pid: one for root in found for one in (root, *below(root.pid, table))}
        new = [one for pid, one in left.items() if pid not in ended and not is_cleaner(pid)]
        if not new:
            break
        ended |= {one.pid: one for one in new}
        for one in new:
            _send(one.pid, signal.SIGKILL)
    return list(ended.values())


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # gone, or another user's by now


def _reap() -> None:
    """Give back what has ended below this process, where nobody else can wait for it any more."""
    while has_children():
        if os.waitpid(-1, os.WNOHANG)[0] == 0:
            return
