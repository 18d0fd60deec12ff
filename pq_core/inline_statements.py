"""The worker's claim and report as statements of a client: one parameter, rows of one JSON text, no lease.

The text is the worker's own, so that what ``run_inline`` records is what a worker would.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from pq_core import payload
from pq_core.executor import Statement
from pq_core.rows import Rows
from pq_core.sql_names import identifier
from pq_core.store import Request, load, text_of
from pq_core.types import ClaimedTask
from pq_core.worker.rows import Row, claimed_task

WORKER_ID = 0
"""Stands where a worker's id would; no lease ever has it."""


def claim(schema: str, queues: Sequence[str] | None) -> Request[ClaimedTask | None]:
    """Claim one task that is due, of all queues or of these; None when there is none."""
    parameters = payload.dumps({"queues": None if queues is None else list(queues)})
    return Request(_claim(schema), parameters, lambda rows: claimed_task(_columns(rows[0])) if rows else None)


def report(schema: str, ends: bytes) -> Request[list[Row]]:
    """Record ends of attempts, given as the worker encodes them; the rows of its report."""
    return Request(_report(schema), ends.decode(), _answers)


def _answers(rows: Rows) -> list[Row]:
    return [_columns(row) for row in rows]


def _columns(row: str) -> Row:
    """Return the values of one row in their order, as the worker's connection would have read them."""
    return tuple(None if value is None else str(value).encode() for value in json.loads(row).values())


@lru_cache(maxsize=64)
def _claim(schema: str) -> Statement:
    text = _text("worker", "claim_one_queue")
    begin, end = text.index("\n), claimed AS (") + 1, text.rindex("\nSELECT * FROM claimed")
    claimed = text[begin:end].replace("$1::bigint", str(WORKER_ID))
    return load("inline_claim", _text("client", "inline_claim").replace("{claimed}", claimed), _words(schema))


@lru_cache(maxsize=64)
def _report(schema: str) -> Statement:
    text = _text("worker", "report").replace("$1::bigint", f"cast({WORKER_ID} AS bigint)")
    text = text.replace("$2::jsonb", "cast(cast({parameters} AS text) AS jsonb)").replace("{{}}", "{}")
    # What writes must stay at the top level, so the answer becomes one more of its tables.
    place = text.rindex("\n)\nSELECT ") + 2
    body, answer = text[:place], text[place:].strip().rstrip(";")
    return load(
        "inline_report", f"{body}, answer AS ({answer}\n) SELECT cast(to_json(a) AS text) FROM answer a", _words(schema)
    )


def _text(folder: str, name: str) -> str:
    return "\n".join(line for line in text_of(name, folder).splitlines() if not line.lstrip().startswith("--"))


def _words(schema: str) -> dict[str, str]:
    return {"schema": identifier(schema)}
