"""What is handed to children that take it late, or never: here nobody reads the inboxes."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from pq_core.worker import wire
from pq_core.worker.book import Book
from pq_core.worker.children import Children
from pq_core.worker.comparing import Comparing
from pq_core.worker.entering import Entering
from pq_core.worker.feeding import DEAF, Feeding
from pq_core.worker.forker import Forker
from pq_core.worker.inbox import Inbox
from pq_core.worker.lease import Beat
from pq_core.worker.pace import HORIZON
from pq_core.worker.rows import claimed_task
from pq_core.worker.runs import Child, Claimed
from pq_core.worker.shared import Place
from tests.unit.child_setups import child_setup
from tests.unit.test_claims import claims as unit_claims

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).isoformat(sep=" ").encode()


def claimed(id_: int) -> Claimed:
    row = [b"%d" % id_, b"short", b"q", b"50", b"1", b"1", b"1", b"{}", None, b"1", NOON, NOON, NOON]
    row += [None, None, None, b"0", b"0", None, None, b"retry", None]
    return Claimed(claimed_task(row), row, 0.0)


SETUP = child_setup(tasks_per_child=1000)


@pytest.fixture
def forker() -> Iterator[Forker]:
    """One whose server does nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Forker(ours, 2**30)


@pytest.fixture
def children(forker: Forker) -> Iterator[Children]:
    with selectors.DefaultSelector() as selector:
        found = Children(
            SETUP, forker=forker, selector=selector, concurrency=1, grace=1.0, tail=0, before=lambda task: None
        )
        for _ in range(10):
            found.feeding.pace.note("short", 0.001)
        yield found
        for child in found.processes:
            found.processes.hang_up(child)
            child.socket.close()
            found.processes.forget(child)
        found.processes.close()


@pytest.fixture
def child(children: Children, forker: Forker) -> Iterator[Child]:
    """A reused child that has ended its first task and does not come to a second."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield children.processes._noted(
            Child(
                number=1,
                pid=2**30,
                forker=forker,
                place=Place(tail=0),
                socket=ours,
                decoder=wire.Decoder(1024),
                inbox=Inbox(),
                left=1000,
            )
        )


def feed(feeding: Feeding, count: int) -> None:
    """Hand out what there is to hand out, with so many tasks in the stock."""
    feeding.add([claimed(id_) for id_ in range(1, count + 1 - len(feeding.stock))])
    feeding.start()
    feeding.top_up()


def test_child_that_did_not_take_its_tasks_gets_them_one_by_one(children: Children, child: Child) -> None:
    feeding = children.feeding
    feed(feeding, 20)
    assert len(child.runs) == 20
    feeding.even_out(child.since + HORIZON / 2)
    assert len(child.runs) == 20
    feeding.even_out(child.since + HORIZON)
    assert (len(child.runs), len(feeding.stock), child.left) == (0, 20, 1000)

    feed(feeding, 20)
    assert len(child.runs) == 1
    child.place.begin(1, 1, child.since)
    feeding.top_up()
    assert len(child.runs) == 20, "it has begun: it is as good as any"


def test_seconds_for_which_a_child_took_nothing_add_up(children: Children, child: Child) -> None:
    feeding = children.feeding
    feed(feeding, 20)
    first = child.since
    child.since -= DEAF / 2  # so long ago
    feeding.even_out(first)
    assert child.unheard >= DEAF / 2

    feed(feeding, 20)
    assert (child.head is not None, child.leaving) == (True, False)
    feeding.even_out(child.since + DEAF / 2)
    assert child.leaving
    assert [one.task.id for one in feeding.stock] == list(range(1, 21)), "in order, for the next child"


def test_look_at_a_child_is_due_also_when_its_time_comes_during_a_turn(children: Children, child: Child) -> None:
    """What lies between the look and the moment at which the loop asks how long it may sleep is not slept over."""
    feeding = children.feeding
    feed(feeding, 1)
    due = child.since + DEAF
    for before in (due - 0.5, due - 1e-6):
        feeding.even_out(before)
        assert feeding.next_event() == due
    feeding.even_out(due)
    assert child.leaving
    assert feeding.next_event() is None


def test_look_is_due_for_what_waits_behind_a_long_run(children: Children, child: Child) -> None:
    feeding = children.feeding
    feed(feeding, 2)
    child.place.begin(1, 1, child.since)
    assert child.inbox is not None
    os.read(child.inbox.theirs, 64 * 1024)  # it has received the first of both
    feeding.even_out(child.since)
    assert feeding.next_event() == child.since + HORIZON
    feeding.even_out(child.since + HORIZON)
    assert (len(child.runs), len(feeding.stock), child.unheard) == (1, 1, 0.0)
    assert feeding.next_event() == child.since + DEAF
    feeding.even_out(child.since + 2 * DEAF)
    assert (len(child.runs), child.leaving, feeding.next_event()) == (1, False, None)


def test_suspect_that_was_taken_away_before_it_began_keeps_nobody_waiting(children: Children) -> None:
    """While it is to run alone nothing else is claimed."""
    claims, none = unit_claims(), cast(Any, None)
    claims.alone = 7
    children.feeding.stock.append(claimed(7))
    entering = Entering(
        host=none,
        program=none,
        attention=claims.attention,
        claims=claims,
        children=children,
        book=none,
        sessions=none,
        lease=none,
    )
    book = Book(statements=claims.statements, settled=none, uncommitted=none)
    comparing = Comparing(host=none, children=children, book=book, turns=none, entering=entering)
    beat = Beat(
        sent=1.0,
        drain_requested=False,
        stop_requested=False,
        suspects=False,
        running={},
        at_most_once=frozenset(),
        alone=True,
    )

    comparing._forget_of_stock(beat)

    assert not children.feeding.stock
    assert claims.alone is None
