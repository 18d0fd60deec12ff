"""Checks of this machine and of the application that was loaded here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pq_core.doctor.finding import Finding, ok, problem, warning

CGROUP = Path("/sys/fs/cgroup")


def threads() -> Iterator[Finding]:
    """Look for threads that a worker's forks would leave behind; after the application was loaded."""
    from pq_core.worker.host import other_threads

    found = other_threads()
    if found:
        yield warning(
            "threads",
            f"loading the application started threads: {', '.join(found)}",
            "start them in the child, by a plugin's pq_in_child: children don't have them, but may have their locks",
        )
    else:
        yield ok("threads", "no thread runs besides the main one")


def sockets() -> Iterator[Finding]:
    """Look for connections that loading the application left open."""
    from pq_core.worker.host import foreign_sockets

    found = foreign_sockets()
    if found:
        yield warning(
            "sockets",
            f"loading the application left {len(found)} connection(s) open",
            "connect inside of tasks: a child can't use a connection of its parent",
        )
    else:
        yield ok("sockets", "no connection is open at the fork")


def memory(cgroup: Path = CGROUP) -> Iterator[Finding]:
    """Look at what the kernel does to a container in which one process is out of memory."""
    if kills_whole_container(cgroup):
        yield warning(
            "memory",
            "out of memory, the kernel ends this container as a whole (memory.oom.group is 1)",
            "give tasks a memory_limit, or the worker --memory-limit auto; kubelet: singleProcessOOMKill: true",
        )
    else:
        yield ok("memory", "out of memory, the kernel ends single processes")


def kills_whole_container(cgroup: Path = CGROUP) -> bool:
    """Tell whether the kernel would kill everything in this cgroup for one process that is out of memory."""
    try:
        return cgroup.joinpath("memory.oom.group").read_text().strip() == "1"
    except OSError:
        return False


def clock(database_time: float, *, before: float, after: float, most: float = 2.0) -> Iterator[Finding]:
    """Compare clocks. ``before``, ``after``: this machine's time around the question. ``most``: seconds apart."""
    apart = max(before - database_time, database_time - after, 0.0)
    if apart > most:
        yield warning(
            "clock",
            f"this machine's clock and the database's are {apart:.1f} s apart",
            "run an NTP client on both: pq itself goes by the database's clock, but run_at, logs and signatures don't",
        )
    else:
        yield ok("clock", "this machine's clock agrees with the database's")


def server_version(number: int, *, standby: bool = False) -> Iterator[Finding]:
    """Check the server's version (``server_version_num``), and that it takes writes."""
    if number < 150000:
        yield problem("server", f"Postgres {number // 10000} is too old", "upgrade to Postgres 15 or newer")
    elif standby:
        yield problem("server", "this server is a standby: it takes no writes", "point the DSN to the primary")
    else:
        yield ok("server", f"Postgres {number // 10000}.{number % 10000}")
