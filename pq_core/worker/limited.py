"""When a worker asks for tasks that have limits; plain claims don't see those."""

from __future__ import annotations

from dataclasses import dataclass

from pq_core.worker.rows import Row

PROBE = 1.0
"""Seconds between two asks of a worker that is busy with tasks without limits. One that is idle hears by its looks."""
REMEMBERED = 30.0
"""Seconds for which a worker that met such tasks asks without a look before, until a look sees none."""
SOON = 60.0
"""Seconds: what may begin that soon keeps a worker with ``until_empty`` from ending."""


@dataclass(slots=True)
class Limited:
    """The next ask, in times of the monotonic clock. ``at``: None until something is known to wait.

    ``waiting``: there are tasks that a limit keeps back, and more may be had soon.
    """

    at: float | None = None
    waiting: bool = False
    _far: bool = False
    _met: float = -REMEMBERED
    _probe_at: float | None = None
    _just_asked: bool = False

    @property
    def open(self) -> bool:
        """True while something may begin soon, or nobody knows yet."""
        return self.waiting or (self.at is not None and not self._far)

    def due(self, now: float, *, plain: bool) -> bool:
        """Tell whether to ask now; ``plain``: a plain claim is wanted as well, and has its turn after each ask."""
        if self._just_asked and plain:
            self._just_asked = False
            return False
        if self._probe_at is None:
            self._probe_at = now + PROBE
        return (self.at is not None and now >= self.at) or (plain and now >= self._probe_at)

    def asked(self, now: float) -> None:
        """Note that a claim is under way."""
        self._just_asked = True
        self.at = None
        self._probe_at = now + PROBE

    def answered(self, rows: list[Row], now: float) -> list[Row]:
        """Take in the answer; return the rows of tasks in it, as those of other claims."""
        tasks = [row[:-1] for row in rows if row[0] is not None]
        wait = next((float(row[-1]) for row in rows if row[0] is None and row[-1] is not None), None)
        if tasks or wait is not None:
            self._met = now
        self.waiting = wait is not None and wait < SOON
        self._far = wait is not None and wait >= SOON
        if wait is not None:
            # What others end, pause or add is seen by asking again: within a second.
            self.at = now + min(wait, PROBE)
        return tasks

    def told(self, now: float) -> None:
        """A notification says that such tasks wait."""
        self.at = now
        self._far = False

    def rest(self, now: float, *, seen: bool | None = None) -> None:
        """The worker sleeps: what waits it hears of. ``seen``: whether a look has seen such a task."""
        self._probe_at = now + PROBE
        if seen is False:
            self._met = -REMEMBERED

    def woken(self, now: float) -> None:
        """A plain claim found nothing more: ask, if there were such tasks lately, and no look has denied it since."""
        if now < self._met + REMEMBERED:
            self.at = now

    def seen(self, now: float) -> None:
        """A look has seen such a task."""
        if self.at is None:
            self.at = now
            self._far = False

    def ended(self) -> None:
        """A run of such a task has ended, and may have left a place: its report and the next ask go together."""
        if self.waiting:
            self.at = 0.0

    def forget(self) -> None:
        """Begin anew, under a new lease."""
        self.at = self._probe_at = None
        self.waiting = self._far = False
