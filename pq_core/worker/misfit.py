"""What becomes of a worker whose schema lacks what its statements name: it ends, with the fix in its message.

Not at the first such error: somebody may be restoring the tables, and a trigger of the application's own may be what is
wrong. The worker compares what is there with what it needs, and ends if that is so for a while.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.errors import SchemaDamaged
from pq_core.needed import GONE, parameters, words
from pq_core.worker.claiming import Statements, text_array

if TYPE_CHECKING:
    from pq_core.worker.connection import Parameters, Results, StatementError
    from pq_core.worker.link import Link

logger = logging.getLogger("pq.worker")

PATIENCE = 10.0
"""Seconds for which something must have been missing: revisions are applied in a transaction, restores are not."""
AGAIN = 1.0
"""Seconds between two looks."""


@dataclass(slots=True, kw_only=True)
class Misfit:
    """Looks, once a statement was refused for what it names, whether the schema is to blame.

    ``on_failed``: gets what waiting can't help.
    """

    schema: str
    work: Link
    statements: Statements
    on_failed: Callable[[Exception], None]
    _since: float | None = None
    _look_at: float = 0.0
    _under_way: bool = False

    def refused(self, error: StatementError) -> None:
        """Take note of what the server said against a statement of this worker."""
        if error.sqlstate in GONE and self._since is None:
            self._since = self._look_at = monotonic()

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do."""
        waits = self._since is not None and not self._under_way and self.work.idle
        return self._look_at if waits else None

    def advance(self, now: float) -> None:
        """Look, if it is time."""
        if self._since is None or self._under_way or now < self._look_at or not self.work.idle:
            return
        schema, *arrays = parameters(self.schema)
        given: Parameters = [schema.encode(), *(text_array(names) for names in arrays)]
        self._under_way = True
        self.work.send([(self.statements["missing"], given)], self._answered)

    def _answered(self, results: Results | None, error: StatementError | None) -> None:
        now = monotonic()
        self._under_way = False
        self._look_at = now + AGAIN
        if results is None:
            return  # the connection broke: asked again when there is one
        lacking = [(row[0] or b"").decode("utf-8", "replace") for row in results[0]]
        assert self._since is not None
        if not lacking:
            self._since = None  # it is back, or was never ours: whose statement it is says what is wrong
        elif now - self._since >= PATIENCE:
            self.on_failed(SchemaDamaged(words(self.schema, lacking)))
