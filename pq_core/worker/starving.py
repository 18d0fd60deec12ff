"""Whether a process that does not answer hangs, or waits for a processor: told by what the kernel counts of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process has had since it began, in seconds. ``runnable``: it runs just now, or waits for a processor."""

    runnable: bool
    ran: float
    waited: float


def sample(pid: int) -> Sample | None:
    """Look at a process (its first thread); None where the kernel says nothing of it, or it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - no pathlib in an image
            state = file.read().rpartition(b")")[2].split()[0]
        with open(f"/proc/{pid}/schedstat", "rb") as file:  # noqa: PTH123
            ran, waited = file.read().split()[:2]
    except (OSError, IndexError, ValueError):
        return None
    return Sample(state == b"R", int(ran) / 1e9, int(waited) / 1e9)


def silent(before: Sample | None, after: Sample | None, elapsed: float) -> float:
    """Return how many of ``elapsed`` seconds count against a process that owes an answer: when it could have given one.

    Not when it was ready to run and was not let. The kernel notes such a wait when it is over: of one that is runnable
    only what it ran counts. All of it counts where nothing is known.
    """
    if before is None or after is None:
        return elapsed
    waited = elapsed - (after.ran - before.ran) if after.runnable else after.waited - before.waited
    return min(max(elapsed - waited, 0.0), elapsed)
