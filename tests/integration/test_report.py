"""What a report records when it holds more than one end of a task."""

from __future__ import annotations

import json

import psycopg
import pytest

from pq_core import PQ, TaskStatus
from pq_core.worker.claiming import Statements
from tests.integration import worker_tasks as tasks

OWNER = 77
CLAIMED = "2026-01-01T00:00:00.000001+00:00"


@pytest.mark.parametrize("newer_first", [False, True])
@pytest.mark.parametrize(
    ("older", "newer"), [("raised", "succeeded"), ("succeeded", "raised")], ids=["succeeds", "fails"]
)
def test_the_end_of_an_older_attempt_changes_nothing_of_the_newer(
    database: str, older: str, newer: str, newer_first: bool
) -> None:
    """An attempt completes itself, a parked version takes its place, and the same worker has run that, too."""
    with PQ(database, tasks=[tasks.__name__]) as pq, psycopg.connect(database, autocommit=True) as connection:
        id_ = pq.enqueue(tasks.add.call(1))
        connection.execute(
            "UPDATE pq_tasks SET status = 'running', worker_id = %s, fence = 2, attempts = 1, started_at = %s"
            " WHERE id = %s",
            (OWNER, CLAIMED, id_),
        )
        ends = [end(id_, 1, older), end(id_, 2, newer)]
        report = json.dumps(ends[::-1] if newer_first else ends).encode()
        query = Statements("public")["report"].text.encode()
        result = connection.pgconn.exec_params(query, [b"%d" % OWNER, report])
        assert result.status == 2, result.error_message.decode()
        answers = {result.get_value(row, 1): result.get_value(row, 3) for row in range(result.ntuples)}
        record = pq.get_task(id_)

    assert answers == {b"1": b"lost", b"2": b"recorded"}
    assert record is not None
    assert record.outcome == newer
    assert record.status is (TaskStatus.COMPLETED if newer == "succeeded" else TaskStatus.FAILED)


def end(id_: int, fence: int, outcome: str) -> dict[str, object]:
    return {
        "id": id_,
        "fence": fence,
        "started_at": CLAIMED,
        "status": "completed" if outcome == "succeeded" else "failed",
        "outcome": outcome,
        "counted": True,
        "ledger": {"wall": 0.1},
    }
