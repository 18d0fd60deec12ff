"""Who is listened to when: a worker that can do nothing about what its children say had better not wake for it."""

from __future__ import annotations

import selectors
from time import monotonic
from typing import Any, Self

LONGEST = 0.05
"""Seconds that a word waits at most."""
SHORTEST = 0.001
"""Seconds that the rest of one waits which was begun: a long one comes in pieces of what a socket holds."""


class Earshot:
    """The sockets of children that each run one task, as one thing that a loop can wait for.

    While processes are being forked their words wait, until that is over or for ``LONGEST``. Nearly all are about ends,
    and about an end nothing can be done before the next order, in which those that begin then go together. Waking for
    each took a worker half as much time again.
    """

    def __init__(self, outer: selectors.BaseSelector, inner: selectors.BaseSelector) -> None:
        self.selector = inner
        self.fileno = getattr(inner, "fileno")  # noqa: B009 - ``beside`` has looked
        self._outer = outer
        self._quiet_until: float | None = None
        outer.register(self, selectors.EVENT_READ, self)

    @classmethod
    def beside(cls, outer: selectors.BaseSelector) -> Self | None:
        """Return one whose loop waits with ``outer``; None where what waits in a process can't be waited for itself."""
        inner = selectors.DefaultSelector()
        if hasattr(inner, "fileno"):
            return cls(outer, inner)
        inner.close()
        return None

    def hush(self) -> None:
        """Have the loop not wake for them for the time being."""
        if self._quiet_until is None:
            self._outer.unregister(self)
            self._quiet_until = monotonic() + LONGEST

    def hear(self) -> None:
        """Have the loop wake for them again."""
        if self._quiet_until is not None:
            self._quiet_until = None
            self._outer.register(self, selectors.EVENT_READ, self)

    @property
    def next_event(self) -> float | None:
        """When they have waited for long enough."""
        return self._quiet_until

    def waiting(self) -> list[Any]:
        """Return those that have said something that was not read."""
        if self._quiet_until is not None:
            self._quiet_until = monotonic() + LONGEST
        return [key.data for key, _ in self.selector.select(0)]

    def wait_for_rest(self) -> None:
        """Have the loop come back soon: what was read was only a part."""
        if self._quiet_until is not None:
            self._quiet_until = monotonic() + SHORTEST

    def close(self) -> None:
        """Give the descriptor back."""
        if self._quiet_until is None:
            self._outer.unregister(self)
        self.selector.close()
