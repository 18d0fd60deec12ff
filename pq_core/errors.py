"""Every error that pq raises, under one base; the three signals that a task raises itself stand apart."""

from __future__ import annotations

from datetime import datetime, timedelta

# The base and the hooks' own error live below us: pq_hooks imports nothing of pq_core.
from pq_hooks.errors import PluginError as PluginError
from pq_hooks.errors import PQError as PQError


class DatabaseNotConfigured(PQError):
    """Raised at first use when no DSN was given and neither PQ_DATABASE_URL nor DATABASE_URL is set."""


class InvalidDSN(PQError, ValueError):
    """Raised when a DSN names another kind of database or can't be parsed."""


class DatabaseUnavailable(PQError):
    """Raised when the database can't be reached; ``__cause__`` is the driver's error."""


class EmbeddedServerError(PQError):
    """Raised when the embedded Postgres can't be found or started."""


class NotMigrated(PQError):
    """Raised when the schema has no tables of pq, or older ones than this code needs."""


class SchemaDamaged(NotMigrated):
    """Raised when the schema lacks what its revision should hold; the message names it, and the fix."""


class SchemaIncompatible(PQError):
    """Raised when the schema is newer than this code can work with, or holds another product's tables."""


class UseAsync(PQError, TypeError):
    """Raised when a sync method meets an async session; the message names the call to make."""


class UseSync(PQError, TypeError):
    """Raised when an async method meets a sync session; the message names the call to make."""


class UnsupportedConnection(PQError, TypeError):
    """Raised when ``using()`` is given an object that no adapter knows."""


class TransactionRequired(PQError):
    """Raised when ``require_transaction=True`` and no transaction is open on the connection."""


class InvalidTask(PQError, ValueError):
    """Raised when a task function or its options can't be accepted: at its definition or at its call."""


class TaskNotAllowed(PQError):
    """Raised at enqueue when the function is neither registered nor in an allowed module."""


class UnknownTask(PQError, LookupError):
    """Raised when no task of this name is registered here."""


class PayloadError(PQError, TypeError):
    """Raised when an argument can't be stored so that it arrives equal and of the same type."""


class PayloadTooLarge(PayloadError):
    """Raised when the encoded arguments exceed ``payload_limit`` bytes."""


class PayloadDecodeError(PQError, ValueError):
    """Raised in the child when stored arguments can't be turned back into Python values."""


class KeysNotConfigured(PQError):
    """Raised when a task says ``payload="pickle"`` or ``"encrypted"`` and there is no key."""


class InvalidOption(PQError, ValueError):
    """Raised when an option has a value that makes no sense; names the option, the value and the fix."""


class DuplicateClientId(PQError):
    """Raised when the ``client_id`` is taken. The caller's transaction stays usable."""

    def __init__(self, client_id: str, existing_id: int) -> None:
        super().__init__(
            f"client_id {client_id!r} already names task {existing_id}; "
            'pass on_duplicate="return" to get that id, or use upsert() to replace it'
        )
        self.client_id = client_id
        self.existing_id = existing_id


class TaskNotFound(PQError, LookupError):
    """Raised when no task has the id."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"there is no task {task_id}: it was deleted or pruned, or its transaction rolled back")
        self.task_id = task_id


class ScheduleNotFound(PQError, LookupError):
    """Raised when no schedule is the one that is meant."""


class WaitTimeout(PQError, TimeoutError):
    """Raised by ``wait`` when the task has not finished in time. ``reason``: what stands in its way, if known."""

    def __init__(self, task_id: int, timeout: float, status: str) -> None:
        super().__init__(f"task {task_id} is still {status} after {timeout:g} s")
        self.task_id = task_id
        self.status = status
        self.reason: str | None = None

    def explain(self, reason: str | None) -> None:
        """Say what stands in the task's way, where that is known."""
        if reason is not None:
            self.reason = reason
            self.args = (f"{self}; {reason}",)


class TaskFailed(PQError):
    """Raised by ``wait`` when the task ended failed or cancelled."""

    def __init__(self, task_id: int, status: str, outcome: str | None, error: str | None) -> None:
        last = (error or "").strip().splitlines()[-1:] or [outcome or status]
        super().__init__(f"task {task_id} {status}: {last[0]}")
        self.task_id = task_id
        self.status = status
        self.outcome = outcome
        self.error = error


class ResultNotStored(PQError):
    """Raised by ``wait`` when the task completed and what it returned can't be stored, so that there is no result."""

    def __init__(self, task_id: int, reason: str) -> None:
        super().__init__(f"task {task_id} completed, but {reason}")
        self.task_id = task_id
        self.reason = reason


class NoCurrentAttempt(PQError, RuntimeError):
    """Raised by ``current_attempt()`` outside a running task."""


class AttemptLost(PQError):
    """Raised by ``complete`` when this attempt no longer owns its task; the caller's transaction must fail."""


class AppNotFound(PQError):
    """Raised by command lines when ``module:object`` names no PQ."""


class WorkerStartError(PQError):
    """Raised when a worker can't start: threads before the fork under ``--strict``, bad queues, no tasks."""


class ForkServerLost(PQError):
    """Raised when the process that forks a worker's children has ended or hangs; they have ended with it.

    The worker can't go on. Under a keeper another one starts, and takes its tasks back. ``overloaded``: the machine let
    it wait for a processor meanwhile, so that no task is to blame.
    """

    overloaded = False


class Retry(Exception):
    """Raise in a task to try it again; counts as an attempt.

    ``after``: seconds or timedelta to wait, by default what the task's backoff says.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = _seconds("Retry", after)


class Snooze(Exception):
    """Raise in a task to put it back for ``after`` (seconds or timedelta) without counting an attempt."""

    def __init__(self, after: float | timedelta, reason: str = "") -> None:
        super().__init__(reason)
        self.after = _seconds("Snooze", after) or 0.0


class RateLimited(Snooze):
    """Raise in a task when a service asks for a pause: nothing more of its key starts for ``retry_after``.

    ``retry_after``: seconds or timedelta. The key is the task's ``concurrency_key``; without one its queue pauses. The
    task itself is put back for as long, without counting an attempt. What runs already goes on.
    """

    def __init__(self, retry_after: float | timedelta, reason: str = "") -> None:
        super().__init__(retry_after, reason)
        self.retry_after = self.after


class Cancel(Exception):
    """Raise in a task to end it as cancelled, for good."""


class Refuse(Exception):
    """Raise to fail a task that must not run here, and not to try it again: in it, or before it in ``pq_in_child``."""


class TaskTimeout(BaseException):
    """Raised inside a task when its timeout is over. A BaseException: ``except Exception`` lets it pass."""


class TaskCancelled(BaseException):
    """Raised inside a task when it is cancelled while running, or interrupted by a worker that stops.

    ``reason``: what ``pq.cancel(…, reason=…)`` said, its first 900 bytes or so; None without, and when interrupted.
    """

    def __init__(self, message: str = "", *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


def _seconds(what: str, after: float | timedelta | None) -> float | None:
    match after:
        case None:
            return None
        case timedelta():
            value = after.total_seconds()
        case datetime():
            raise ValueError(f"{what}(after={after!r}): give seconds or a timedelta, not a point in time")
        case _:
            value = float(after)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{what}(after={after!r}): give a finite number of seconds, 0 or more")
    return value
