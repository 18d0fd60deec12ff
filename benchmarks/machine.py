"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg

import pq_core

SHOWN = ("shared_buffers", "fsync", "synchronous_commit", "max_wal_size", "autovacuum", "jit")
"""Settings of the server that change the figures."""


def describe_machine() -> dict[str, str]:
    """Return the processor, cores, memory and kernel, by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": f"{memory:.1f} GiB",
        "kernel": platform.release(),
        "huge pages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of Python, of ours and of the driver, by name."""
    found = {"python": platform.python_version(), "pq": pq_core.__version__}
    for name in ("psycopg", "psycopg-binary", "psycopg-c"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_server(dsn: str) -> dict[str, str]:
    """Return the version of Postgres and the settings that matter most, by name."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = {"postgres": str(connection.execute("SHOW server_version").fetchone()[0])}  # type: ignore[index]
        for name in SHOWN:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            found[name] = str(row[0]) if row else "?"
    return found


def memory_of(pid: int) -> dict[str, float]:
    """Return what the kernel says of a process's memory, in MiB: Rss, Pss, AnonHugePages, Private_Dirty."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss", "AnonHugePages", "Private_Dirty", "Shared_Dirty"):
            found[name] = int(rest.split()[0]) / 1024
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "?"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def _chosen(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError:
        return "?"
    return text.partition("[")[2].partition("]")[0] or text.strip()
