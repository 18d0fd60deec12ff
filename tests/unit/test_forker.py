"""A worker and its fork server, without a database: what is asked, what comes back, what is left open."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn

import pytest

from pq_core.worker.fork_server import ForkServer
from pq_core.worker.forker import AT_ONCE, Answer, Forker, Request
from pq_core.worker.inbox import Inbox
from pq_core.worker.shared import Place
from pq_core.worker.starving import Sample, sample, silent
from tests.unit.child_setups import child_setup


@pytest.fixture
def images() -> list[int]:
    return []


@pytest.fixture
def forker(images: list[int]) -> Iterator[Forker]:
    parent = os.getpid()

    def serve(sock: socket.socket) -> NoReturn:
        ForkServer(
            sock=sock,
            setup_of=child_setup,
            run_crowd=None,
            tail=0,
            foreign=[],
            settle=lambda *own: None,
            image_rss=lambda: 4711,
        ).serve(parent)

    with closing(Forker.start(serve, lease=3, on_image=images.append)) as forker:
        yield forker


NUMBERS = count(1)


@contextmanager
def requests(count: int) -> Iterator[list[Request]]:
    """Make what so many waiting children need."""
    sockets = [socket.socketpair() for _ in range(count)]
    places, boxes = [Place(tail=0) for _ in range(count)], [Inbox() for _ in range(count)]
    try:
        yield [
            Request(number=next(NUMBERS), place=place, socket=theirs.fileno(), inbox=box.theirs, task=None, crowd=False)
            for place, box, (_, theirs) in zip(places, boxes, sockets, strict=True)
        ]
    finally:
        for place, box, pair in zip(places, boxes, sockets, strict=True):
            place.close()
            box.close()
            for end in pair:
                end.close()


def answered(forker: Forker, wanted: list[Request]) -> Answer:
    """Have them forked, and wait for what comes of it."""
    forker.order(wanted)
    while (answer := forker.take_answer()) is None:
        assert forker.lost is None
        forker.read()
    return answer


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_children_are_forked_in_order_and_their_ends_are_told(forker: Forker) -> None:
    with requests(AT_ONCE) as wanted:
        answer = answered(forker, wanted)
        assert answer.error is None
        pids = [pid for pid, _ in answer.forked]
        assert len(set(pids)) == len(wanted)
        assert [at for _, at in answer.forked] == sorted(at for _, at in answer.forked)
        for one, pid in zip(wanted, pids, strict=True):
            forker.signal(one.number, pid, signal.SIGKILL, whole_group=True)
        while len(forker.exits) < len(pids):
            forker.read()
        assert {exit_.signal for exit_ in forker.exits.values()} == {signal.SIGKILL}
        assert {one.number: forker.exits[one.number].pid for one in wanted} == dict(
            zip([one.number for one in wanted], pids, strict=True)
        )
    assert forker.lost is None


def test_child_can_be_signalled_before_its_worker_knows_that_it_is_there(forker: Forker) -> None:
    with requests(2) as wanted:
        forker.order(wanted)
        assert forker.busy
        forker.signal(wanted[1].number, 0, signal.SIGKILL, whole_group=True)
        while not forker.exits:
            forker.read()
        assert forker.busy, "until its answer is taken"
        answer = forker.take_answer()
        assert answer is not None
        assert not forker.busy
        assert list(forker.exits) == [wanted[1].number]
        assert forker.exits[wanted[1].number].pid == answer.forked[1][0]


def test_signals_for_what_has_ended_reach_nobody_and_never_block(forker: Forker) -> None:
    other = os.fork()
    if not other:
        sleep(60)
        os._exit(0)
    for _ in range(5000):
        forker.signal(next(NUMBERS), other, signal.SIGKILL)
    with requests(1) as wanted:
        answer = answered(forker, wanted)
        assert (len(answer.forked), answer.error, forker.lost) == (1, None, None)
    assert os.waitpid(other, os.WNOHANG) == (0, 0), "a process that is not the server's was signalled"
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_what_could_not_be_forked_leaves_nothing_open(forker: Forker) -> None:
    for turn in range(20):
        with requests(2) as wanted:
            broken = wanted[1].place
            broken.release()
            broken.memory_fd = os.open(os.devnull, os.O_RDWR)  # no memory: it can't be mapped
            answer = answered(forker, wanted)
            assert (answer.forked, type(answer.error)) == ([], OSError)
            assert [one.place.number for one in wanted] == [None, None]
        if not turn:
            before = descriptors(forker.pid)
    assert descriptors(forker.pid) == before
    with requests(2) as wanted:
        assert len(answered(forker, wanted).forked) == 2


def test_modules_are_loaded_once_and_the_image_measured_anew(forker: Forker, images: list[int]) -> None:
    forker.load(["pq_core.ciphers"])
    forker.load(["pq_core.ciphers"])
    forker.load(["pq_core.no_such_module"])
    while len(images) < 2:
        forker.read()
    with requests(1) as wanted:
        assert answered(forker, wanted).error is None
    assert images == [4711, 4711]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_server_that_is_gone_or_hangs_is_given_up(forker: Forker, how: int) -> None:
    with requests(1) as wanted:
        ((pid, _),) = answered(forker, wanted).forked
    os.kill(forker.pid, how)
    with requests(1) as wanted:
        forker.order(wanted)
        look = select.poll()
        look.register(forker, select.POLLIN)
        while forker.lost is None:
            assert forker.next_event(monotonic()) is not None
            if look.poll(50):
                forker.read()
            forker.check(monotonic())
        assert forker.take_answer() is None, "nobody knows whether it was forked"
    assert "the process that forks this worker's children is gone" in str(forker.lost)
    end = monotonic() + 20
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert monotonic() < end, "its child lives"
        sleep(0.01)


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        (Sample(False, 1.0, 2.0), Sample(False, 1.0, 2.0), 0.5),  # it sleeps, or was stopped
        (Sample(False, 1.0, 2.0), Sample(True, 1.0, 2.0), 0.0),  # it waits, and has not been let yet
        (Sample(True, 1.0, 2.0), Sample(True, 1.5, 2.0), 0.5),  # it runs, and says nothing
        (Sample(True, 1.0, 2.0), Sample(True, 1.1, 2.4), 0.1),  # it gets a fifth of a processor
        (Sample(True, 1.0, 2.0), Sample(False, 1.1, 2.3), 0.2),  # so did it, and then slept
        (Sample(True, 1.0, 2.0), Sample(False, 1.0, 9.0), 0.0),  # a long wait has ended
        (None, Sample(True, 1.0, 2.0), 0.5),
        (Sample(True, 1.0, 2.0), None, 0.5),
    ],
)
def test_time_in_which_it_was_not_let_run_does_not_count(
    before: Sample | None, after: Sample | None, counts: float
) -> None:
    assert silent(before, after, 0.5) == pytest.approx(counts)


@pytest.mark.skipif(sample(os.getpid()) is None, reason="the kernel does not count how long a process waits")
@pytest.mark.parametrize("hangs", [False, True])
def test_server_that_gets_no_processor_is_not_given_up(forker: Forker, hangs: bool) -> None:
    cpu = min(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, [{cpu}])\nwhile True: 0"
    loops = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    try:
        os.sched_setaffinity(forker.pid, {cpu})
        os.sched_setscheduler(forker.pid, os.SCHED_IDLE, os.sched_param(0))
        with requests(1) as wanted:
            forker.order(wanted)
            answer = None
            while answer is None and forker.lost is None:
                if forker.starved > 1.5 * forker.patience:
                    if hangs:
                        os.kill(forker.pid, signal.SIGSTOP)
                    for loop in loops:
                        loop.kill()
                if select.select([forker], [], [], 0.05)[0]:
                    forker.read()
                forker.check(monotonic())
                answer = forker.take_answer()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    if hangs and answer is None:  # else a system that let it answer meanwhile
        assert forker.lost is not None
        assert forker.lost.overloaded, "no task is to blame"
    else:
        assert forker.lost is None
        assert answer is not None
        assert len(answer.forked) == 1


def test_server_that_hangs_is_noticed_without_an_order(forker: Forker) -> None:
    os.kill(forker.pid, signal.SIGSTOP)
    end = monotonic() + 20
    while forker.lost is None:
        assert monotonic() < end
        forker.check(monotonic())
        sleep(0.05)
    assert "no answer for 1 s" in str(forker.lost)
    assert not forker.lost.overloaded, "a task may have stopped it"
