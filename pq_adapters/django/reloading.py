"""Start a worker anew when code changes: by ending its process, since a thread would not survive its forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from django.apps import apps

INTERVAL = 1.0
"""Seconds between two looks at the files."""

_SKIPPED = {"site-packages", "dist-packages", "node_modules", "__pycache__"}


def run_reloading(command: Sequence[str], environment: Mapping[str, str], *, project: Any = None) -> int:
    """Run the command until it is told to stop, and start it anew when a file has changed; return its exit status.

    A worker that ends by itself (a mistake in the code) is started again at the next change.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    folders = folders_to_watch(project)
    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            before = snapshot(folders)
            # A group of its own: a terminal's Ctrl-C comes to us, and from us once to the worker.
            worker = subprocess.Popen(command, env=dict(environment), process_group=0)
            changed = _watch(worker, folders, before, asked)
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
            status = _wait(worker, asked)
            if changed is None:
                return status
            sys.stderr.write(f"pq: {changed} changed, starting the worker anew\n")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(
    worker: subprocess.Popen[bytes], folders: list[Path], before: dict[str, float], asked: list[int]
) -> str | None:
    """Return the file that changed, or None when it is time to stop."""
    ended = False
    while not asked:
        time.sleep(INTERVAL / 5)
        if worker.poll() is not None and not ended:
            ended = True
            if worker.returncode == 0:
                return None  # --until-empty
            sys.stderr.write(f"pq: the worker ended with status {worker.returncode}; waiting for a change\n")
        after = snapshot(folders)
        if after != before:
            return next((name for name in sorted(after | before) if after.get(name) != before.get(name)), "")
    return None


def _wait(worker: subprocess.Popen[bytes], asked: list[int]) -> int:
    """Wait for the worker's end; a second request to stop is handed on."""
    told = len(asked)
    while True:
        try:
            return worker.wait(timeout=INTERVAL / 5)
        except subprocess.TimeoutExpired:
            if len(asked) > max(told, 1):
                told = len(asked)
                worker.send_signal(signal.SIGTERM)


def folders_to_watch(project: Any = None) -> list[Path]:
    """Return the project's folder and those of the apps that are not installed packages."""
    found = [Path(project)] if project else [Path.cwd()]
    found += [Path(app.path) for app in apps.get_app_configs() if not _SKIPPED & set(Path(app.path).parts)]
    unique = sorted({folder.resolve() for folder in found if folder.is_dir()})
    return [one for one in unique if not any(other != one and other in one.parents for other in unique)]


def snapshot(folders: Sequence[Path]) -> dict[str, float]:
    """Return every Python file below the folders, with the time of its last change."""
    return dict(_files(folders))


def _files(folders: Sequence[Path]) -> Iterator[tuple[str, float]]:
    for top in folders:
        for folder, inner, names in os.walk(top):
            inner[:] = [name for name in inner if name not in _SKIPPED and not name.startswith(".")]
            for name in names:
                if name.endswith(".py"):
                    path = Path(folder, name)
                    try:
                        yield str(path), path.stat().st_mtime
                    except FileNotFoundError:
                        continue
