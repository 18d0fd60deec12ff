"""Who is listened to when: a worker that can do nothing about what its children say had better not wake for it."""

from __future__ import annotations

import selectors


class Earshot:
    """The sockets of children that each run one task, as one thing that a loop can wait for.

    While the next processes are being forked their words wait. They are about ends, and about an end nothing can be
    done before the next order, in which those that begin then go together. Waking for each took a worker half as much
    time again.
    """

    def __init__(self, outer: selectors.BaseSelector) -> None:
        self.selector = selectors.DefaultSelector()
        self._outer = outer
        self._open = False
        self.hear(True)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when one of them speaks."""
        return int(getattr(self.selector, "fileno")())  # noqa: B009 - of those that wait in the kernel

    def hear(self, hear: bool) -> None:
        """Have the loop wake for them, or not."""
        if hear != self._open:
            self._open = hear
            if hear:
                self._outer.register(self, selectors.EVENT_READ, self)
            else:
                self._outer.unregister(self)

    def close(self) -> None:
        """Give the descriptor back."""
        self.hear(False)
        self.selector.close()
