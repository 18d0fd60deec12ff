"""What a worker asks for, turn by turn."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from pq_core.worker.attention import DOZE, DOZES, STRETCHED, Attention
from pq_core.worker.claiming import Statements
from pq_core.worker.claims import Claims, Sending
from pq_core.worker.options import WorkerOptions
from pq_core.worker.ticking import Ticking

CLAIM = ["pq_promote", "pq_claim_one_queue"]
EMPTY_LOOK = [(b"f", None, b"f", None, None, b"f")]


def claims() -> Claims:
    statements = Statements("public")
    options = WorkerOptions(queues=("q",), concurrency=2, poll_interval=1.0)
    attention = Attention(poll=options.poll_interval)
    ticking = Ticking(statements=statements, pause=attention.pause_of_schedules, on_made=attention.wake)
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


def test_notification_that_overtakes_the_answer_to_a_look_is_not_slept_over() -> None:
    """The look began before the task was committed, so it found nothing; nobody notifies a second time."""
    worker = claims()
    worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)
    worker.take("pq_claim_one_queue", [], asked=2, now=1.0)
    worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)
    worker.take("pq_sleeping", [], asked=2, now=1.0)
    assert names(worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    worker.attention.wake()
    worker.take("pq_look", EMPTY_LOOK, asked=2, now=1.0)

    assert names(worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False))[-1] == "pq_claim_one_queue"
    worker.take("pq_claim_one_queue", [], asked=2, now=1.0)
    assert names(worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    worker.take("pq_look", EMPTY_LOOK, asked=2, now=1.0)
    assert worker.statements_to_send(1.0, 7, room=2, busy=False, reporting=False) == []


def _in_vain(worker: Claims, now: float) -> list[str]:
    """Let the worker claim at ``now`` without finding anything; return what it sent for that."""
    sent = names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False))
    worker.take(sent[-1], [], asked=2, now=now)
    return _in_vain(worker, now) if sent == ["pq_claim_limited"] else sent


def _lie_down(worker: Claims, now: float) -> None:
    if not worker.attention.marked:
        assert _in_vain(worker, now) == ["pq_sleeping"]
    assert names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    worker.take("pq_look", EMPTY_LOOK, asked=2, now=now)


def _woken_in_vain(worker: Claims, *, times: int, after: float) -> float:
    """Wake the worker so often, ``after`` seconds from when it lay down, while others take it all; return the time."""
    now = 1.0
    _in_vain(worker, now)
    for _ in range(times):
        _lie_down(worker, now)
        now += after
        worker.attention.call(now)
        sent = _in_vain(worker, now)
    assert (sent[0] == "pq_sleeping") is not worker.attention.marked
    return now


def test_worker_that_is_woken_for_what_others_take_dozes_for_a_while() -> None:
    worker = claims()
    now = _woken_in_vain(worker, times=3, after=0.001)

    # It claims by the clock, deaf to what others are told, and from the first such claim on nobody need notify.
    claimed = 0
    while claimed <= DOZES and (at := worker.next_event(now, room=2, busy=False)) is not None and at > now:
        assert at - now <= DOZE
        worker.attention.call(now)
        assert worker.statements_to_send(now, 7, room=2, busy=False, reporting=False) == []
        now = at
        assert _in_vain(worker, now)[-1] == "pq_claim_one_queue"
        assert not worker.attention.marked
        claimed += 1
    # In the end it is marked as asleep, and looks, as ever.
    assert claimed == DOZES
    _lie_down(worker, now)
    assert worker.attention.marked
    assert worker.statements_to_send(now, 7, room=2, busy=False, reporting=False) == []
    # One that slept for longer is wanted: it stays marked.
    now += 0.04
    worker.attention.call(now)
    assert _in_vain(worker, now)[-1] == "pq_claim_one_queue"
    _lie_down(worker, now)
    assert worker.attention.marked


def test_worker_that_finds_what_it_is_woken_for_is_never_restless() -> None:
    """However soon it is woken: one worker alone at a steady rate."""
    attention = Attention(poll=1.0)
    for now in range(100):
        attention.look(now, asleep=False)
        attention.call(now + 0.001)
        attention.found(now)
        assert not attention.doze(now + 0.002)


@pytest.mark.parametrize(("after", "asks_again"), [(0.001, True), (0.04, False)])
def test_worker_that_is_woken_soon_asks_for_longer_before_it_lies_down_again(after: float, asks_again: bool) -> None:
    attention = Attention(poll=1.0)
    attention.look(1.0, asleep=False)
    attention.call(1.0 + after)
    attention.found(1.0 + after)
    assert attention.woken_soon is asks_again

    worker = claims()
    worker.attention.woken_soon = asks_again
    worker.attention.found(2.0)
    worker._found_at = 2.0
    _in_vain(worker, 2.03)
    sent = worker.statements_to_send(2.031, 7, room=2, busy=False, reporting=False)
    assert names(sent) == ([] if asks_again else ["pq_sleeping"])


@pytest.mark.parametrize(("every", "forever"), [(10, True), (40, False)])
def test_worker_dozes_as_long_as_it_often_finds_something(every: int, forever: bool) -> None:
    attention = Attention(poll=1.0)
    for now in range(6):
        attention.look(now, asleep=False)
        attention.call(now + 0.001)
        attention.doze(now + 0.002)

    dozes = 0
    while attention.doze(dozes) and dozes < 1000:
        dozes += 1
        if dozes % every == 0:
            attention.found(dozes)
    assert (dozes == 1000) is forever


def test_worker_that_is_woken_in_vain_now_and_then_goes_on_sleeping() -> None:
    worker = claims()
    now = _woken_in_vain(worker, times=20, after=0.04)

    assert worker.attention.marked
    _lie_down(worker, now)
    assert worker.statements_to_send(now, 7, room=2, busy=False, reporting=False) == []


def test_task_soon_after_a_look_from_the_sleep_does_not_count_as_a_short_sleep() -> None:
    worker = claims()
    now = 1.0
    _in_vain(worker, now)
    for _ in range(5):
        _lie_down(worker, now)
        now = worker.next_event(now, room=2, busy=False) or 0.0
        assert names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
        worker.take("pq_look", EMPTY_LOOK, asked=2, now=now)
        now += 0.001
        worker.attention.call(now)
        _in_vain(worker, now)
        assert worker.attention.marked


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


def test_plain_claims_and_those_under_limits_take_turns() -> None:
    worker = claims()
    worker.limited.answered([[None] * 22 + [b"0"]], 1.0)
    assert worker.limited.open

    kinds = []
    for _ in range(4):
        (*_, last) = names(worker.statements_to_send(1.0, 7, room=4, busy=True, reporting=False))
        kinds.append(last)
        if last == "pq_claim_limited":
            worker.take(last, [[None] * 22 + [b"0"]], asked=4, now=1.0)
    assert kinds == ["pq_claim_limited", "pq_claim_one_queue"] * 2


def test_worker_asleep_asks_again_when_a_limit_may_let_something_pass() -> None:
    worker = claims()
    worker.attention.claim = False
    worker.attention.look_at = 9.0
    worker.take("pq_claim_limited", [[None] * 22 + [b"0.25"]], asked=2, now=1.0)

    assert worker.next_event(1.0, room=2, busy=False) == 1.25
    assert names(worker.statements_to_send(1.25, 7, room=2, busy=False, reporting=False)) == ["pq_claim_limited"]
    worker.take("pq_claim_limited", [], asked=2, now=1.3)
    assert not worker.limited.open
    assert worker.next_event(1.3, room=2, busy=False) == 9.0


def _wait_between_looks(attention: Attention, now: float) -> float:
    attention.second_looks.clear()
    attention.fall_asleep(now, None)
    assert attention.look_at is not None
    return attention.look_at - now


def test_quiet_worker_that_hears_looks_less_often() -> None:
    attention = Attention(poll=1.0)
    attention.listen(100.0)
    assert _wait_between_looks(attention, 130.0) == 1.0  # nobody knows whether it would be told
    assert not attention.wants_to_hear(109.9)
    assert [attention.wants_to_hear(now) for now in (110.0, 111.0, 700.0, 711.0)] == [True, False, False, True]
    attention.hears = True
    assert not attention.wants_to_hear(2000.0)
    assert _wait_between_looks(attention, 109.0) == 1.0
    assert _wait_between_looks(attention, 111.0) == 5.0

    attention.call(200.0)
    assert _wait_between_looks(attention, 201.0) == 1.0
    attention.found(300.0)
    assert _wait_between_looks(attention, 309.0) == 1.0
    assert _wait_between_looks(attention, 310.0) == 5.0

    # A new session may listen through something that swallows notifications.
    attention.listen(400.0)
    assert _wait_between_looks(attention, 450.0) == 1.0


def test_quiet_worker_whose_session_is_lost_looks_as_often_as_asked_at_once() -> None:
    attention = Attention(poll=1.0, hears=True)
    assert _wait_between_looks(attention, 100.0) == 5.0
    attention.deafen(101.0)
    assert attention.look_at == 102.0
    assert _wait_between_looks(attention, 102.0) == 1.0
    attention.deafen(102.5)
    assert attention.look_at == 103.0, "not put off"


@pytest.mark.parametrize(
    ("statement", "condition"),
    [
        ("worker/report.sql", r"r\.retry_in < (\d+) "),
        ("client/complete.sql", r"c\.run_at < clock_timestamp\(\) \+ interval '(\d+) seconds'"),
    ],
)
def test_quiet_worker_is_told_of_what_is_due_again_before_its_look(statement: str, condition: str) -> None:
    assert re.findall(condition, files("pq_core").joinpath("sql", statement).read_text()) == [f"{STRETCHED:g}"]


@pytest.mark.parametrize(("poll", "stretched"), [(0.1, 0.5), (2.0, 5.0), (60.0, 60.0)])
def test_looks_of_a_quiet_worker_have_bounds(poll: float, stretched: float) -> None:
    attention = Attention(poll=poll, hears=True)
    assert _wait_between_looks(attention, 100.0) == pytest.approx(stretched)


def test_quiet_worker_looks_at_schedules_less_often_only_while_it_sleeps() -> None:
    """Its look for tasks tells of schedules, too; without a place left for a task there is no such look."""
    worker = claims()
    worker.attention.hears = True
    _in_vain(worker, 100.0)
    _lie_down(worker, 100.0)
    worker.ticking.heard(None, None)
    looked = worker.ticking._asked
    worker.attention._quiet_from = looked - 10
    assert worker.ticking.next_event() == looked + 7.5, "after the look that comes in five seconds, should it fail"

    assert names(worker.statements_to_send(looked, 7, room=0, busy=True, reporting=False)) == ["pq_pass_on"]
    assert worker.ticking.next_event() == looked + 1.5


@pytest.mark.parametrize("late", [True, False])
def test_worker_that_was_not_told_looks_as_often_as_asked_for_a_while(late: bool) -> None:
    worker = claims()
    worker.attention.hears = True
    now = 100.0
    _in_vain(worker, now)
    _lie_down(worker, now)
    assert worker.attention.pause(now + 9) == 1.0, "who began to enqueue before may commit yet"
    worker.attention.second_looks.clear()
    now += 15
    assert names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    ready = [(b"t", None, b"f", None, None, b"f")]
    if late:
        worker.take("pq_look", ready, asked=2, now=now)
        assert worker.next_event(now, room=2, busy=False) == now
    else:  # right after a claim: another worker had it for a moment
        worker.attention.wake()
        worker.take("pq_look", EMPTY_LOOK, asked=2, now=now)
        _in_vain(worker, now)
        assert names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
        worker.take("pq_look", ready, asked=2, now=now)

    attention = worker.attention
    assert attention.pause(now + 600 - 1) == (1.0 if late else 5.0)
    assert attention.hears is not late
    assert [attention.wants_to_hear(now + after) for after in (599, 601)] == [False, late]
    attention.hears = True
    assert attention.pause(now + 601) == 5.0


NOON = b"2026-03-01 12:00:00+00"
ROW: list[bytes | None] = [
    *[b"1", b"name", b"q", b"50", b"1", b"1", b"1", b"{}", None, b"1", NOON, NOON, NOON],
    *[None, None, None, b"0", b"0", None, None, b"retry", None],
]
NO_ROW: list[bytes | None] = [None] * 22


@pytest.mark.parametrize(
    ("answer", "surprised"),
    [([[*ROW, None]], True), ([[*NO_ROW, b"0.25"]], True), ([[*NO_ROW, b"600"]], True), ([], False)],
    ids=["one may begin", "one waits", "one waits for long", "for other workers"],
)
@pytest.mark.parametrize("how", ["untold", "known", "told", "told later", "awake"])
def test_worker_that_was_not_told_of_a_task_with_limits(
    answer: list[list[bytes | None]], surprised: bool, how: str
) -> None:
    """It was not told if it slept, knew of none before, and is not notified before it has claimed."""
    worker, now = claims(), 100.0
    worker.attention.hears = True
    _in_vain(worker, now)
    _lie_down(worker, now)
    if how != "awake":
        worker.attention.second_looks.clear()
        now += 15
        assert names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    if how == "known":
        worker.limited.at = now + 1
    elif how == "told":
        worker.attention.wake()
    worker.take("pq_look", [(b"f", None, b"f", None, None, b"t")], asked=2, now=now)
    if how == "told later":
        worker.attention.wake()
    now += 1
    assert names(worker.statements_to_send(now, 7, room=2, busy=False, reporting=False)) == ["pq_claim_limited"]
    worker.take("pq_claim_limited", answer, asked=2, now=now)

    assert worker.attention.pause(now + 599) == (1.0 if surprised and how == "untold" else 5.0)


@pytest.mark.parametrize(("known", "pause"), [(False, 1.0), (True, 5.0)])
def test_worker_that_was_not_told_of_a_suspect_looks_as_often_as_asked_for_a_while(known: bool, pause: float) -> None:
    worker = claims()
    worker.attention.hears = True
    _in_vain(worker, 100.0)
    _lie_down(worker, 100.0)
    worker.attention.second_looks.clear()
    assert names(worker.statements_to_send(115.0, 7, room=2, busy=False, reporting=False)) == ["pq_look"]
    worker.suspects = known
    worker.take("pq_look", [(b"f", None, b"t", None, None, b"f")], asked=2, now=115.0)

    assert names(worker.statements_to_send(115.0, 7, room=2, busy=False, reporting=False)) == ["pq_claim_suspect"]
    assert worker.attention.pause(115.0 + 599) == pause
