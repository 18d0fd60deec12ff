"""Start a worker in this process: from ``PQ.run_worker``, and from the keeper after it has forked."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pq_core import roles
from pq_core.errors import InvalidOption, WorkerStartError
from pq_core.types import AttemptOutcome, Role
from pq_core.worker import guards
from pq_core.worker.host import Host, other_threads
from pq_core.worker.options import WorkerOptions, automatic_memory_limit
from pq_core.worker.program import Program
from pq_core.worker.shared import install_tees, remove_tees
from pq_core.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.worker.keeper import Page

logger = logging.getLogger("pq.worker")


def run_worker(pq: PQ, **given: Any) -> None:
    """Run a worker in this process until it is asked to stop (SIGTERM, SIGINT), or as its options say.

    Takes the fields of ``WorkerOptions``. There is no keeper: nobody restarts this worker or ends it when it hangs;
    ``pq worker`` has one.
    """
    supervise(pq, _options(given))


def run_worker_once(pq: PQ, **given: Any) -> bool:
    """Run one due task, if there is one, and return whether there was."""
    return bool(supervise(pq, _options({"concurrency": 1, **given, "once": True})))


def supervise(
    pq: PQ,
    options: WorkerOptions,
    *,
    page: Page | None = None,
    known_dead: tuple[int, ...] = (),
    on_ready: Callable[[int], None] | None = None,
) -> list[AttemptOutcome]:
    """Run one worker here. Returns what ended, with ``once``."""
    before = roles.role()
    roles.set_role(Role.WORKER)
    install_tees()
    try:
        pq.registry.prepare()
        if options.memory_limit == "auto":
            image = guards.status_bytes("VmRSS") or 0
            limit = automatic_memory_limit(guards.cgroup_memory_limit(), image, options.concurrency)
            options = replace(options, memory_limit=limit)
        warn_of_threads(strict=options.strict)
        queues = options.queues or tuple(sorted(pq.registry.queues(pq.defaults)))
        host = Host(
            pq=pq,
            options=options,
            name=f"{socket.gethostname()}:{os.getpid()}",
            page=page,
            known_dead=known_dead,
            on_ready=on_ready,
        )
        _ = host.plugins
        program = Program(
            registry=pq.registry,
            defaults=pq.defaults,
            release_delay=options.release_delay,
            unroutable_after=options.unroutable_after,
        )
        program.prepare()
        host.freeze()
        supervisor = Supervisor(host, options, program, queues)
        supervisor.run()
        return supervisor.ended
    finally:
        remove_tees()
        roles.set_role(before)


def warn_of_threads(*, strict: bool) -> None:
    """Name the threads that would not survive the forks. Raises WorkerStartError with ``strict``."""
    threads = other_threads()
    if not threads:
        return
    words = (
        f"threads run before the fork: {', '.join(threads)}. The children don't have them, but may have their locks; "
        "start them in a pq_in_child hook (plugins take configure= or init= for that)"
    )
    if strict:
        raise WorkerStartError(words)
    logger.warning(words)


def _options(given: dict[str, Any]) -> WorkerOptions:
    known = {f.name for f in fields(WorkerOptions)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise InvalidOption(
            f"run_worker() has no option {unknown[0]!r}; it takes {', '.join(sorted(known - {'once'}))}"
        )
    return WorkerOptions(**given)
