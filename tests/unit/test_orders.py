"""What a worker and its fork server say to each other, and who holds the descriptors that come with it."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from pq_core.worker.orders import Gone, Line, Order


@pytest.fixture
def lines() -> Iterator[tuple[Line, Line]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Line(ours), Line(theirs)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_messages_arrive_whole_and_in_order_however_they_are_cut(lines: tuple[Line, Line]) -> None:
    sender, receiver = lines
    for number in range(3):
        sender.send(Order.LIFE, number)
    assert receiver.receive() == [((Order.LIFE, number), []) for number in range(3)]

    large = [b"x" * 100_000, None]
    sender.send(Order.FORK, [], [(0, False, False, large)])
    assert receiver.receive() == []
    assert receiver.receive() == [((Order.FORK, [], [(0, False, False, large)]), [])]


def test_descriptors_come_with_their_message(lines: tuple[Line, Line]) -> None:
    sender, receiver = lines
    reading, writing = os.pipe()
    sender.send(Order.FORK, [], [], descriptors=[reading, writing])
    ((_, found),) = receiver.receive()
    assert found is not None
    assert not any(os.get_inheritable(one) for one in found)
    os.write(found[1], b"through")
    assert os.read(reading, 10) == b"through"
    for one in (reading, writing, *found):
        os.close(one)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="reads /proc/self/fd")
def test_message_whose_descriptors_found_no_room_says_so_and_leaves_none(lines: tuple[Line, Line]) -> None:
    sender, receiver = lines
    null = os.open(os.devnull, os.O_RDONLY)
    sender.send(Order.FORK, [], [], descriptors=[null] * 20)
    sender.send(Order.LIFE, 1)
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 5, hard))
    try:
        messages = receiver.receive()
        while len(messages) < 2:
            messages += receiver.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert messages == [((Order.FORK, [], []), None), ((Order.LIFE, 1), [])]
    assert descriptors() == before
    os.close(null)


def test_other_side_that_is_gone_is_noticed_by_both_ways(lines: tuple[Line, Line]) -> None:
    sender, receiver = lines
    receiver.sock.close()
    with pytest.raises(Gone):
        sender.send(Order.LIFE, 1)
    with pytest.raises(Gone, match="hung up"):
        sender.receive()
