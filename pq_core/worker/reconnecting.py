"""When a lost connection is tried again: soon, then less often, and not by all workers at the same time."""

from __future__ import annotations

FIRST_PAUSE = 0.1
"""Seconds before the first try; each that fails doubles them."""
SHORT_PAUSE = 1.0
"""Seconds between two of the quick tries at most: so late does a server that is back meet its workers."""
QUICK_TRIES = 30
"""Tries before the pauses grow longer than that: some twenty seconds, in which a server restarts or a standby takes
over. A thousand workers then ask some 2,700 times a second, which costs little where nothing listens."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries at most."""


def pause_before(attempt: int, draw: float) -> float:
    """Return the seconds to wait before the ``attempt``-th try (from 1) since the connection last served.

    ``draw``: a random number from 0 up to 1. Half of each pause is drawn, so that those who lost their connections at
    the same moment don't come back at the same moment.
    """
    quick = min(FIRST_PAUSE * 2.0 ** min(attempt - 1, 10), SHORT_PAUSE)
    longest = min(quick * 2.0 ** min(max(attempt - QUICK_TRIES, 0), 10), LONGEST_PAUSE)
    return longest * (0.5 + draw / 2)
