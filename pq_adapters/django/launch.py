"""How ``manage.py pq_worker`` starts a worker: its options, its command line, its environment."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings

if TYPE_CHECKING:
    from pq_core.worker.options import WorkerOptions

FLAGS: dict[str, tuple[Any, str]] = {
    "queues": (str, "Queues it serves: a,b. [default: those of its tasks]"),
    "priorities": (str, "Bands: critical, high, normal, low, batch. [default: all]"),
    "concurrency": (int, "Tasks at once, in each process. [default: one per core]"),
    "tasks_per_child": (int, "Tasks that one child runs. [default: 1]"),
    "spares": (int, "Processes forked ahead, with one task per child. [default: --concurrency, 2 to 8]"),
    "async_concurrency": (int, "Async tasks at once in one more child, which they share. [default: 1]"),
    "ageing": (float, "Seconds of waiting that make a task count one band of priorities higher. [default: never]"),
    "lease": (float, "Seconds after which it counts as dead without a sign of life. [default: 30]"),
    "until_empty": (bool, "End when nothing is due and nothing runs here."),
    "poll_interval": (float, "Seconds between looks when nothing wakes it. [default: 1]"),
    "max_runtime": (float, "Timeout in seconds of tasks that have none. [default: none]"),
    "grace": (float, "Seconds from SIGTERM to SIGKILL of a task. [default: 5]"),
    "drain_timeout": (float, "Seconds for running tasks, at a stop. [default: 25]"),
    "memory_limit": (str, "What a task may add: bytes, 512M, or auto for the container's share. [default: none]"),
    "prune_share": (float, "Share of the database's time for deleting old tasks; 0: none. [default: 0.1]"),
    "metrics_port": (int, "Serve Prometheus' text there; process N at this port + N. [default: none]"),
    "health_file": (str, "A file that is touched while all is well."),
    "strict": (bool, "Refuse to start when the application has started threads."),
}
"""Options of the worker by name: type and words. They are the fields of ``WorkerOptions``."""

APPLICATION = "pq_adapters.django.worker:create_pq"


def worker_command(options: WorkerOptions, *, processes: int, log_format: str, check: bool) -> list[str]:
    """Return the command that runs a keeper and its workers."""
    spec = {
        "app": APPLICATION,
        "factory": True,
        "processes": processes,
        "log_format": log_format,
        "check": check,
        "options": asdict(options),
    }
    return [sys.executable, *interpreter_flags(), "-m", "pq_core.worker", json.dumps(spec)]


def interpreter_flags() -> list[str]:
    """Return the flags that this interpreter was started with, such as ``-X dev`` or ``-W error``."""
    flags = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    return flags[: flags.index("-m")] if "-m" in flags else flags


def worker_environment() -> dict[str, str]:
    """Return the environment of the worker: the same settings, found on the same path as by ``manage.py``."""
    path = [folder or str(Path.cwd()) for folder in sys.path[:1]]
    path += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    settings_module = getattr(settings, "SETTINGS_MODULE", None) or os.environ["DJANGO_SETTINGS_MODULE"]
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": settings_module,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        "PQ_ROLE": "worker",
    }


def queues_of_backends() -> set[str]:
    """Return the QUEUES of every pq backend in TASKS; tasks may be sent there that are declared for others."""
    if django.VERSION < (6, 0):
        return set()
    from django.tasks import task_backends

    from pq_adapters.django.task_backend import PQBackend

    return {queue for backend in task_backends.all() if isinstance(backend, PQBackend) for queue in backend.queues}
