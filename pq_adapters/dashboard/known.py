"""The task functions that this dashboard knows, those of the application's modules included."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.tasks import Task

logger = logging.getLogger("pq.dashboard")


def known_tasks(pq: PQ) -> list[Task[..., Any]]:
    """Return the declared tasks by name. Imports the application's modules at first use: not for the event loop."""
    try:
        pq.registry.load()
    except Exception:  # a module of the application may raise anything: what is known already is shown all the same
        logger.warning("the application's tasks can't be loaded", exc_info=True)
    return pq.registry.tasks()
