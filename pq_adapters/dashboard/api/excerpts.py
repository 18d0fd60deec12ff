"""Lists of tasks whose answers are bounded: long values are left out or cut, and named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pq_adapters.dashboard.reading import ask_text
from pq_core import rows
from pq_core.filters import Filter, conditions
from pq_core.payload import dumps
from pq_core.plain import plain
from pq_core.types import ScheduleRecord

if TYPE_CHECKING:
    from pq_core.client import PQ

MOST = 2000
"""Bytes of a document and characters of a text that a list shows: a page of 500 tasks stays at some megabytes."""


NEWEST = "t.id DESC"
LATEST_TICK = "t.tick_at DESC"


async def task_excerpts(pq: PQ, chosen: Filter, *, limit: int, order: str = NEWEST) -> list[dict[str, Any]]:
    """Return tasks that match, as JSON documents. ``excerpts``: the names of what is not whole."""
    words: dict[str, str | int] = {"conditions": conditions(chosen), "order": order, "most": MOST}
    found = await ask_text(pq, "task_excerpts", {**chosen.parameters(), "limit": limit}, **words)
    return [
        {**plain(task.shown()), "excerpts": json.loads(row)["excerpts"]}
        for row, task in zip(found, rows.tasks(found), strict=True)
    ]


def schedule_excerpt(record: ScheduleRecord) -> dict[str, Any]:
    """Return a schedule as a JSON document, without its arguments where they are long."""
    document: dict[str, Any] = plain(record.shown())
    long = len(dumps(document["payload"]).encode()) > MOST
    return {**document, "payload": None if long else document["payload"], "excerpts": ["payload"] if long else []}
