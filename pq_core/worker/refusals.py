"""What this worker's code can't run: left out of its claims, so that each old worker refuses a new function once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

MOST = 1000
"""Names that are remembered; a task of any other goes back for ``release_delay`` each time, as if none were."""
LONGEST = 600.0
"""Seconds after which a name is tried again: only a claim can find that a task has been unroutable for too long."""
SHARE = 6
"""... or this part of ``unroutable_after``, if that is shorter."""


@dataclass(slots=True)
class Refusals:
    """Names of tasks, each with the lowest version refused. Times are of the monotonic clock.

    ``unroutable_after``: seconds. ``unsaid``: the worker's row does not say all of it yet.
    """

    unroutable_after: float
    unsaid: bool = False
    _lowest: dict[str, int] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)
    _next: float = 0.0
    _now: bytes | None = None

    def add(self, name: str, version: int, now: float) -> bool:
        """Leave out ``name`` from ``version`` on; False when there are too many."""
        known = self._lowest.get(name)
        if known is None and len(self._lowest) >= MOST:
            return False
        if known is None or version < known:
            self._lowest[name] = version
            self.unsaid = True
        self._until[name] = now + min(LONGEST, self.unroutable_after / SHARE)
        self._renew(now)
        return True

    def parameter(self, now: float) -> bytes | None:
        """Return what is left out now, as jsonb: name to lowest version; None for nothing."""
        if self._until and now >= self._next:
            self._renew(now)
        return self._now

    def say_again(self) -> None:
        """Note that the worker's row may not say it: it is another one, or the statement was rolled back."""
        self.unsaid = bool(self._lowest)

    def stored(self) -> bytes:
        """Return all of it, as the worker's row has it: what it tries again it is likely to refuse again."""
        return json.dumps(self._lowest).encode()

    def _renew(self, now: float) -> None:
        self._until = {name: until for name, until in self._until.items() if now < until}
        self._next = min(self._until.values(), default=0.0)
        left_out = {name: self._lowest[name] for name in self._until}
        self._now = json.dumps(left_out).encode() if left_out else None
