"""How a life of a worker begins: first contact with the database, and a lease."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.errors import DatabaseUnavailable
from pq_core.schema import check_revision
from pq_core.types import WorkerInfo
from pq_core.version import __version__
from pq_core.worker.claiming import Statements, integer, number, text_array

if TYPE_CHECKING:
    from pq_core.worker.connection import Parameters, Query, Results, StatementError
    from pq_core.worker.host import Host
    from pq_core.worker.link import Link

logger = logging.getLogger("pq.worker")

FIRST_CONTACT = 15.0
"""Seconds that a worker with ``until_empty`` waits for a database that it has never reached; others wait for ever."""


@dataclass(slots=True, kw_only=True)
class Registration:
    """Gets a lease. ``wake_channel``: where this worker alone is woken.

    ``on_registered``: gets the worker's id, when the lease began as the database says it, and when it was asked for.
    ``on_failed``: gets what waiting can't help.
    """

    host: Host
    queues: tuple[str, ...]
    work: Link
    wake_channel: str
    statements: Statements
    on_registered: Callable[[int, bytes, float], None]
    on_failed: Callable[[Exception], None]
    _began: float = field(default_factory=monotonic)
    _under_way: bool = False
    _again_at: float = 0.0

    def check_first_contact(self, now: float) -> None:
        """End a worker that the server has never let in: that is a mistake of the set-up, not an outage."""
        if self.work.ever_ready or not self.work.failures:
            return
        refusal = self.host.never_heard(self.work.last_error)
        in_haste = self.host.options.until_empty or self.host.options.once
        if refusal is None and in_haste and now - self._began > FIRST_CONTACT:
            refusal = DatabaseUnavailable(self.work.last_error)
        if refusal is not None:
            self.on_failed(refusal)

    def next_event(self, now: float) -> float | None:
        """Return when ``advance`` has something to do, if nothing else happens."""
        return self._again_at if self._again_at > now else None

    def advance(self, now: float) -> None:
        """Ask for a lease, if it is not asked for already."""
        if self._under_way or now < self._again_at or not self.work.idle:
            return
        self._under_way = True
        host, options = self.host, self.host.options
        parameters: Parameters = [
            number(options.lease),
            integer(os.getpid()),
            integer(options.concurrency),
            host.name.encode(),
            host.hostname.encode(),
            host.app.encode(),
            __version__.encode(),
            text_array(self.queues),
            json.dumps(host.info).encode(),
            self.wake_channel.encode(),
            ("{" + ",".join(f"[{low},{high}]" for low, high in options.ranges()) + "}").encode(),
        ]
        # What every renewal will ask as well: a role that may not is told so now.
        history: tuple[Query, Parameters] = (self.statements["history"], [])
        self.work.send([(self.statements["register"], parameters), history], lambda r, e: self._answered(now, r, e))

    def _answered(self, sent: float, results: Results | None, error: StatementError | None) -> None:
        self._under_way = False
        if results is None:
            assert error is not None
            self._refused(error)
            return
        id_, began, revision, oldest = results[0][0]
        try:
            check_revision(int(revision or 0), int(oldest or 0), schema=self.host.schema)
        except Exception as refusal:
            self.on_failed(refusal)
            return
        self.on_registered(int(id_ or 0), began or b"", sent)

    def _refused(self, error: StatementError) -> None:
        if error.sqlstate in ("42P01", "3F000", "42703", "42883"):
            self.on_failed(self.host.not_migrated(error.message))
        elif error.sqlstate.startswith(("42", "28")):
            self.on_failed(self.host.refused(error.message))
        elif error.sqlstate:
            # A standby, a timeout, a server that goes down: it may be otherwise in a moment.
            logger.warning("the worker can't register yet: %s", error)
            self._again_at = monotonic() + 1.0


def worker_info(host: Host, queues: tuple[str, ...], worker_id: int) -> WorkerInfo:
    """Return what the plugins get of this worker."""
    return WorkerInfo(
        id=worker_id,
        name=host.name,
        host=host.hostname,
        pid=os.getpid(),
        app=host.app,
        queues=queues,
        concurrency=host.options.concurrency,
    )
