"""Tasks that do to their process and to their worker what no honest one does."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from pathlib import Path

from pq_core import PQ, TaskGroup
from pq_core.worker.channel import Channel
from tests.integration.worker_tasks import _frame

jobs = TaskGroup(prefix="h")


def create_pq() -> PQ:
    return PQ(tasks=[__name__], app="hostile")


def channel() -> int:
    """Return the descriptor of the socket to the worker."""
    return next(found._fd for found in gc.get_objects() if type(found) is Channel)


def write_all(fd: int, data: bytes, times: int) -> None:
    for _ in range(times):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


@jobs.task
def add(a: int, b: int) -> int:
    return a + b


@jobs.task
def writes_a_gigabyte(kind: str) -> str:
    data = {
        "garbage": b"\x00" * 2**20,
        "frames": _frame(2, b'{"share":0.5,"message":"' + b"x" * 1000 + b'"}') * 1000,
        "one frame": b"",
    }[kind]
    fd = channel()
    if kind == "one frame":
        os.write(fd, (2**30).to_bytes(4, "big") + b"\x04")
        data = b" " * 2**20
    write_all(fd, data, (2**26 if kind == "frames" else 2**30) // len(data))
    return "written"


@jobs.task
def forks(count: int, path: str, session: bool) -> str:
    """Leave processes behind that sleep, in sessions of their own or in the task's group."""
    for _ in range(count):
        if not os.fork():
            try:
                if session:
                    os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                with open(path, "a") as file:
                    file.write(f"{os.getpid()}\n")
                os.closerange(0, 64)
                time.sleep(3600)
            finally:
                os._exit(0)
    while len(Path(path).read_text().splitlines() if Path(path).exists() else []) < count:
        time.sleep(0.02)
    return "forked"


@jobs.task
def fills_its_output(megabytes: int) -> str:
    for _ in range(megabytes):
        sys.stdout.write("x" * (2**20 - 1) + "\n")
    print("the end")
    return "printed"


@jobs.task
def kills_its_group(number: int) -> None:
    os.killpg(0, number)
    time.sleep(60)


@jobs.task(timeout=0.5, grace=0.3)
def blocks_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(1)


@jobs.task
def moves_away(path: str) -> str:
    os.chdir(path)
    os.umask(0o777)
    os.nice(5)
    os.environ.clear()
    sys.path.clear()
    return os.getcwd()


@jobs.task
def execs() -> None:
    os.execv("/bin/true", ["true"])


@jobs.task
def closes_every_descriptor() -> str:
    os.closerange(0, 65536)
    return "closed"


@jobs.task
def opens_all_descriptors() -> int:
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    return len(held)


@jobs.task
def eats(size: int) -> int:
    """Take memory without any limit of ours, and touch it."""
    held = []
    while size > 0:
        held.append(b"x" * 2**24)
        size -= 2**24
    return len(held)
