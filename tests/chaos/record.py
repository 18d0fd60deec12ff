"""What the tasks and the enqueuers write down: lines appended to files, each by one write, kept whole.

A leaf: the application, the load and the checker share these names and nothing else.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = "CHAOS_FOLDER"
"""The variable that tells processes where the files are."""
RUNS = "runs.log"
"""``what monotonic pid task fence attempt key extra``, by the tasks."""
ORDERS = "orders.log"
"""``what key server``, by the enqueuers: committed, rolled-back or unknown, and when the server started."""
LIVE = "live.lock"
"""One byte per task, locked by the process that runs it: the kernel lets go of it when the process is gone."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of ``RUNS``. ``at``: seconds of the machine's monotonic clock. ``extra``: what the line is about."""

    what: str
    at: float
    pid: int
    task: int
    fence: int
    attempt: int
    key: str
    extra: str


def append(name: str, *words: object) -> None:
    """Append one line to a file of the run."""
    path = Path(os.environ[FOLDER]) / name
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(fd)


def note(what: str, *, task: int, fence: int, attempt: int, key: str, extra: object = "-") -> None:
    """Append what a task has to tell."""
    append(RUNS, what, f"{time.monotonic():.6f}", os.getpid(), task, fence, attempt, key, extra)


def runs(folder: Path) -> list[Line]:
    """Read all that the tasks wrote."""
    lines = []
    for words in _words(folder / RUNS):
        what, at, pid, task, fence, attempt, key, extra = words
        lines.append(Line(what, float(at), int(pid), int(task), int(fence), int(attempt), key, extra))
    return lines


def orders(folder: Path) -> dict[str, dict[str, str]]:
    """Read what the enqueuers know: keys by what became of them, each with the server, "" where it was not noted."""
    found: dict[str, dict[str, str]] = {"committed": {}, "rolled-back": {}, "unknown": {}}
    for what, key, *server in _words(folder / ORDERS):
        found[what][key] = server[0] if server else ""
    return found


def _words(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
