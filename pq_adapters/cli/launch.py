"""How a worker process is started: its command line, which this process turns into or starts beside itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pq_core.worker.options import WorkerOptions


def worker_command(
    app: str,
    options: WorkerOptions,
    *,
    factory: bool = False,
    processes: int = 1,
    allow: Iterable[str] = (),
    plugins: Iterable[str] = (),
    block: Iterable[str] = (),
    log_format: str = "text",
    check: bool = False,
) -> list[str]:
    """Return the command that runs a keeper and its workers in a process without the command line's libraries.

    ``plugins``: references of more plugins, ``module:object``. ``block``: names of plugins that are left out.
    ``check``: report about the image instead of running tasks.
    """
    spec = {
        "app": app,
        "factory": factory,
        "processes": processes,
        "allow": list(allow),
        "plugins": list(plugins),
        "block": list(block),
        "log_format": log_format,
        "check": check,
        "options": asdict(options),
    }
    return [sys.executable, *interpreter_flags(), "-m", "pq_core.worker", json.dumps(spec)]


def interpreter_flags() -> list[str]:
    """Return the flags that this interpreter was started with, such as ``-X dev`` or ``-W error``."""
    flags = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    for module_or_code in ("-m", "-c"):
        if module_or_code in flags:
            flags = flags[: flags.index(module_or_code)]
    return flags
