"""A task as the process gets it that is forked for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pq_core.types import ClaimedTask
from pq_core.worker import handing, inbox

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def claimed(**more: Any) -> ClaimedTask:
    fields: dict[str, Any] = {
        "id": 7, "name": "a.b", "queue": "q", "priority": -5, "fence": 2**40, "number": 2, "max_attempts": 5,
        "payload": '{"args": ["ü"]}', "headers": {}, "version": 1, "run_at": NOON, "created_at": NOON,
        "started_at": NOON,
    }  # fmt: skip
    return ClaimedTask(**{**fields, **more})


@pytest.mark.parametrize(
    "task",
    [
        claimed(),
        claimed(client_id="x", timeout=0.5, options={"memory_limit": 2**40, "backoff": {"base": 2}}, losses=3),
        claimed(headers={"traceparent": "00-ab"}, schedule_id=1, tick_at=NOON, on_lost="fail", unroutable=1.5),
        claimed(run_at=datetime.max.replace(tzinfo=UTC), created_at=datetime.min.replace(tzinfo=UTC)),
        claimed(started_at=NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))),
    ],
    ids=["plain", "options", "of a schedule", "ends of time", "another timezone"],
)
@pytest.mark.parametrize("arguments", [None, ((), {}), ((1, [2.5, None, True]), {"key": {"ü": "x" * 1000}})])
def test_what_arrives_is_what_was_handed(task: ClaimedTask, arguments: handing.Arguments | None) -> None:
    found = handing.unpack(handing.pack(task, arguments))
    assert found == (task, arguments)
    assert type(found[0]) is ClaimedTask  # type: ignore[index]


def test_a_row_is_told_apart() -> None:
    assert handing.unpack(inbox.pack([b"1", None])) is None


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(ValueError, match="deeply nested"):
        handing.pack(claimed(options={"deep": deep}), None)
