"""Where the tests' own server keeps its files: in memory where there is plenty. What dead runs left is removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "pq-tests-"
SHARED = Path("/dev/shm")
PLENTY = 6 * 2**30
"""Bytes of memory that must be free before the tests' server keeps its files there; it took 0.4 GiB at most."""
_LOCK = "lock"


def choose() -> Path:
    """Return the folder for this run's own: the one that TMPDIR names, if it does; memory, if there is plenty of it.

    Each test has a database of its own, which is some 400 files: 0.3 s to copy on a slow disk, 0.02 s in memory.
    """
    if not os.environ.get("TMPDIR"):
        with contextlib.suppress(OSError):  # not Linux, or not given to us
            if free_memory() > PLENTY < shutil.disk_usage(SHARED).free and os.access(SHARED, os.W_OK):
                return SHARED
    return Path(tempfile.gettempdir())


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process and its children may take: of the machine, and of its control groups."""
    found = re.search(r"^MemAvailable: *(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    return min([int(found[1]) * 1024 if found else 0, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """Go through the groups that limit memory, from the innermost: version 2 of control groups, or 1."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container its own group may be mounted as the outermost.
        for place in (*(base / path.lstrip("/") / "-").parents, base):
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                limit, used = (int((place / name).read_text()) for name in names)
                yield limit - used
            if place == base:
                break


class Place:
    """A new folder in ``parent``, held by this process until it is removed, or this process and its forks are dead."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Postgres refuses to run as root: whoever it runs as then has to get at its data.
        self.path.chmod(0o755)
        new = self.path / "lock.new"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / _LOCK)  # under this name it has been locked from the beginning

    def remove(self) -> None:
        """Remove it with the server in it."""
        _remove(self.path)
        os.close(self._lock)


def remove_left_behind(parent: Path) -> None:
    """Remove the folders of runs that died."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, somebody else's, being removed, or without a lock
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    if (path / "server").exists():
        from pq_core import embedded

        with contextlib.suppress(Exception):
            embedded.stop(path / "server")
    shutil.rmtree(path, ignore_errors=True)
