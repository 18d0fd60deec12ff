"""What can be said of a worker, checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pq_core.errors import InvalidOption

BANDS: dict[str, tuple[int, int]] = {
    "critical": (100, 32767),
    "high": (75, 99),
    "normal": (50, 74),
    "low": (25, 49),
    "batch": (-32768, 24),
}
"""Priorities by name, as bands: Django's -100…100 and any other integer fall into one of them."""

MOST_SPARES = 8
"""Processes forked ahead where nothing else is said: more tasks than that at once are no sudden single ones."""
LONGEST_LEASE = 3600.0
SHORTEST_LEASE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of one worker.

    ``queues``: the lanes it serves; None: those that its tasks declare, and ``default``. ``priorities``: names of
    bands (critical, high, normal, low, batch); None: all. ``concurrency``: children at once, default one per
    core. ``tasks_per_child``: tasks that one child runs before it is replaced. ``async_concurrency``: async
    tasks at once in one more child that they share; 1: each task has a process. ``lease``: seconds after which
    a silent worker counts as dead (3 to 3600). ``until_empty``: stop when nothing is due. ``poll_interval``:
    seconds between looks when nothing wakes it. ``max_runtime``: timeout in seconds of tasks that have none.
    ``grace``: seconds between SIGTERM and SIGKILL. ``drain_timeout``: seconds that running tasks get when the
    worker is asked to stop. ``memory_limit``: bytes a task may add where it says nothing itself;
    ``"auto"``: the cgroup's limit less the image, shared among the children. ``strict``:
    refuse to start with threads. ``output_tail``: bytes of output kept per attempt. ``result_limit``: bytes of
    an encoded result. ``huge_pages``: keep the image in huge pages where the system has them, which makes forks of
    large images cheap. ``immortal``: what is loaded when the worker starts counts its references no more, which makes
    tasks touch less memory; not for a process that goes on to something else. ``prune_share``: of the
    database's time that deleting old tasks may take, 0 for none, with ``prune_interval`` seconds between two rounds.
    ``spares``: processes forked ahead that wait for a task where each task has one of its own; None: as many as
    ``concurrency``, from 2 to 8.
    ``ageing``: seconds of waiting after which a task counts one band of priorities higher, and so on; None: never.
    ``metrics_port``: serve Prometheus' text there, the next process of a keeper on the next port; ``metrics_host``: the
    address to bind. ``log_traceback``: log the whole error of a failed attempt, not only the line that says most.
    ``unroutable_after``: seconds after which a task that no worker can run has failed.
    """

    queues: tuple[str, ...] | None = None
    priorities: tuple[str, ...] | None = None
    concurrency: int = 0
    tasks_per_child: int = 1
    spares: int | None = None
    async_concurrency: int = 1
    ageing: float | None = None
    lease: float = 30.0
    until_empty: bool = False
    once: bool = False
    poll_interval: float = 1.0
    max_runtime: float | None = None
    grace: float = 5.0
    drain_timeout: float = 25.0
    memory_limit: int | Literal["auto"] | None = None
    max_child_memory: int | None = None
    strict: bool = False
    health_file: str | None = None
    output_tail: int = 16 * 1024
    result_limit: int = 1024 * 1024
    huge_pages: bool = True
    immortal: bool = False
    unroutable_after: float = 3600.0
    release_delay: float = 15.0
    prune_share: float = 0.1
    prune_interval: float = 60.0
    log_traceback: bool = False
    metrics_port: int | None = None
    metrics_host: str = "0.0.0.0"

    def __post_init__(self) -> None:
        if not self.concurrency:
            object.__setattr__(self, "concurrency", os.cpu_count() or 1)
        for name in ("queues", "priorities"):
            value = getattr(self, name)
            if isinstance(value, str):
                value = value.split(",")
            if value is not None:
                object.__setattr__(self, name, _names(name, value))
        _whole("concurrency", self.concurrency, 1, 1000)
        _whole("tasks_per_child", self.tasks_per_child, 1, 10_000_000)
        if self.spares is not None:
            _whole("spares", self.spares, 0, 1000)
        _whole("async_concurrency", self.async_concurrency, 1, 100_000)
        _whole("output_tail", self.output_tail, 0, 16 * 2**20)
        _whole("result_limit", self.result_limit, 1024, 256 * 2**20)
        if (
            isinstance(self.prune_share, bool)
            or not isinstance(self.prune_share, (int, float))
            or not (0 <= self.prune_share <= 1)
        ):
            raise InvalidOption(f"prune_share={self.prune_share!r}: give a share from 0 to 1")
        _seconds("prune_interval", self.prune_interval, 0.01, 86400)
        if self.metrics_port is not None:
            _whole("metrics_port", self.metrics_port, 1, 65535)
        _seconds("lease", self.lease, SHORTEST_LEASE, LONGEST_LEASE)
        _seconds("poll_interval", self.poll_interval, 0.01, 3600)
        _seconds("grace", self.grace, 0, 3600)
        _seconds("drain_timeout", self.drain_timeout, 0, 7 * 86400)
        _seconds("unroutable_after", self.unroutable_after, 0, 365 * 86400)
        _seconds("release_delay", self.release_delay, 0.01, 3600)
        if self.ageing is not None:
            _seconds("ageing", self.ageing, 1, 365 * 86400)
        if self.max_runtime is not None:
            _seconds("max_runtime", self.max_runtime, 0.001, 365 * 86400)
        if self.memory_limit is not None and self.memory_limit != "auto":
            _whole("memory_limit", self.memory_limit, 1024 * 1024, 2**60)
        if self.max_child_memory is not None:
            _whole("max_child_memory", self.max_child_memory, 1024 * 1024, 2**60)
        for band in self.priorities or ():
            if band not in BANDS:
                raise InvalidOption(f"priorities: there is no band {band!r}; known are {', '.join(BANDS)}")

    @property
    def spare_processes(self) -> int:
        """How many processes to fork ahead: none where they are reused, or for a single task."""
        if self.tasks_per_child > 1 or self.once:
            return 0
        return min(max(self.concurrency, 2), MOST_SPARES) if self.spares is None else self.spares

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of priorities to claim from, highest first, neighbours joined."""
        if self.priorities is None:
            return [(-32768, 32767)]
        joined: list[tuple[int, int]] = []
        for low, high in sorted({BANDS[name] for name in self.priorities}, reverse=True):
            if joined and joined[-1][0] == high + 1:
                joined[-1] = (low, joined[-1][1])
            else:
                joined.append((low, high))
        return joined


def _names(option: str, value: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() if isinstance(name, str) else name for name in value))
    for name in names:
        if not isinstance(name, str) or not name or "\x00" in name:
            raise InvalidOption(f"{option}: {name!r} is not a name")
    if not names:
        raise InvalidOption(f"{option}: the list is empty; leave the option out for the default")
    return names


def _whole(option: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOption(f"{option}={value!r}: give a whole number from {low} to {high}")


def _seconds(option: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidOption(f"{option}={value!r}: give seconds from {low:g} to {high:g}")


DRIVER = 16 * 2**20
"""Bytes that a worker has beside the image: the driver, asyncio, its loop."""


def automatic_memory_limit(limit: int | None, image: int, concurrency: int) -> int | None:
    """Return what each of ``concurrency`` children may add under a cgroup limit, None without one.

    Raises InvalidOption when less than 16 MiB would be left for each.
    """
    if limit is None:
        return None
    share = (limit - image) // concurrency
    if share < 16 * 2**20:
        raise InvalidOption(
            f"memory_limit=auto: {limit >> 20} MiB less an image of {image >> 20} MiB leave {max(share, 0) >> 20} MiB "
            f"for each of {concurrency} children; lower the concurrency or raise the container's limit"
        )
    return share


def parse_size(text: str) -> int:
    """Return bytes from ``512M``, ``2G``, ``1048576``; units are powers of 1024.

    Raises InvalidOption for anything else.
    """
    units: Sequence[str] = "KMGT"
    cleaned = text.strip().upper().removesuffix("IB").removesuffix("B")
    factor = 1
    if cleaned and cleaned[-1] in units:
        factor = 1024 ** (units.index(cleaned[-1]) + 1)
        cleaned = cleaned[:-1]
    try:
        value = float(cleaned) * factor
    except ValueError:
        raise InvalidOption(f"{text!r} is not a size: give bytes, or a number with K, M or G") from None
    if not 0 < value < 2**60:
        raise InvalidOption(f"{text!r} is not a size: give bytes, or a number with K, M or G")
    return int(value)
