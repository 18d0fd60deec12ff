"""How much work is worth having at hand: short tasks are fetched ahead, long ones never."""

from __future__ import annotations

from dataclasses import dataclass, field

HORIZON = 0.05
"""Seconds of work that may wait with one child beside what it does: longer than a round trip to the database, short
enough that nobody else could have done much of it sooner."""
MOST_AHEAD = 250
"""Tasks that may wait with one child at most. With 2,000 in flight the database was slower than with 600."""
REMEMBERED = 1000
"""Task functions whose length is remembered."""
_WEIGHT = 1 / 8
_FEW = 3


@dataclass(slots=True)
class Pace:
    """How long attempts take, as one worker sees it: seconds, newer ones weighing more.

    A function that is not known yet counts as long: it runs before anything is put behind it.
    """

    _average: float = 0.0
    _seen: int = 0
    _by_name: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, seconds: float) -> None:
        """Take in that an attempt of ``name`` took so long."""
        before = self._by_name.get(name)
        if before is None and len(self._by_name) >= REMEMBERED:
            self._by_name.clear()
        # A first attempt pays for imports and caches: the second one corrects it at once.
        self._by_name[name] = seconds if before is None else before + (min(seconds, 2 * HORIZON) - before) * _WEIGHT
        self._seen += 1
        self._average += (min(seconds, 2 * HORIZON) - self._average) / min(self._seen, 1 / _WEIGHT)

    def expected(self, name: str) -> float:
        """Return the seconds that an attempt of ``name`` will take; HORIZON where nothing is known."""
        return min(self._by_name.get(name, HORIZON), HORIZON)

    def ahead(self) -> int:
        """Return how many tasks may wait with each child, going by what ended lately."""
        if self._seen < _FEW:
            return 0
        return min(MOST_AHEAD, int(HORIZON / max(self._average, 1e-6)))
