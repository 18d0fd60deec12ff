"""A worker process from its command line: logging, the application, then the loop; or a report about its image."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, TextIO

from pq_core import roles
from pq_core.app import load_app, load_object
from pq_core.dsn import find_dsn
from pq_core.errors import ForkServerLost, PQError, SchemaDamaged
from pq_core.types import Role
from pq_core.worker import guards
from pq_core.worker.forking import fork, reap
from pq_core.worker.host import foreign_sockets, other_threads
from pq_core.worker.keeper import APPLICATION_ERROR, LEFT_BEHIND, SCHEMA_ERROR, USAGE_ERROR, Page
from pq_core.worker.options import WorkerOptions
from pq_core.worker.run import supervise
from pq_core.worker.shared import install_tees
from pq_hooks.logging import JSONFormatter

if TYPE_CHECKING:
    from typing import NoReturn

    from pq_core.client import PQ
    from pq_core.worker.keeper import LeaseKey


def run_application(spec: dict[str, Any], *, page: Page | None, known_dead: tuple[LeaseKey, ...]) -> int:
    """Load the application that ``spec`` names and run one worker; return the exit status.

    A mistake of the user is one line on stderr and USAGE_ERROR, which is not restarted.
    """
    left: list[int] = []
    roles.set_role(Role.WORKER)
    install_tees()
    configure_logging(spec.get("log_format", "text"))
    try:
        options = WorkerOptions(**spec["options"])
        try:
            pq = _load(spec)
            pq.registry.prepare()
        except PQError:
            raise
        except Exception as error:
            sys.stderr.write(f"pq worker: {spec['app']} can't be imported\n{_own_part(error)}")
            return APPLICATION_ERROR
        if spec.get("check"):
            return report(pq, strict=options.strict)
        supervise(
            pq,
            options,
            page=page,
            known_dead=known_dead,
            on_frozen=lambda: check_addresses(pq),
            on_left=left.append,
        )
    except ForkServerLost as error:
        sys.stderr.write(f"pq worker: {error}\n")
        return 1  # which is restarted
    except PQError as error:
        sys.stderr.write(f"pq worker: {error}\n")
        return SCHEMA_ERROR if isinstance(error, SchemaDamaged) else USAGE_ERROR
    return LEFT_BEHIND if left else 0


def check_addresses(pq: PQ) -> None:
    """Raise InvalidDSN or DatabaseNotConfigured now for a DSN that can't be read: it won't be better after a pause.

    What a function returns may be. Loads the driver, which reads it.
    """
    for dsn in (pq.dsn, pq.listen_dsn):
        if not callable(dsn):
            find_dsn(dsn)


def _own_part(error: BaseException) -> str:
    """Return the traceback without our frames and the import system's, where any other is left."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if not name.startswith(("pq_core.", "importlib")) and "importlib" not in trace.tb_frame.f_code.co_filename:
            break
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))


def _load(spec: dict[str, Any]) -> PQ:
    pq = load_app(spec["app"], factory=bool(spec.get("factory")))
    pq.registry.allow(spec.get("allow", ()))
    for reference in spec.get("plugins", ()):
        plugin = load_object(reference, what="plugin")
        pq.plugins.register(plugin() if isinstance(plugin, type) else plugin)
    for name in spec.get("block", ()):
        pq.plugins.block(name)
    return pq


def report(pq: PQ, *, strict: bool = False) -> int:
    """Print what matters before a fork: threads, sockets, memory, its cost. Return 1 with ``strict`` and threads."""
    pq.registry.load()
    threads = other_threads()
    sockets = foreign_sockets()
    print(f"tasks: {', '.join(pq.registry.names()) or 'none'}")
    print(f"queues: {', '.join(sorted(pq.registry.queues(pq.defaults)))}")
    print(f"threads besides the main one: {', '.join(threads) or 'none'}")
    print(f"connected sockets: {', '.join(str(fd) for fd in sockets) or 'none'}")
    print(f"memory of the image: {(guards.status_bytes('VmRSS') or 0) / 2**20:.1f} MiB resident")
    print(f"one fork, exit and wait: {fork_cost() * 1000:.2f} ms")
    return 1 if strict and threads else 0


def fork_cost(times: int = 50) -> float:
    """Return the seconds that one fork, exit and wait of this process takes: the median of ``times``."""

    def body() -> NoReturn:
        os._exit(0)

    taken = []
    for _ in range(times):
        start = time.perf_counter()
        reap(fork(body), block=True)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 2]


def configure_logging(log_format: str, stream: TextIO | None = None) -> None:
    """Send pq's own log to stderr. The application may configure logging as it likes: its handlers come beside it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JSONFormatter()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logger = logging.getLogger("pq")
    logger.handlers[:] = [handler]
    logger.setLevel(os.environ.get("PQ_LOG_LEVEL", "INFO").upper())
    logger.propagate = False
