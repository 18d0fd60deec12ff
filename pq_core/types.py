"""The values everything else speaks of: a leaf that imports the standard library alone."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from pq_core.tasks import Call

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

JSON = Any
"""Anything that ``json.loads`` returns."""

HIDDEN = "(hidden: the task is sensitive)"
HIDDEN_ARGUMENTS: JSON = {"args": [HIDDEN], "kwargs": {}}
"""What stands for what a sensitive task does not show."""


class Priority(enum.IntEnum):
    """How urgent a task is; higher runs first. Any integer from -32768 to 32767 is accepted too."""

    BATCH = 0
    LOW = 25
    NORMAL = 50
    HIGH = 75
    CRITICAL = 100


class TaskStatus(enum.StrEnum):
    """Where a task stands; the text stored in ``pq_tasks.status``.

    ``BLOCKED``: due, and waiting for a place under a limit of its own; see ``concurrency_key`` of ``CallOptions``.
    """

    PENDING = "pending"
    BLOCKED = "blocked"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """True for the states that a task does not leave by itself."""
        return self in _FINISHED


_FINISHED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class Outcome(enum.StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    RAISED = "raised"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    RELEASED = "released"


class Role(enum.StrEnum):
    """What the running process is to pq."""

    CLIENT = "client"
    WORKER = "worker"
    CHILD = "child"


class TaskId(int, Generic[R_co]):
    """The id of an enqueued task: an ``int`` that remembers the type of the task's result."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before the next try: ``base * factor ** (failures - 1)`` seconds.

    ``base``: seconds before the first retry. ``factor``: growth per further failure. ``max``: ceiling in
    seconds. ``jitter``: share of the delay (0 to 1) drawn at random and added or taken away, so that tasks
    which failed together do not come back together.
    """

    base: float = 2.0
    factor: float = 2.0
    max: float = 600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name, low in (("base", 0.0), ("factor", 1.0), ("max", 0.0), ("jitter", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < float("inf"):
                raise ValueError(f"Backoff({name}={value!r}): give a finite number of at least {low:g}")
        if self.jitter > 1:
            raise ValueError(f"Backoff(jitter={self.jitter!r}): give a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` starts in ``seconds``, evenly spread. ``parse`` reads ``"10/s"``, ``"100/m"``, ``"1/30s"``, ``"5/2h"``.

    Raises ValueError for what is no such rate.
    """

    count: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        count, seconds = self.count, self.seconds
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= 1_000_000:
            raise ValueError(f"Rate(count={count!r}): give an integer from 1 to 1,000,000")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= 366 * 86400:
            raise ValueError(f"Rate(seconds={seconds!r}): give seconds above 0, a year at most")

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Return the rate that a text like ``"10/s"`` says."""
        found = re.fullmatch(r"\s*(\d{1,7})\s*/\s*(\d{1,9}(?:\.\d{1,6})?)?\s*(s|m|min|h|d)\s*", text)
        if found is None:
            raise ValueError(f"{text!r} is no rate: give a number per time, like 10/s, 100/m, 1/30s or 5000/d")
        unit = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[found[3]]
        return cls(int(found[1]), float(found[2] or 1) * unit)

    @property
    def per_second(self) -> float:
        """Starts per second."""
        return self.count / self.seconds

    def __str__(self) -> str:
        for letter, unit in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
            many = self.seconds / unit
            if many == int(many) or unit == 1:
                return f"{self.count}/{'' if many == 1 else f'{many:g}'}{letter}"
        raise AssertionError("unreachable")


OnLost = Literal["retry", "fail"]
OnDuplicate = Literal["raise", "return"]
Unique = Literal["retained", "unfinished"]
PayloadKind = Literal["json", "pickle", "encrypted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What is said of a task at its definition, as a ``PQ``'s default or for one call; ``None`` is unsaid.

    ``max_attempts``: how often it may start and fail (default 1). ``retry_on``/``no_retry_on``: exception
    classes that are (not) tried again; by default every ``Exception`` is. ``timeout``: seconds a run may
    take. ``grace``: seconds between SIGTERM and SIGKILL. ``memory_limit``: bytes the run may add to the
    worker's image. ``on_lost``: what happens when the worker died under it: ``"retry"`` (default) runs it
    again without counting an attempt, so that even with ``max_attempts=1`` it may start more than once;
    ``"fail"`` never starts it twice. ``max_starts``: how often it may start in all, counted or not (default 0: any
    number); then it fails. ``on_failure``: a call that is enqueued in the transition to failed.
    ``result_limit``: bytes of encoded result that are stored at most. ``payload``: how arguments and result are
    stored: as ``"json"`` (default), as a signed ``"pickle"``, or ``"encrypted"``; the last two need keys.
    ``sensitive``: arguments, result and output stay out of logs, hooks and views, and of errors only types and frames
    are kept. ``concurrency``: how many tasks of this name run at once, over all workers. ``rate``: how many start in a
    time, as ``"10/s"`` or ``"100/5m"``. ``detach``: processes that it starts in sessions of their own go on after it.
    ``strict_result``: a result that can't be stored fails the task, whose work is done by then.
    ``max_child_memory``: bytes above the image from which on a process that has run it runs no other task.
    """

    priority: int | None = None
    queue: str | None = None
    max_attempts: int | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    no_retry_on: tuple[type[BaseException], ...] | None = None
    backoff: Backoff | None = None
    timeout: float | None = None
    grace: float | None = None
    memory_limit: int | None = None
    on_lost: OnLost | None = None
    on_failure: Call[Any] | None = None
    result_limit: int | None = None
    payload: PayloadKind | None = None
    sensitive: bool | None = None
    concurrency: int | None = None
    rate: Rate | str | None = None
    max_starts: int | None = None
    detach: bool | None = None
    strict_result: bool | None = None
    max_child_memory: int | None = None

    def over(self, weaker: TaskOptions) -> TaskOptions:
        """Return these options, with what they leave unsaid taken from ``weaker``."""
        unsaid = {f.name: getattr(weaker, f.name) for f in fields(TaskOptions) if getattr(self, f.name) is None}
        return replace(self, **unsaid)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions(TaskOptions):
    """``TaskOptions`` and what can be said of one call only.

    ``run_at``: aware datetime before which it does not start. ``run_in``: the same as a distance from the
    database's now. ``client_id``: the caller's own unique name of the task. ``on_duplicate``: ``"raise"``
    (default) or ``"return"`` the id of the task that already has the ``client_id``. ``unique``: how long the
    ``client_id`` is taken: while the row is ``"retained"`` (default) or only while it is ``"unfinished"``.
    ``headers``: text by text, stored with the task, for hooks. ``require_transaction``: refuse to enqueue
    outside an open transaction. ``concurrency_key``: of all tasks with this key no more than ``concurrency_limit``
    (default 1) run at once, over all workers; with 1 they run one after another, in order.
    """

    run_at: datetime | None = None
    run_in: timedelta | None = None
    client_id: str | None = None
    on_duplicate: OnDuplicate | None = None
    unique: Unique | None = None
    headers: Mapping[str, str] | None = None
    require_transaction: bool | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One row of ``pq_tasks`` as the client returns it. Times are aware, in UTC."""

    id: int
    name: str
    status: TaskStatus
    queue: str
    priority: int
    run_at: datetime
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    client_id: str | None = None
    payload: JSON = None
    result: JSON = None
    error: str | None = None
    outcome: Outcome | None = None
    attempts: int = 0
    max_attempts: int = 1
    losses: int = 0
    snoozes: int = 0
    max_runtime_seconds: float | None = None
    version: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    worker_id: int | None = None
    fence: int = 0
    schedule_id: int | None = None
    tick_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    progress: float | None = None
    progress_message: str | None = None
    ledger: Mapping[str, Any] | None = None
    output: str | None = None
    unique: Unique = "retained"
    sensitive: bool = False

    def shown(self) -> TaskRecord:
        """Return what may be shown to people: of a sensitive task neither arguments nor result nor output."""
        if not self.sensitive:
            return self
        result = None if self.result is None else HIDDEN
        return replace(self, payload=HIDDEN_ARGUMENTS, result=result, output=None, progress_message=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """One row of ``pq_periodic`` as the client returns it. Times are aware, in UTC.

    ``next_run``: the next tick; None until a worker has planned it, or when the schedule has ended. ``last_run``: when
    a tick last became a task. ``unfinished``: its runs that have not ended. ``skipped``: ticks that found
    ``max_concurrent`` runs unfinished, ``last_skipped_at`` the time of the last one. ``missed``: ticks left out because
    no worker was there. ``app`` and ``declared_by`` (code, call): who declared it. ``error``: why it can't be
    worked out.
    """

    id: int
    name: str
    key: str
    payload: JSON
    priority: int
    queue: str
    active: bool
    client_id: str | None = None
    run_every: timedelta | None = None
    cron: str | None = None
    timezone: str | None = None
    next_run: datetime | None = None
    last_run: datetime | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    ended_at: datetime | None = None
    jitter: timedelta | None = None
    catch_up: str = "latest"
    catch_up_limit: int = 1000
    max_concurrent: int | None = 1
    max_runtime_seconds: float | None = None
    max_attempts: int = 1
    version: int = 1
    app: str | None = None
    declared_by: str | None = None
    unfinished: int = 0
    skipped: int = 0
    last_skipped_at: datetime | None = None
    missed: int = 0
    error: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    sensitive: bool = False

    def shown(self) -> ScheduleRecord:
        """Return what may be shown to people: of a sensitive task's schedule not the arguments."""
        return replace(self, payload=HIDDEN_ARGUMENTS) if self.sensitive else self


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One row of ``pq_attempts``: an attempt that was not a first-try success."""

    id: int
    task_id: int
    fence: int
    number: int
    outcome: Outcome
    worker_id: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    fingerprint: str | None = None
    ledger: Mapping[str, Any] | None = None
    output: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One row of ``pq_workers``: a live (or just dead) worker's lease.

    ``draining``: it takes nothing new, or was asked to. ``stopping``: it was asked to interrupt what it runs.
    """

    id: int
    name: str
    host: str
    pid: int
    app: str
    queues: tuple[str, ...]
    concurrency: int
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    alive: bool
    running: int
    pq_version: str
    draining: bool = False
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """What the worker knows of an attempt that has ended; what ``pq_post_task`` and ``pq_task_died`` get.

    ``final``: the task will not run again by itself. ``retry_in``: seconds until it does. ``error``: text
    with the traceback or the cause in words. ``exception_type``: dotted name of the exception's class.
    ``signal``: number of the signal that ended the child. ``exit_code``: its exit status. ``wall``, ``cpu_user``,
    ``cpu_system``: seconds. ``peak_memory``: bytes above the worker's image.
    """

    outcome: Outcome
    status: TaskStatus
    final: bool
    retry_in: float | None = None
    error: str | None = None
    exception_type: str | None = None
    signal: int | None = None
    exit_code: int | None = None
    wall: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    peak_memory: int = 0
    result: JSON = None
    output: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """One attempt that a test has run: by ``run_inline``, or by the fixture ``pq_worker``.

    ``id``, ``name``: the task's. ``number``: which attempt it was, from 1. ``status``: the task's after it. ``result``:
    what the function returned, decoded. ``error``: as it is stored. ``exception``: the exception itself, where it was
    raised in this process. ``retry_in``: seconds until the task runs again. ``wall``: seconds that it took.
    """

    id: int
    name: str
    number: int
    outcome: Outcome
    status: TaskStatus
    retry_in: float | None = None
    result: Any = None
    error: str | None = None
    exception: BaseException | None = None
    exception_type: str | None = None
    output: str | None = None
    wall: float = 0.0

    @property
    def final(self) -> bool:
        """True when the task will not run again by itself."""
        return self.status.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedTask:
    """A task as a worker holds it: claimed under ``fence``; ``number`` counts its attempts from 1.

    ``unroutable``: seconds since a worker first found that it can't run it.
    """

    id: int
    name: str
    queue: str
    priority: int
    fence: int
    number: int
    max_attempts: int
    payload: str
    headers: Mapping[str, str]
    version: int
    run_at: datetime
    created_at: datetime
    started_at: datetime
    client_id: str | None = None
    timeout: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    losses: int = 0
    snoozes: int = 0
    schedule_id: int | None = None
    tick_at: datetime | None = None
    on_lost: OnLost = "retry"
    unroutable: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What ``pq_worker_start`` and ``pq_worker_stop`` get."""

    id: int
    name: str
    host: str
    pid: int
    app: str
    queues: tuple[str, ...]
    concurrency: int


Plugin = object
"""Anything with methods named as the hooks of ``pq_hooks.specs``."""

DSN = str | Callable[[], str]
"""A libpq URL or key/value string, or a function that returns one (rotating tokens)."""
