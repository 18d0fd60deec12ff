"""Django's connections in the processes that run tasks: forgotten after the fork, fresh for every task."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.core.cache import caches
from django.db import connections, reset_queries

if TYPE_CHECKING:
    from pq_core.types import AttemptOutcome, ClaimedTask

_forgotten: list[Any] = []
"""What belongs to the parent: kept, because its end would be noticed at the other side."""


class DjangoConnections:
    """The plugin that every Django ``PQ`` has."""

    def __init__(self) -> None:
        self._clean_in = 0

    @contextmanager
    def pq_in_child(self, task: ClaimedTask) -> Iterator[None]:
        """Give the task connections of its process, as a request has them; close what should not outlive it."""
        self._own()
        reset_queries()
        close_old()
        close_broken()
        try:
            yield
        finally:
            close_old()
            caches.close_all()

    def pq_task_died(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Tell the receivers of ``task_finished`` of a child that could not do so itself."""
        self._own()
        try:
            from pq_adapters.django import running
        except ImportError:  # no django.tasks: nobody listens
            return
        running.died(task, outcome)

    def _own(self) -> None:
        if self._clean_in != os.getpid():
            forget_inherited()
            self._clean_in = os.getpid()


def forget_inherited() -> None:
    """Forget the parent's connections and pools without a word to the server: ``close()`` would end its sessions."""
    for connection in connections.all(initialized_only=True):
        pools = getattr(connection, "_connection_pools", None)
        if pools:
            _forgotten.append(dict(pools))
            pools.clear()
        if connection.connection is not None:
            _forgotten.append(connection.connection)
            connection.connection = None
        # The parent may have forked inside atomic(), as a test case does.
        connection.in_atomic_block = False
        connection.savepoint_ids = []
        connection.atomic_blocks = []
        connection.needs_rollback = False
        connection.run_on_commit = []


def close_old() -> None:
    """Close connections that are unusable or too old, as Django does around a request."""
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()


def close_broken() -> None:
    """Close connections that the server has ended between two tasks of one process, as by a restart.

    Django learns of that by a query that fails, or by one more query for each task (``CONN_HEALTH_CHECKS``). The socket
    tells: nothing is to be read from it while nothing was asked.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection.in_atomic_block:
            continue
        try:
            readable = select.select([connection.connection], [], [], 0)[0]
        except (OSError, ValueError, TypeError):  # closed already, or a database without a socket, as SQLite
            continue
        if readable and not connection.is_usable():
            connection.close()


def close_in_worker() -> None:
    """Close, in the process that opened them, the connections and pools that importing the application has used.

    A pool has threads, which would not survive the forks. What is inside ``atomic()`` stays: it is in use.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
            if getattr(connection, "_connection_pools", None):
                with suppress(KeyError):
                    connection.close_pool()
    caches.close_all()
