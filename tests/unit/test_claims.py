"""What a worker asks for, turn by turn."""

from __future__ import annotations

from pq_core.worker.attention import Attention
from pq_core.worker.claiming import Statements
from pq_core.worker.claims import Claims, Sending
from pq_core.worker.options import WorkerOptions
from pq_core.worker.ticking import Ticking

CLAIM = ["pq_promote", "pq_claim_one_queue"]
EMPTY_LOOK = [(b"f", None, b"f", None, None)]


def claims() -> Claims:
    statements = Statements("public")
    options = WorkerOptions(queues=("q",), concurrency=2, poll_interval=1.0)
    attention = Attention(poll=options.poll_interval)
    ticking = Ticking(statements=statements, poll=1.0, on_made=attention.wake)
    return Claims(statements=statements, options=options, queues=("q",), attention=attention, ticking=ticking)


def names(sending: Sending) -> list[str]:
    return [query.name for query, _ in sending]


def test_worker_is_marked_as_asleep_in_a_turn_before_the_look() -> None:
    worker = claims()
    assert names(worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)) == [
        "pq_promote",
        "pq_claim_one_queue",
    ]
    worker.take("pq_claim_one_queue", [], asked=2, now=1.0)

    # A turn is one transaction: in the same one the mark would not be seen before the look is over.
    assert names(worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)) == ["pq_sleeping"]
    worker.take("pq_sleeping", [], asked=2, now=1.0)
    assert names(worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    worker.take("pq_look", EMPTY_LOOK, asked=2, now=1.0)

    assert worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False) == []


def test_two_more_looks_follow_before_the_poll_interval() -> None:
    worker = claims()
    worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)
    worker.take("pq_claim_one_queue", [], asked=2, now=1.0)
    worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)
    worker.take("pq_sleeping", [], asked=2, now=1.0)
    looks, now = [], 1.0
    for _ in range(4):
        worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)
        worker.take("pq_look", EMPTY_LOOK, asked=2, now=now)
        at = worker.next_event(now, room=2, busy=False)
        assert at is not None
        looks.append(round(at - now, 3))
        now = at

    assert looks == [0.05, 0.3, 1.0, 1.0]


def test_busy_worker_holds_back_for_a_suspect_for_a_while_only() -> None:
    worker = claims()
    worker.suspects = True

    assert worker.statements_to_send(100.0, 7, room=1, busy=True, reporting=False) == []
    assert worker.next_event(100.0, room=1, busy=True) == 130.0
    assert names(worker.statements_to_send(130.0, 7, room=1, busy=True, reporting=False)) == [
        "pq_promote",
        "pq_claim_one_queue",
    ]
    assert names(worker.statements_to_send(131.0, 7, room=2, busy=False, reporting=False)) == ["pq_claim_suspect"]
