"""A task run before the first fork, so that children find the code of their own path in use already.

The interpreter writes to a function's code when it first runs it and again when it specializes it, to its caches of
attributes when it looks one up for the first time, and so on. Each such write in a child copies a page that it shares
with its parent: about a fifth of all that a short task copies. What has run a few times before the fork writes less.
"""

from __future__ import annotations

import contextvars
import faulthandler
import os
import socket
import sys
from contextlib import nullcontext

from pq_core import attempt as attempts
from pq_core import roles
from pq_core.registry import Registry
from pq_core.task_groups import TaskGroup
from pq_core.types import ClaimedTask, TaskOptions
from pq_core.worker import blocking_drivers, guards, handing, inbox, late, wire
from pq_core.worker.channel import Channel
from pq_core.worker.child import run_one, take_signals
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.program import Program
from pq_core.worker.rows import claimed_task
from pq_core.worker.shared import Place
from pq_core.worker.stopping import Stopper

TIMES = 12
"""Runs after which the interpreter has specialized what it will (PEP 659): CPython 3.11 begins at the ninth call, later
ones at the second."""


def rehearse() -> None:
    """Run a task of pq's own ``TIMES`` times in this process, in a context of its own; nothing remains of it."""
    tasks = TaskGroup()

    @tasks.task(name="pq rehearsal")
    def nothing() -> None:
        """Do what a task does at least."""

    registry = Registry()
    registry.include(tasks)
    program = Program(registry=registry, defaults=TaskOptions(), release_delay=1.0, unroutable_after=1.0)
    place = Place(tail=0)
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs:
            for _ in range(TIMES):
                contextvars.copy_context().run(_run, program, place, ours, theirs.fileno())
    finally:
        place.close()


def rehearse_beginning(setup: ChildSetup, parent: int) -> None:
    """Do what a child does before its task, ``TIMES`` times, in the process that will fork them; ``parent``: its own.

    Only what leaves nothing behind. The caller takes its signals afterwards.
    """
    place = Place(tail=0)
    role = roles.role()
    try:
        for _ in range(TIMES):
            _run_hooks_of_the_library()
            guards.die_with_parent(parent)
            roles.become_child()
            take_signals(setup, None, place).forget()
            blocking_drivers.any_loaded()
            roles.set_role(role)
            roles.ready_to_fork()
    finally:
        faulthandler.disable()  # children enable it by themselves, each for its own place
        place.close()


def _run_hooks_of_the_library() -> None:
    """Run what the standard library runs in a child after a fork, where it is there under the names of today.

    Not where threads have been started after the fork, as some SDKs do: it takes all but this one for gone.
    """
    if (threading := sys.modules.get("threading")) is not None and threading.active_count() > 1:
        return
    for module, name in (("threading", "_after_fork"), ("logging", "_after_at_fork_child_reinit_locks")):
        hook = getattr(sys.modules.get(module), name, None)
        if hook is not None:
            hook()
    if (random := sys.modules.get("random")) is not None:
        random.seed()


def _setup(program: Program) -> ChildSetup:
    return ChildSetup(
        worker_pid=os.getpid(),
        worker_id=0,
        schema="",
        as_declared=program.as_declared,
        prepared=lambda task: task,
        load=program.load,
        load_ahead=program.load_ahead,
        function_of=program.function_of,
        in_child=lambda task: nullcontext(),
        retryable=program.retryable,
        sensitive=program.sensitive,
        detaches=program.detaches,
        demands_result=program.demands_result,
        memory_of_child=lambda task: None,
        encode_result=program.encode_result,
        find_executor=lambda connection: None,
        result_limit=1024,
        default_timeout=None,
        late=late.loaded(),
    )


def _run(program: Program, place: Place, told: socket.socket, descriptor: int) -> None:
    setup = _setup(program)
    received = setup.as_declared(_received())
    task, arguments = handing.unpack(handing.pack(received, program.load_ahead(received))) or (received, None)
    channel = Channel(descriptor)
    stopper = Stopper(place, task)
    run_one(setup, task, channel, stopper, (setup.function_of(task), *(arguments or ((), {}))))
    frames = wire.Decoder(wire.OVERHEAD).feed(told.recv(wire.OVERHEAD))
    if [kind for kind, _ in frames] != [wire.Kind.DONE]:
        raise RuntimeError(f"the rehearsal of a task failed: {frames}")
    attempts.set_current_attempt(None)


def _received() -> ClaimedTask:
    """Return a task that has gone the way through an inbox."""
    moment = b"2000-01-01 00:00:00+00"
    row = [
        b"0", b"pq rehearsal", b"default", b"50", b"1", b"1", b"1", b'{"args": [], "kwargs": {}}', None, b"1",
        moment, moment, moment, None, None, None, b"0", b"0", None, None, b"retry", None,
    ]  # fmt: skip
    return claimed_task(inbox.unpack(inbox.pack(row)))
