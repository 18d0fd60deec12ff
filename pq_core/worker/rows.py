"""Rows of a claim into tasks: a leaf, since a reused child does it too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pq_core.types import ClaimedTask
from pq_core.worker.thawing import thawed

Row = Sequence[bytes | None]
"""What the database sent for one row, each column in its text form."""

Key = tuple[int, int, datetime]
"""What tells a claim from every other: the task's id, the fence, and when it was claimed, to the microsecond.

Where the database goes back to an earlier time, ids and fences come again, for other tasks. The moment does not.
"""

LAST = datetime.max.replace(tzinfo=UTC)
_EMPTY = (b"{}", None)
_FIRST = datetime.min.replace(tzinfo=UTC)

_Thawed = thawed(ClaimedTask)


def claimed_task(row: Row) -> ClaimedTask:
    """Return the task of one row of a claim; columns in the order of RETURNING in claim_one_queue.sql."""
    (
        id_, name, queue, priority, fence, attempt, max_attempts, payload, headers, version, run_at, created_at,
        started_at, client_id, timeout, options, losses, snoozes, schedule_id, tick_at, on_lost, unroutable,
    ) = row  # fmt: skip
    task = _Thawed()
    task.id = int(id_ or 0)
    task.name = _text(name)
    task.queue = _text(queue)
    task.priority = int(priority or 0)
    task.fence = int(fence or 0)
    task.number = int(attempt or 0)
    task.max_attempts = int(max_attempts or 0)
    task.payload = _text(payload)
    task.headers = {} if headers in _EMPTY else _headers(headers)
    task.version = int(version or 0)
    task.run_at = moment(run_at) or LAST
    task.created_at = moment(created_at) or LAST
    task.started_at = moment(started_at) or LAST
    task.client_id = None if client_id is None else _text(client_id)
    task.timeout = None if timeout is None else _timeout(float(timeout))
    task.options = {} if options in _EMPTY else _options(options)
    task.losses = int(losses or 0)
    task.snoozes = int(snoozes or 0)
    task.schedule_id = None if schedule_id is None else int(schedule_id)
    task.tick_at = moment(tick_at)
    task.on_lost = "fail" if on_lost == b"fail" else "retry"
    task.unroutable = None if unroutable is None else float(unroutable)
    task.__class__ = ClaimedTask
    return task  # type: ignore[no-any-return]


def claim_key(task: ClaimedTask) -> Key:
    """Return the key of the claim that the task came from."""
    return task.id, task.fence, task.started_at


@lru_cache(maxsize=256)  # tasks that were enqueued or claimed together have theirs in common
def moment(value: bytes | None) -> datetime | None:
    """Return an aware datetime from Postgres' ISO text form, None for NULL; infinity becomes the outermost date."""
    if value is None:
        return None
    text = value.decode()
    if len(text) > 4 and text[4] == "-" and text[-3:] == "+00":
        return datetime.fromisoformat(text)  # of this era and in UTC, as the worker's sessions have it
    if text.startswith(("infinity", "-infinity")) or text.endswith("BC") or len(text.split("-", 1)[0]) > 4:
        return _FIRST if text[0] == "-" or text.endswith("BC") else LAST
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the first or last day of Python's time, in another timezone
        return _FIRST if text.startswith("0001") else LAST


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _timeout(seconds: float) -> float:
    # A row written by hand may hold anything: nothing waits for NaN, and no timer takes an infinity.
    return min(max(seconds, 0.0), 365 * 86400.0) if seconds == seconds else 0.0


def _object(value: bytes) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):  # nested deeper, or a number longer, than Python takes
        return {}
    return found if isinstance(found, dict) else {}


_NUMBERS = ("memory_limit", "grace", "result_limit")


def _options(value: bytes) -> dict[str, Any]:
    """Return the stored options; those that no code of pq writes so are in ``absurd``, in words."""
    found = _object(value)
    absurd = [name for name in _NUMBERS if name in found and not _is_number(found[name])]
    if not found and value.strip() not in (b"{}", b"null"):
        absurd = ["all of them"]
    for name in absurd:
        found.pop(name, None)
    return {**found, "absurd": ", ".join(absurd)} if absurd else found


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value < 2**62


def _headers(value: bytes) -> dict[str, str]:
    return {str(key): item if isinstance(item, str) else _as_text(item) for key, item in _object(value).items()}


def _as_text(item: object) -> str:
    try:
        return json.dumps(item)
    except RecursionError:
        return "…"
