"""A worker and its fork server, without a database: what is asked, what comes back, what is left open."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn

import pytest

from pq_core.types import ClaimedTask
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.fork_server import ForkServer
from pq_core.worker.forker import AT_ONCE, Forker, Request
from pq_core.worker.inbox import Inbox
from pq_core.worker.shared import Place


def _as_it_is(task: ClaimedTask) -> ClaimedTask:
    return task


def setup(worker_id: int) -> ChildSetup:
    return ChildSetup(
        worker_pid=os.getpid(),
        worker_id=worker_id,
        schema="public",
        as_declared=_as_it_is,
        prepared=_as_it_is,
        load=lambda task: (dict, (), {}),
        load_ahead=lambda task: None,
        function_of=lambda task: dict,
        in_child=nullcontext,
        retryable=lambda task, error: False,
        sensitive=lambda task: False,
        encode_result=lambda task, value, limit: value,
        find_executor=lambda connection: None,
        result_limit=1024,
        default_timeout=None,
    )


@pytest.fixture
def images() -> list[int]:
    return []


@pytest.fixture
def forker(images: list[int]) -> Iterator[Forker]:
    parent = os.getpid()

    def serve(sock: socket.socket) -> NoReturn:
        ForkServer(
            sock=sock,
            setup_of=setup,
            run_crowd=None,
            tail=0,
            foreign=[],
            settle=lambda *own: None,
            image_rss=lambda: 4711,
        ).serve(parent)

    with closing(Forker.start(serve, lease=3, on_image=images.append)) as forker:
        yield forker


@contextmanager
def requests(count: int) -> Iterator[list[Request]]:
    """Make what so many waiting children need."""
    sockets = [socket.socketpair() for _ in range(count)]
    places, boxes = [Place(tail=0) for _ in range(count)], [Inbox() for _ in range(count)]
    try:
        yield [
            Request(place=place, socket=theirs.fileno(), inbox=box.theirs, task=None, crowd=False)
            for place, box, (_, theirs) in zip(places, boxes, sockets, strict=True)
        ]
    finally:
        for place, box, pair in zip(places, boxes, sockets, strict=True):
            place.close()
            box.close()
            for end in pair:
                end.close()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_children_are_forked_in_order_and_their_ends_are_told(forker: Forker) -> None:
    with requests(AT_ONCE + 3) as wanted:
        forked, error = forker.fork_all(wanted)
        assert error is None
        pids = [pid for pid, _ in forked]
        assert len(set(pids)) == len(wanted)
        assert [at for _, at in forked] == sorted(at for _, at in forked)
        for pid in pids:
            forker.signal(pid, signal.SIGKILL, whole_group=True)
        while len(forker.exits) < len(pids):
            forker.read()
        assert {exit_.signal for exit_ in forker.exits.values()} == {signal.SIGKILL}
        assert set(forker.exits) == set(pids)
    assert forker.lost is None


def test_signals_for_what_has_ended_reach_nobody_and_never_block(forker: Forker) -> None:
    other = os.fork()
    if not other:
        sleep(60)
        os._exit(0)
    for _ in range(5000):
        forker.signal(other, signal.SIGKILL)
    with requests(1) as wanted:
        forked, error = forker.fork_all(wanted)
        assert (len(forked), error, forker.lost) == (1, None, None)
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
            forked, error = forker.fork_all(wanted)
            assert (forked, type(error)) == ([], OSError)
            assert [one.place.number for one in wanted] == [None, None]
        if not turn:
            before = descriptors(forker.pid)
    assert descriptors(forker.pid) == before
    with requests(2) as wanted:
        assert len(forker.fork_all(wanted)[0]) == 2


def test_modules_are_loaded_once_and_the_image_measured_anew(forker: Forker, images: list[int]) -> None:
    forker.load(["pq_core.ciphers"])
    forker.load(["pq_core.ciphers"])
    forker.load(["pq_core.no_such_module"])
    while len(images) < 2:
        forker.read()
    with requests(1) as wanted:
        assert forker.fork_all(wanted)[1] is None
    assert images == [4711, 4711]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_server_that_is_gone_or_hangs_is_given_up(forker: Forker, how: int) -> None:
    with requests(1) as wanted:
        ((pid, _),) = forker.fork_all(wanted)[0]
    os.kill(forker.pid, how)
    with requests(1) as wanted:
        forked, error = forker.fork_all(wanted)
    assert forked == []
    assert isinstance(error, ChildProcessError)
    assert "the process that forks this worker's children is gone" in str(forker.lost)
    end = monotonic() + 20
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert monotonic() < end, "its child lives"
        sleep(0.01)


def test_server_that_hangs_is_noticed_without_an_order(forker: Forker) -> None:
    os.kill(forker.pid, signal.SIGSTOP)
    end = monotonic() + 20
    while forker.lost is None:
        assert monotonic() < end
        forker.check(monotonic())
        sleep(0.05)
    assert "no answer for 1 s" in str(forker.lost)
