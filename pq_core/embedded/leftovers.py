"""What a holder that was killed left behind: processes of its server, and a pid file that may name anyone by now."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pq_core.embedded.plan import HolderError, is_complete, was_begun

LINUX = sys.platform == "linux"
SHUTDOWN = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""How a server is ended: fast, then at once, then by force, each with the seconds it gets."""


def leftovers(data: Path) -> list[int]:
    """Return the pids of live Postgres processes on this data folder, the postmaster first if it lives.

    A pid in a stale pid file may belong to anyone by now: a process counts only if it works in the data folder.
    """
    named = postmaster_pid(data)
    if LINUX:
        home = data.resolve()
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and works_in(entry, home)]
    else:
        shown = subprocess.run(["ps", "-o", "command=", "-p", str(named)], capture_output=True, text=True, check=False)
        found = [named] if named and str(data) in shown.stdout else []
    return sorted(found, key=lambda pid: (pid != named, pid))


def works_in(process: Path, folder: Path) -> bool:
    """Tell whether the process (its folder in /proc) is a live Postgres whose current directory is ``folder``."""
    try:
        if (process / "cwd").readlink() != folder:
            return False
        name, state = (process / "stat").read_bytes().partition(b"(")[2].rsplit(b")", 1)
    except (OSError, ValueError):
        return False
    return name == b"postgres" and state.split()[0] not in (b"Z", b"X")


def postmaster_pid(data: Path) -> int:
    """Return the pid that the server's pid file names, or 0."""
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return 0


def end_leftovers(data: Path) -> bool:
    """End every Postgres process on the data folder and return whether there was one.

    Only for the owner of the folder's lock, or where no holder answers. The server of a data folder that pq did not
    make is somebody's: it is left alone.
    """
    found = False
    if not is_complete(data) and not was_begun(data):
        return found
    for number, patience in SHUTDOWN:
        running = leftovers(data)
        if not running:
            break
        found = True
        # A backend takes SIGINT for 'cancel the statement': only a postmaster is asked to shut down.
        if number == signal.SIGINT and running[0] != postmaster_pid(data):
            continue
        for pid in running[:1] if number == signal.SIGINT else running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while leftovers(data) and time.monotonic() < deadline:
            time.sleep(0.02)
    else:
        if running := leftovers(data):
            raise HolderError(f"processes {running} of an earlier server on {data} can't be ended")
    return found
