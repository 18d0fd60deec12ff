"""``manage.py pq_worker``: become a lean process that runs the project's tasks."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from pq_adapters.django import pq
from pq_adapters.django.launch import FLAGS, queues_of_backends, worker_command, worker_environment
from pq_adapters.django.reloading import run_reloading
from pq_core.errors import PQError
from pq_core.worker.options import WorkerOptions, parse_size


def size(text: str) -> int | str:
    """Return bytes, or ``auto``."""
    return text if text == "auto" else parse_size(text)


class Command(BaseCommand):
    """Run tasks."""

    help = (
        "Run the project's tasks, each in a process of its own, until it is told to stop (SIGTERM, SIGINT). "
        "Every option has an environment variable: --poll-interval is PQ_WORKER_POLL_INTERVAL."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        for name, (kind, text) in FLAGS.items():
            flag = f"--{name.replace('_', '-')}"
            said = os.environ.get(f"PQ_WORKER_{name.upper()}")
            if kind is bool:
                parser.add_argument(flag, action="store_true", default=said in ("1", "true", "yes"), help=text)
            else:
                converter = size if name == "memory_limit" else kind
                parser.add_argument(flag, type=converter, default=said, help=text)
        parser.add_argument("--processes", type=int, default=os.environ.get("PQ_WORKER_PROCESSES", 1))
        parser.add_argument("--log-format", choices=["text", "json"], default="text", help="Format of pq's own log.")
        parser.add_argument(
            "--check", action="store_true", help="Only report threads, sockets, memory, cost of a fork."
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="For development: start the worker anew when a Python file of the project changes.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            given = {name: options[name] for name in FLAGS if options[name] is not None}
            if "queues" not in given and (more := queues_of_backends()):
                pq.registry.load()
                given["queues"] = ",".join(sorted(pq.registry.queues(pq.defaults) | more))
            command = worker_command(
                WorkerOptions(immortal=True, **given),
                processes=options["processes"],
                log_format=options["log_format"],
                check=options["check"],
            )
        except (PQError, ImportError) as error:
            raise CommandError(str(error)) from error
        environment = worker_environment()
        self.stdout.flush()
        self.stderr.flush()
        if options["reload"]:
            sys.exit(run_reloading(command, environment, project=getattr(settings, "BASE_DIR", None)))
        os.execve(command[0], command, environment)
