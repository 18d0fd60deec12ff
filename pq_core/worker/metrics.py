"""What a worker counts of its own work, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pq_core.types import AttemptOutcome, ClaimedTask

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds: upper bounds of what is counted together."""
SERIES = 500
"""Names that are told apart; what comes later is counted under OTHER, so that a name made up per task does no harm."""
OTHER = "(other)"

Place = tuple[str, str]
Labels = dict[str, str]


@dataclass(slots=True)
class Histogram:
    """How many values fell into each bucket, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Counters:
    """Sums since the process started, by queue and name of the task."""

    ended: dict[tuple[str, str, str], int] = field(default_factory=dict)
    runs: dict[Place, Histogram] = field(default_factory=dict)
    waits: dict[Place, Histogram] = field(default_factory=dict)
    cpu: dict[Place, float] = field(default_factory=dict)

    def note(self, task: ClaimedTask, outcome: AttemptOutcome, waited: float) -> None:
        """Count one end. ``waited``: seconds from when it was due to its start."""
        place = (task.queue, task.name)
        if place not in self.runs:
            if len(self.runs) >= SERIES:
                place = (OTHER, OTHER)
            self.runs.setdefault(place, Histogram())
            self.waits.setdefault(place, Histogram())
            self.cpu.setdefault(place, 0.0)
        key = (*place, outcome.outcome.value)
        self.ended[key] = self.ended.get(key, 0) + 1
        self.runs[place].add(max(outcome.wall, 0.0))
        self.waits[place].add(max(waited, 0.0))
        self.cpu[place] += outcome.cpu_user + outcome.cpu_system

    def lines(self) -> Iterator[str]:
        """Return what was counted."""
        yield from _head("pq_attempts_total", "counter", "Attempts that ended, by outcome.")
        for (queue, name, outcome), count in sorted(self.ended.items()):
            yield _line("pq_attempts_total", {"queue": queue, "task": name, "outcome": outcome}, count)
        yield from _head("pq_attempt_cpu_seconds_total", "counter", "Processor time of attempts.")
        for (queue, name), seconds in sorted(self.cpu.items()):
            yield _line("pq_attempt_cpu_seconds_total", {"queue": queue, "task": name}, round(seconds, 6))
        yield from _histograms("pq_attempt_run_seconds", "How long attempts ran.", self.runs)
        yield from _histograms("pq_attempt_wait_seconds", "How long tasks waited after they were due.", self.waits)


def gauge(name: str, help_: str, value: float, labels: Labels | None = None) -> Iterator[str]:
    """Return the lines of one value that goes up and down."""
    yield from _head(name, "gauge", help_)
    yield _line(name, labels or {}, value)


def _histograms(name: str, help_: str, found: dict[Place, Histogram]) -> Iterator[str]:
    yield from _head(name, "histogram", help_)
    for (queue, task), histogram in sorted(found.items()):
        labels = {"queue": queue, "task": task}
        so_far = 0
        for bound, count in zip((*BUCKETS, float("inf")), histogram.counts, strict=True):
            so_far += count
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield _line(f"{name}_bucket", {**labels, "le": edge}, so_far)
        yield _line(f"{name}_sum", labels, round(histogram.total, 6))
        yield _line(f"{name}_count", labels, so_far)


def _head(name: str, kind: str, help_: str) -> Iterator[str]:
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Labels, value: float) -> str:
    words = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{words}}} {value}" if words else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
