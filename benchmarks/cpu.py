"""CPU time as the kernel has counted it, for a tree of processes, for Postgres, and for what nobody used."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psycopg

from benchmarks.worker import children_of

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of one unit of the kernel's counters."""


def postmaster_of(dsn: str) -> int | None:
    """Return the pid that the server's other processes are children of; None if it isn't on this machine."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid'), pg_backend_pid()").fetchone()
        assert row is not None
        pid, backend = int(row[0].split()[0]), row[1]
        return pid if backend in children_of(pid) else None


def tree_of(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(below for child in children_of(pid) for below in tree_of(child))]


def cpu_of(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes with their ended and awaited children, user and system."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(ticks) for ticks in fields[11:15])
    return total * TICK


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The counters at one time, in seconds. ``at``: of the monotonic clock. ``all``, ``idle``: of all cores."""

    at: float
    workers: float
    postgres: float
    all: float
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Cores in use on the average between two moments: 1.0 is one core."""

    workers: float
    postgres: float
    others: float
    idle: float


def look(workers: Iterable[int], postmaster: int | None) -> Moment:
    """Read the counters. ``workers``: the processes on top of those that work."""
    with Path("/proc/stat").open() as lines:
        ticks = [int(field) for field in lines.readline().split()[1:9]]
    return Moment(
        at=monotonic(),
        workers=cpu_of(pid for worker in workers for pid in tree_of(worker)),
        postgres=cpu_of(tree_of(postmaster)) if postmaster is not None else 0.0,
        all=sum(ticks) * TICK,
        idle=(ticks[3] + ticks[4]) * TICK,
    )


def between(before: Moment, after: Moment) -> Shares:
    """Return who used the cores between two moments."""
    seconds = after.at - before.at
    workers, postgres = after.workers - before.workers, after.postgres - before.postgres
    idle = after.idle - before.idle
    others = max(0.0, after.all - before.all - idle - workers - postgres)
    return Shares(workers=workers / seconds, postgres=postgres / seconds, others=others / seconds, idle=idle / seconds)
