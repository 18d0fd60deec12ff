"""What a fault is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.stage import Stage

PAUSE = 0.7
"""Seconds between two blows."""


class Fault:
    """One fault. ``title`` is its line of the table. ``promise``: who sees one live attempt of a task at most,
    ``processes`` or, where a worker goes on that cannot be told, the ``database`` alone. ``loses``: a part of the
    database's history is lost with it, and what was acknowledged in that."""

    name = ""
    title = ""
    promise = "processes"
    loses = False

    def missing(self) -> str | None:
        """Return what the machine lacks for it, None if nothing."""
        return None

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        """Prepare the stage before it opens; undo it after it closed."""
        yield

    def inject(self, stage: Stage, seconds: float) -> int:
        """Do it for about so long, and return how often. What it has changed is undone when it returns."""
        count, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            count += self.blow(stage)
            stage.fleet.ensure()
            time.sleep(PAUSE)
        return count

    def blow(self, stage: Stage) -> int:
        """Strike once; return how often it hit."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """Return what it saw itself that breaks a promise."""
        return []
