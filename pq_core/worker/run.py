"""Start a worker in this process: from ``PQ.run_worker``, and from the keeper after it has forked."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pq_core import roles
from pq_core.app import load_object
from pq_core.errors import InvalidOption, WorkerStartError
from pq_core.schedule_operations import declared_schedules
from pq_core.types import AttemptOutcome, Role
from pq_core.worker import guards
from pq_core.worker.host import Host, other_threads
from pq_core.worker.options import DRIVER, WorkerOptions, automatic_memory_limit
from pq_core.worker.program import Program
from pq_core.worker.shared import install_tees, remove_tees
from pq_core.worker.vitals import Notifier, Vitals

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.worker.keeper import LeaseKey, Page

logger = logging.getLogger("pq.worker")

SDKS = {
    "Otel": "set OpenTelemetry's SDK up in pq_hooks.opentelemetry.OpenTelemetry(configure=…), not at import nor by "
    "opentelemetry-instrument",
    "sentry": "set Sentry's SDK up in pq_hooks.sentry.Sentry(init=…)",
}
"""By how their threads' names begin: where SDKs that report of tasks are to be set up instead."""


FORK_SAFETY = {
    "sqlalchemy": "pq_adapters.sqlalchemy:SafeEngines",
    "psycopg_pool": "pq_adapters.psycopg_pool:SafePools",
}
"""Library in the image -> the plugin that makes what it holds open safe in children. Found by name: it is above us."""


def run_worker(pq: PQ, **given: Any) -> None:
    """Run a worker in this process until it is asked to stop (SIGTERM, SIGINT), or as its options say.

    Takes the fields of ``WorkerOptions``, and python-pq's ``pre_execute(task)`` and ``post_execute(task, error)``, run
    in the child. There is no keeper: nobody restarts this worker or ends it when it hangs; ``pq worker`` has one.
    """
    with _execute_hooks(pq, given):
        supervise(pq, _options(given))


def run_worker_once(pq: PQ, **given: Any) -> bool:
    """Run one due task, if there is one, and return whether there was."""
    with _execute_hooks(pq, given):
        return bool(supervise(pq, _options({"concurrency": 1, **given, "once": True})))


def supervise(
    pq: PQ,
    options: WorkerOptions,
    *,
    page: Page | None = None,
    known_dead: tuple[LeaseKey, ...] = (),
    on_frozen: Callable[[], None] | None = None,
    on_ready: Callable[[int], None] | None = None,
    on_left: Callable[[int], None] | None = None,
) -> list[AttemptOutcome]:
    """Run one worker here. Returns what ended, with ``once``.

    ``on_frozen``: called when what it forks from is complete, before it connects; may load what children don't need.
    ``on_left``: gets how many tasks a worker that ends by itself leaves running under leases that have ended.
    """
    _ = pq.dsn  # refused now where the PQ was sent into somebody's transaction
    before = roles.role()
    roles.set_role(Role.WORKER)
    install_tees()
    try:
        pq.registry.prepare()
        if options.memory_limit == "auto":
            image = (guards.status_bytes("VmRSS") or 0) + DRIVER
            limit = automatic_memory_limit(guards.cgroup_memory_limit(), image, options.concurrency)
            options = replace(options, memory_limit=limit)
        guards.allow_descriptors(6 * (options.concurrency + options.spare_processes) + 256)
        warn_of_threads(strict=options.strict)
        queues = options.queues or tuple(sorted(pq.registry.queues(pq.defaults)))
        host = Host(
            pq=pq,
            options=options,
            name=f"{socket.gethostname()}:{os.getpid()}",
            page=page,
            known_dead=known_dead,
            on_ready=on_ready,
            declared_schedules=declared_schedules(pq),
            vitals=_vitals(options) if page is None else None,
        )
        for module, reference in FORK_SAFETY.items():
            if module in sys.modules:
                host.plugins.register(load_object(reference, what="plugin")())
        host.plugins.before_forks()
        program = Program(
            registry=pq.registry,
            defaults=pq.defaults,
            release_delay=options.release_delay,
            unroutable_after=options.unroutable_after,
        )
        program.prepare()
        host.freeze()
        with contextlib.closing(host.fork_server(program)) as forker:
            # It brings the driver, which is no part of the image.
            from pq_core.worker.supervisor import Supervisor

            if on_frozen is not None:
                on_frozen()
            supervisor = Supervisor(host, options, program, queues, forker)
            supervisor.run()
            if on_left is not None and supervisor.left:
                on_left(supervisor.left)
            return supervisor.ended
    finally:
        remove_tees()
        roles.set_role(before)


def _vitals(options: WorkerOptions) -> Vitals | None:
    """Return whom a worker without a keeper tells that it lives."""
    vitals = Vitals(health_file=options.health_file, notifier=Notifier.take(os.environ), log=logger.warning)
    return vitals if vitals.wanted else None


def warn_of_threads(*, strict: bool) -> None:
    """Name the threads that would not survive the forks. Raises WorkerStartError with ``strict``."""
    threads = other_threads()
    if not threads:
        return
    ways = [way for prefix, way in SDKS.items() if any(name.startswith(prefix) for name in threads)]
    words = (
        f"threads run before the fork: {', '.join(threads)}. The children don't have them, but may have their locks; "
        f"start them after it: {'; '.join(ways) or 'in a pq_in_child hook'}"
    )
    if strict:
        raise WorkerStartError(words)
    logger.warning(words)


@contextlib.contextmanager
def _execute_hooks(pq: PQ, given: dict[str, Any]) -> Iterator[None]:
    """Take python-pq's two callables out of the options, and have them called while the worker runs."""
    hooks = {name: given.pop(name, None) for name in ("pre_execute", "post_execute")}
    for name, hook in hooks.items():
        if hook is not None and not callable(hook):
            raise InvalidOption(f"{name}={hook!r}: give a function")
    if not any(hooks.values()):
        yield
        return
    from pq_hooks.execute import ExecuteHooks

    plugin = ExecuteHooks(**hooks)
    pq.plugins.register(plugin)
    try:
        yield
    finally:
        pq.plugins.unregister(plugin)


def _options(given: dict[str, Any]) -> WorkerOptions:
    known = {f.name for f in fields(WorkerOptions)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise InvalidOption(
            f"run_worker() has no option {unknown[0]!r}; it takes {', '.join(sorted(known - {'once'}))}"
        )
    return WorkerOptions(**given)
