"""The connections of a worker, and what the session of each is set to."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING

from pq_core.worker.link import Link

if TYPE_CHECKING:
    from pq_core.worker.connection import OnNotify, StatementError
    from pq_core.worker.host import Host
    from pq_core.worker.options import WorkerOptions

SETUP = (
    "SET client_encoding TO 'UTF8'; SET datestyle TO 'ISO'; SET timezone TO 'UTC'; SET jit TO off; "
    "SET default_transaction_isolation TO 'read committed'; SET lock_timeout TO '1s'"
)
READ_ONLY = "the worker's other connection met a server that takes no writes"
PLANS = "SET plan_cache_mode TO force_generic_plan; SET enable_seqscan TO off; SET enable_bitmapscan TO off"


class Sessions:
    """Opens the connections of one worker.

    ``work``: claims and reports; ``guarded``, since nothing may be claimed or reported before it is known where.
    ``watch``: heartbeats and notifications, which go to ``on_notify`` with channel and payload, and whether they came
    while it was idle; ``on_listening``: it has begun to hear them; ``on_deaf``: it hears none until then.
    ``own_channel``: where this worker alone is woken. ``on_refused``: gets each error of a statement on any of them.
    """

    def __init__(
        self,
        host: Host,
        options: WorkerOptions,
        *,
        selector: selectors.BaseSelector,
        on_notify: OnNotify,
        on_listening: Callable[[], None],
        on_deaf: Callable[[], None],
        on_refused: Callable[[StatementError], None],
    ) -> None:
        self._host = host
        self._selector = selector
        self._on_refused = on_refused
        # Chosen here and not by the database: LISTEN comes before there is a lease, and holds for all lives.
        self.own_channel = f"{host.wake_channel}_{os.urandom(8).hex()}"
        self.work = Link(
            host.connect_work,
            selector=selector,
            setup=f"{SETUP}; {PLANS}",
            purpose="work",
            patience=max(options.lease, 10.0),
            hopeless=host.never_heard,
            on_refused=on_refused,
            guarded=True,
            on_read_only=lambda: self.watch.replace(READ_ONLY),
        )
        self.watch = Link(
            host.connect_watch,
            selector=selector,
            setup=f"{SETUP}; LISTEN {host.wake_channel}; LISTEN {self.own_channel}",
            purpose="watch",
            patience=max(options.lease / 3, 2.0),
            hopeless=host.never_heard,
            on_refused=on_refused,
            on_notify=on_notify,
            on_ready=on_listening,
            on_lost=on_deaf,
            # What an idle worker asks over the other one reads only: on a server of yesterday it would find nothing,
            # and never learn why.
            on_read_only=lambda: self.work.replace(READ_ONLY),
        )

    @property
    def unbroken_since(self) -> float:
        """Since when neither connection was lost, on the monotonic clock; ``inf`` while one is.

        A server that fails takes them with it.
        """
        return max(self.work.ready_since, self.watch.ready_since)

    def side(self) -> Link:
        """Return a connection for what must not hold claims or heartbeats up."""
        return Link(
            self._host.connect_work,
            selector=self._selector,
            setup=f"{SETUP}; SET statement_timeout TO '60s'",
            purpose="side",
            patience=120.0,
            hopeless=lambda reason: None,
            on_refused=self._on_refused,
        )

    def close(self) -> None:
        """End ``work`` and ``watch``."""
        self.work.close()
        self.watch.close()
