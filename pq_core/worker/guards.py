"""What keeps a child within bounds: its death with the worker, its memory, its place in the OOM killer's list."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
_SIGKILL = int(signal.SIGKILL)  # a member of an enum takes ctypes, and a child, a way of its own
PR_SET_CHILD_SUBREAPER = 36
OOM_SCORE = b"500"
"""Added badness of a child, so that the kernel ends it before its worker (proc_pid_oom_score_adj(5))."""

_LINUX = sys.platform.startswith("linux")
_prctl = ctypes.CDLL(None, use_errno=True).prctl if _LINUX else None
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of what getrusage(2) counts resident sizes in."""
FOR_EVER = (_prctl,)
"""Objects of this module that each child looks at."""


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGKILL when the parent ends; exit at once if it is gone already.

    Call it after any change of uid: that would clear the setting (prctl(2)). Elsewhere than on Linux nothing
    happens, and a worker's death leaves its children to themselves.
    """
    end_with_parent(parent, _SIGKILL)


def end_with_parent(parent: int, signal_number: int) -> None:
    """Have the kernel send ``signal_number`` when the parent ends; exit at once if it is gone already."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def become_subreaper() -> bool:
    """Adopt orphaned descendants instead of init; False where the system can't."""
    return _prctl is not None and _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def offer_to_oom_killer() -> None:
    """Raise this process's badness, if the system has such a thing."""
    if not _LINUX:
        return
    try:
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(handle, OOM_SCORE)
    except OSError:
        return  # already higher, or forbidden: the guard is a preference, not a promise
    finally:
        os.close(handle)


def limit_memory(extra: int) -> None:
    """Let this process add at most ``extra`` bytes of data to what it has now.

    RLIMIT_DATA counts the whole image, so the limit is what is there plus ``extra``; measured: a plain limit
    fails at the first byte when the image is larger than it.
    """
    present = status_bytes("VmData") or 0
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = present + extra
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def identity(fd: int) -> tuple[int, int] | None:
    """Return what tells the open file behind ``fd`` from others (device, inode), None where there is none.

    A descriptor's number says nothing of that: who closes it may get it again for something else.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def allow_descriptors(count: int) -> None:
    """Raise this process's limit of open files to ``count``, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def status_bytes(field: str, pid: int | str = "self") -> int | None:
    """Return a size from ``/proc/PID/status`` (VmRSS, VmData, VmHWM, …) in bytes, None where there is none."""
    try:
        text = _read(f"/proc/{pid}/status")
    except OSError:
        return None
    start = text.find(b"\n" + field.encode() + b":")
    if start < 0:
        return None
    return int(text[start:].split(None, 2)[1]) * 1024


def oom_kills() -> int | None:
    """Return how many processes of this cgroup (v2) the kernel's OOM killer has ended, None if unknown."""
    try:
        for line in _read("/proc/self/cgroup").decode().splitlines():
            hierarchy, _, path = line.split(":", 2)
            if hierarchy == "0":
                events = _read(f"/sys/fs/cgroup{path}/memory.events").decode()
                return int(dict(pair.split() for pair in events.splitlines())["oom_kill"])
    except (OSError, KeyError, ValueError):
        return _system_oom_kills()
    return _system_oom_kills()


def _system_oom_kills() -> int | None:
    try:
        for line in _read("/proc/vmstat").decode().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        return None
    return None


def cgroup_memory_limit() -> int | None:
    """Return the memory limit in bytes of this process's cgroup (v2 or v1), None when there is none."""
    candidates = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    try:
        for line in _read("/proc/self/cgroup").decode().splitlines():
            hierarchy, _, path = line.split(":", 2)
            if hierarchy == "0":
                candidates.insert(0, f"/sys/fs/cgroup{path}/memory.max")
    except OSError:
        return None
    for candidate in candidates:
        try:
            value = _read(candidate).decode().strip()
        except OSError:
            continue
        if value.isdigit() and int(value) < 1 << 60:
            return int(value)
    return None


def _read(path: str) -> bytes:
    # Not pathlib: the keeper imports this module, and every megabyte of it is paid per deployment.
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def kill_group(pid: int, signal_number: int) -> None:
    """Send a signal to the process group that ``pid`` leads, and to ``pid`` where it has not made one yet."""
    try:
        os.killpg(pid, signal_number)
    except ProcessLookupError:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            return  # gone; or it has left its group, and goes by another uid
    except PermissionError:
        # Some member changed its uid, or (macOS) only zombies are left: the leader alone, then.
        try:
            os.kill(pid, signal_number)
        except OSError:
            return
