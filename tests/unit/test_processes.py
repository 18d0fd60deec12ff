"""Children from the order to the answer: what a worker may do with them while nobody knows whether they are there."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Any

import pytest

from pq_core.types import ClaimedTask
from pq_core.worker import wire
from pq_core.worker.children import Children
from pq_core.worker.comparing import is_over
from pq_core.worker.earshot import LONGEST
from pq_core.worker.forker import AT_ONCE, Forker
from pq_core.worker.inbox import TASK_LIMIT
from pq_core.worker.orders import Line, Order
from pq_core.worker.pace import HORIZON
from pq_core.worker.rows import claimed_task
from pq_core.worker.runs import Child, Claimed, Ended
from pq_core.worker.shared import StopReason
from pq_core.worker.starting import SLOW, STALE, stale
from tests.unit.child_setups import child_setup

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).isoformat(sep=" ").encode()


def claimed(id_: int, timeout: bytes | None = None) -> Claimed:
    row = [b"%d" % id_, b"short", b"q", b"50", b"1", b"1", b"1", b"{}", None, b"1", NOON, NOON, NOON]
    row += [None, timeout, None, b"0", b"0", None, None, b"retry", None]
    return Claimed(claimed_task(row), row, monotonic())


def sockets_open() -> int:
    """Return how many sockets this process has."""
    found = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            found += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
    return found


class Server:
    """The other end of the line, which says what a test has it say."""

    def __init__(self, sock: socket.socket) -> None:
        self.line = Line(sock)
        self.messages: list[tuple[Any, ...]] = []
        self.children: list[int] = []
        self.descriptors: list[socket.socket] = []
        self.holds = False
        self._held: list[int] = []

    def keep(self) -> None:
        """Take in the first order, and be its children: keep their ends of their sockets."""
        ((message, descriptors),) = self.line.receive()
        assert descriptors is not None
        self.messages.append(message)
        _, _, wanted = message
        self.children = [number for number, *_ in wanted]
        ends = descriptors[-len(wanted) :]
        self.descriptors = [socket.socket(fileno=end) for end in ends]
        for one in descriptors[: -len(wanted)]:
            os.close(one)

    def close(self) -> None:
        """Let the children go: of orders that were read, unless it ``holds`` them, and of those kept."""
        for held in self._held:
            os.close(held)
        self._held.clear()

    def orders(self, kind: Order) -> list[tuple[Any, ...]]:
        """Return the messages of one kind that have come so far."""
        self.line.sock.setblocking(False)
        while received := self.line.receive():
            for message, descriptors in received:
                self.messages.append(message)
                self._held += descriptors or ()
        if not self.holds:
            self.close()
        self.line.sock.setblocking(True)
        return [one for one in self.messages if one[0] == kind]


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def server(sockets: tuple[socket.socket, socket.socket]) -> Iterator[Server]:
    with closing(Server(sockets[1])) as server:
        yield server
        for one in server.descriptors:
            one.close()


class Worker:
    """As much of one as has children."""

    def __init__(self, forker: Forker, **options: Any) -> None:
        self.forker = forker
        self.selector = selectors.DefaultSelector()
        self.before: list[ClaimedTask] = []
        self.ended: list[Ended] = []
        given: dict[str, Any] = {"concurrency": 3, "grace": 1.0, "tail": 0} | options
        setup = child_setup(tasks_per_child=given.pop("tasks_per_child", 1))
        self.children = Children(setup, forker=forker, selector=self.selector, before=self.before.append, **given)

    def answer(self, server: Server, forked: int, error: OSError | None = None, ended: int = 0) -> list[int]:
        """Have the server answer its order; return the pids of the children."""
        _, _, wanted = server.orders(Order.FORK)[-1]
        pids = [2**29 + number for number, *_ in wanted[:forked]]
        told = [(wanted[at][0], pids[at], 0, 0.1, 0.2, 4096) for at in range(ended)]
        words = (error.errno, error.strerror) if error is not None else (0, "")
        server.line.send(Order.FORKED, [(pid, monotonic()) for pid in pids], *words, told)
        self.forker.read()
        self.ended = self.children.advance(monotonic())
        return pids

    def close(self) -> None:
        self.children.processes.close()
        self.selector.close()


@pytest.fixture
def worker(sockets: tuple[socket.socket, socket.socket]) -> Iterator[Worker]:
    with closing(Worker(Forker(sockets[0], 2**30))) as worker:
        yield worker


def test_what_may_begin_during_an_order_makes_the_next_one(worker: Worker, server: Server) -> None:
    feeding, processes = worker.children.feeding, worker.children.processes
    feeding.add([claimed(1), claimed(2)])
    assert feeding.start() == ([], None)
    assert (len(processes), processes.working, processes.pids, processes.forks) == (2, 2, [], 0)
    feeding.add([claimed(3), claimed(4)])
    feeding.start()
    assert [one.task.id for one in feeding.stock] == [3, 4], "one at a time: they would copy each other's pages"
    assert [task.id for task in worker.before] == [1, 2], "who waits was not shown to the hooks yet"

    pids = worker.answer(server, 2)
    assert (processes.pids, processes.forks) == (pids, 2)
    feeding.start()
    assert [one.task.id for one in feeding.stock] == [4], "as many at a time as agreed"
    assert [len(wanted) for _, _, wanted in server.orders(Order.FORK)] == [2, 1]


def test_ends_told_with_the_answer_leave_their_places_for_the_next_order(worker: Worker, server: Server) -> None:
    feeding = worker.children.feeding
    feeding.add([claimed(id_) for id_ in range(1, 6)])
    feeding.start()
    worker.answer(server, 3, ended=2)
    assert [done.run.task.id for done in worker.ended] == [1, 2]
    assert [(done.exit.cpu_user, done.exit.max_rss) for done in worker.ended] == [(0.1, 4096)] * 2
    feeding.start()
    assert [len(wanted) for _, _, wanted in server.orders(Order.FORK)] == [3, 2]
    places = [places for _, places, _ in server.orders(Order.FORK)]
    assert places == [[0, 1, 2], []], "the memory of those that ended serves again"


def test_order_has_an_end(sockets: tuple[socket.socket, socket.socket], server: Server) -> None:
    with closing(Worker(Forker(sockets[0], 2**30), concurrency=100)) as worker:
        worker.children.feeding.add([claimed(id_) for id_ in range(1, AT_ONCE + 6)])
        worker.children.feeding.start()
        assert len(worker.children.feeding.stock) == 5
        worker.answer(server, AT_ONCE)
        worker.children.feeding.start()
        assert [len(wanted) for _, _, wanted in server.orders(Order.FORK)] == [AT_ONCE, 5]


def test_runs_of_children_that_there_was_no_room_for_come_back(worker: Worker, server: Server) -> None:
    feeding, processes = worker.children.feeding, worker.children.processes
    before = sockets_open()
    feeding.add([claimed(1), claimed(2), claimed(3)])
    feeding.start()
    worker.answer(server, 1, BlockingIOError(errno.EAGAIN, "no process left"))
    refused = feeding.take_refused()
    assert [(run.task.id, error.errno) for run, error in refused] == [(2, errno.EAGAIN), (3, errno.EAGAIN)]
    assert feeding.take_refused() == []
    assert (len(processes), processes.working) == (1, 1)
    assert sockets_open() == before + 1, "of the one that is there"
    assert len(processes._places) == 2, "their memory is for those that come next"


def test_fewer_are_asked_for_where_descriptors_do_not_arrive(worker: Worker, server: Server) -> None:
    feeding = worker.children.feeding
    feeding.add([claimed(1), claimed(2), claimed(3)])
    feeding.start()
    worker.answer(server, 0, OSError(errno.EMFILE, "none left"))
    assert feeding.take_refused() == [], "it is asked again"
    worker.answer(server, 1)
    assert [len(wanted) for _, _, wanted in server.orders(Order.FORK)] == [3, 1]
    assert [(run.task.id, error.errno) for run, error in feeding.take_refused()] == [
        (2, errno.EMFILE),
        (3, errno.EMFILE),
    ]


def test_no_time_runs_before_the_fork(worker: Worker, server: Server) -> None:
    feeding = worker.children.feeding
    feeding.add([claimed(1, b"0.5")])
    feeding.start()
    (child,) = worker.children.processes
    (run,) = child.runs
    assert run.timeout == 0.5
    late = run.handed + 100
    assert child.next_event == inf
    worker.children.halting.enforce(late)
    assert run.reason is StopReason.NONE
    before = monotonic()
    worker.answer(server, 1)
    assert run.handed >= before
    assert child.next_event == run.handed + 0.5
    worker.children.halting.enforce(late)
    assert run.reason is StopReason.TIMEOUT


def test_child_is_stopped_and_killed_by_its_number(worker: Worker, server: Server) -> None:
    feeding, halting = worker.children.feeding, worker.children.halting
    feeding.add([claimed(1), claimed(2)])
    feeding.start()
    first, second = worker.children.processes
    halting.stop_run(first, first.runs[0], StopReason.CANCEL, "changed my mind")
    halting.kill_all(StopReason.LOST)
    assert [(child, number) for _, child, number, _ in server.orders(Order.SIGNAL)] == [
        (first.number, signal.SIGTERM),
        (first.number, signal.SIGKILL),
        (second.number, signal.SIGKILL),
    ]
    worker.answer(server, 0, BlockingIOError(errno.EAGAIN, "no process left"))
    assert [run.reason for run, _ in feeding.take_refused()] == [StopReason.CANCEL, StopReason.LOST]


def test_child_that_is_killed_is_not_forked_and_forgotten_when_it_is_asked_for_again(
    worker: Worker, server: Server
) -> None:
    worker.children.feeding.add([claimed(1, b"0.5"), claimed(2)])
    worker.children.feeding.start()
    first, _ = worker.children.processes
    worker.children.halting.kill_all(StopReason.LOST)
    assert len(server.orders(Order.SIGNAL)) == 2
    worker.forker.signal(2**20, 2**29, signal.SIGTERM)  # of a child of an earlier order
    worker.answer(server, 0, OSError(errno.EMFILE, "none left"))
    assert [child for _, child, _, _ in server.orders(Order.SIGNAL)[3:]] == [first.number, first.number + 1]
    worker.answer(server, 1)
    assert (first.pid > 0, first.killed) == (True, True)
    worker.children.halting.enforce(monotonic() + 100)
    assert first.next_event == inf, "nothing is left to be done but to wait for its end"


@pytest.fixture
def in_the_making(sockets: tuple[socket.socket, socket.socket]) -> Iterator[tuple[Worker, Child]]:
    """A worker with one reused child, which is not forked yet and has four tasks."""
    with closing(Worker(Forker(sockets[0], 2**30), tasks_per_child=10, concurrency=1)) as worker:
        feeding = worker.children.feeding
        for _ in range(10):
            feeding.pace.note("short", 0.001)
        feeding.add([claimed(id_) for id_ in range(1, 5)])
        feeding.start()
        feeding.top_up()
        (child,) = worker.children.processes
        assert [run.task.id for run in child.runs] == [1, 2, 3, 4]
        yield worker, child


def test_child_that_is_not_forked_takes_its_tasks_with_it(in_the_making: tuple[Worker, Child], server: Server) -> None:
    worker, _ = in_the_making
    worker.answer(server, 0, BlockingIOError(errno.EAGAIN, "no process left"))
    assert [run.task.id for run, _ in worker.children.feeding.take_refused()] == [1, 2, 3, 4]
    assert len(worker.children.processes) == 0


def test_what_waits_for_a_child_that_is_long_in_coming_is_for_others(in_the_making: tuple[Worker, Child]) -> None:
    worker, child = in_the_making
    feeding = worker.children.feeding
    assert feeding.next_event() == child.since + HORIZON
    feeding.even_out(child.since + 100)
    assert [run.task.id for run in child.runs] == [1], "that one is on its way with the order"
    assert [one.task.id for one in feeding.stock] == [2, 3, 4]
    assert (child.leaving, child.kill_at, feeding.next_event()) == (False, None, None), "it can't have begun"


@pytest.mark.parametrize("column", [7, 8], ids=["arguments", "headers"])
def test_task_counts_with_the_bytes_that_an_inbox_would_hold(
    sockets: tuple[socket.socket, socket.socket], column: int
) -> None:
    """Of letters that take three each, fewer than that many fit: what is cut off would be read as something else."""
    with closing(Worker(Forker(sockets[0], 2**30), async_concurrency=10, is_async=lambda task: True)) as worker:
        short, long = claimed(1), claimed(2)
        for one, letters in ((short, 10_000), (long, 50_000)):
            row = list(one.row)
            row[column] = b'{"word": "' + "\u3042".encode() * letters + b'"}'
            one.row = row
            one.task = claimed_task(row)
        assert [worker.children.crowd.takes(one) for one in (short, long)] == [True, False]


def test_coroutine_waits_for_its_process_while_another_order_is_under_way(
    sockets: tuple[socket.socket, socket.socket], server: Server
) -> None:
    options = {"async_concurrency": 10, "is_async": lambda task: task.id > 1}
    with closing(Worker(Forker(sockets[0], 2**30), **options)) as worker:
        feeding, crowd = worker.children.feeding, worker.children.crowd
        feeding.add([claimed(1)])
        feeding.start()
        feeding.add([claimed(2), claimed(3)])
        feeding.start()
        assert (len(crowd), len(feeding.stock)) == (0, 2)
        worker.answer(server, 1)
        feeding.start()
        assert (len(crowd), len(feeding.stock), len(worker.children.processes)) == (2, 0, 2)
        assert [wanted[0][3] for _, _, wanted in server.orders(Order.FORK)] == [False, True]
        worker.answer(server, 0, BlockingIOError(errno.EAGAIN, "no process left"))
        assert [run.task.id for run, _ in feeding.take_refused()] == [2, 3]
        assert (len(crowd), crowd.child) == (0, None)


def test_spare_that_there_is_no_room_for_is_not_asked_for_again_at_once(
    sockets: tuple[socket.socket, socket.socket], server: Server
) -> None:
    with closing(Worker(Forker(sockets[0], 2**30), spares=2)) as worker:
        spares = worker.children.spares
        spares.advance(monotonic(), allowed=True)
        assert len(worker.children.processes) == 2
        worker.answer(server, 0, BlockingIOError(errno.EAGAIN, "no process left"))
        assert worker.children.feeding.take_refused() == []
        now = monotonic()
        spares.advance(now, allowed=True)
        assert len(worker.children.processes) == 0
        event = spares.next_event(now)
        assert event is not None
        assert event > now + 5


def test_spares_of_a_busy_worker_are_forked_several_at_once(
    sockets: tuple[socket.socket, socket.socket], server: Server
) -> None:
    with closing(Worker(Forker(sockets[0], 2**30), spares=AT_ONCE + 4, concurrency=100)) as worker:
        server.holds = True
        spares, processes = worker.children.spares, worker.children.processes
        for expected in (AT_ONCE, 4):
            spares.advance(monotonic(), allowed=True)
            worker.answer(server, expected)
        sizes = []
        for id_ in range(1, 40):
            worker.children.feeding.add([claimed(id_)])
            worker.children.feeding.start()
            before = len(processes)
            spares.advance(monotonic(), allowed=True)
            if len(processes) > before:
                sizes.append(len(processes) - before)
                worker.answer(server, sizes[-1])
        assert sizes == [15, 15], "when a quarter is left, and not one for each that is used"


def speak(child: Child, server: Server, word: bytes) -> None:
    """Have the process of a child say something."""
    number = next(at for at, one in enumerate(server.children) if one == child.number)
    server.descriptors[number].send(word)


def test_words_of_children_wait_while_others_are_forked_and_are_heard_between(worker: Worker, server: Server) -> None:
    feeding = worker.children.feeding
    feeding.add([claimed(1)])
    feeding.start()
    server.keep()
    worker.answer(server, 1)
    (child,) = worker.children.processes
    (run,) = child.runs
    shares = []
    for share in (0.25, 0.5, 0.75):
        feeding.add([claimed(2)])
        feeding.start()
        speak(child, server, wire.pack(wire.Kind.PROGRESS, {"id": 1, "fence": 1, "share": share}))
        assert worker.selector.select(0.01) == [], "it can wait until the others are there"
        worker.answer(server, 1, ended=1)
        shares.append((run.progress or {}).get("share"))
        assert worker.children.have_news
    assert shares == [0.25, 0.5, 0.75], "one order after the other, and each time it was heard"

    feeding.add([claimed(2)])
    feeding.start()
    speak(child, server, wire.pack(wire.Kind.PROGRESS, {"id": 1, "fence": 1, "share": 1.0}))
    event = worker.children.next_event(monotonic())
    assert event is not None
    assert event < monotonic() + 1
    worker.children.advance(event)
    assert (run.progress or {})["share"] == 1.0, "it does not wait for a server that takes long"
    worker.answer(server, 1)
    assert worker.selector.select(0.01) == []
    speak(child, server, wire.pack(wire.Kind.COMPLETED, {"id": 1, "fence": 1}))
    assert [key.data for key, _ in worker.selector.select(5)] == [worker.children.processes.earshot]


def test_run_that_completed_its_task_is_not_taken_for_lost(worker: Worker, server: Server) -> None:
    worker.children.feeding.add([claimed(1), claimed(2)])
    worker.children.feeding.start()
    server.keep()
    worker.answer(server, 2)
    first, second = worker.children.processes
    speak(first, server, wire.pack(wire.Kind.COMPLETED, {"id": 1, "fence": 1}))
    assert [is_over(worker.children, child, child.runs[0]) for child in (first, second)] == [True, False]


def test_task_waits_for_the_forks_that_are_under_way(sockets: tuple[socket.socket, socket.socket]) -> None:
    with closing(Worker(Forker(sockets[0], 2**30), concurrency=AT_ONCE + 4)) as worker:
        feeding = worker.children.feeding
        feeding.add([claimed(id_) for id_ in range(1, AT_ONCE + 11)])
        feeding.start()
        at = feeding.stock[0].at
        assert [one.task.id for one in stale(feeding, at + STALE + 0.1)] == list(range(AT_ONCE + 5, AT_ONCE + 11)), (
            "those for which no process is free: others may have one"
        )
        assert len(stale(feeding, at + SLOW + 0.1)) == 10


def test_hooks_are_shown_a_task_once(worker: Worker, server: Server) -> None:
    """One too large for a spare that waits, while no other can be asked for."""
    worker.children.spares.size = 1
    worker.children.spares.advance(monotonic(), allowed=True)
    large = claimed(1)
    large.row = [*large.row[:7], b'{"args": ["' + b"x" * TASK_LIMIT + b'"]}', *large.row[8:]]
    worker.children.feeding.add([large])
    for _ in range(3):
        worker.children.feeding.start()
    assert worker.before == []
    worker.answer(server, 1)
    worker.children.feeding.start()
    assert [task.id for task in worker.before] == [1]
    assert len(worker.children.processes) == 2


def test_long_result_is_read_while_an_order_takes_long(worker: Worker, server: Server) -> None:
    worker.children.feeding.add([claimed(1)])
    worker.children.feeding.start()
    server.keep()
    worker.answer(server, 1)
    (child,) = worker.children.processes
    worker.children.feeding.add([claimed(2)])
    worker.children.feeding.start()
    (run,) = child.runs
    frame = memoryview(wire.pack_done(1, 1, "x" * 500_000))
    server.descriptors[0].setblocking(False)
    pauses = []
    while run.end is None:
        if frame:
            frame = frame[server.descriptors[0].send(frame) :]
        event = worker.children.next_event(monotonic())
        assert event is not None
        worker.children.advance(event)
        pauses.append((worker.children.next_event(monotonic()) or inf) - monotonic())
    assert len(pauses) > 2
    assert max(pauses[:-1]) < LONGEST / 10, "it does not wait for each piece as for a word"
    assert len(run.end["result"]) == 500_000
