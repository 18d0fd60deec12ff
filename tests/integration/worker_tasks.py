"""Tasks that behave and misbehave, for the tests of the worker; every worker of those tests runs this module."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from pq_core import PQ, Backoff, Cancel, Retry, Snooze, TaskCancelled, TaskGroup, TaskTimeout, current_attempt, role

jobs = TaskGroup(prefix="w")

AT_ONCE = Backoff(base=0, jitter=0)


def create_pq() -> PQ:
    """The application of the tests' workers; the database comes from PQ_DATABASE_URL."""
    return PQ(tasks=[__name__], app="tests")


def own_dsn() -> str:
    return os.environ["PQ_DATABASE_URL"]


# --- ordinary ends


@jobs.task
def add(a: int, b: int = 0) -> int:
    print("adding", a, b)
    return a + b


@jobs.task
def leaves_a_thread_that_holds_the_interpreter(seconds: float) -> None:
    """From so many seconds after it returned on: a call of C code that does not let go."""

    def hold() -> None:
        time.sleep(seconds)
        ctypes.PyDLL(None).sleep(600)

    threading.Thread(target=hold, daemon=True).start()


def option_of(fileno: int, option: int) -> int:
    """Return what TCP's ``option`` is set to on a live socket."""
    with socket.socket(fileno=os.dup(fileno)) as same:
        return same.getsockopt(socket.IPPROTO_TCP, option)


@jobs.task
def option_of_own_connection(option: int) -> int:
    """Say so of a connection that the task borrows from its client."""
    with PQ(own_dsn()) as own, own.session() as connection:
        return option_of(connection.fileno(), option)


@jobs.task
def own_pid() -> int:
    return os.getpid()


@jobs.task
def note(path: str, line: str, pause: float = 0.0) -> None:
    """Append a line to a file, so that a test sees what ran, when and how often."""
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
    time.sleep(pause)


@jobs.task
def nap(seconds: float, path: str = "") -> str:
    if path:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return "rested"


@jobs.task
def notes_why(path: str) -> None:
    try:
        current_attempt().progress(0, "asleep")
        time.sleep(60)
    except TaskCancelled as error:
        Path(path).write_text(repr(error.reason))
        raise


@jobs.task
def locks(path: str, seconds: float) -> None:
    """Note whether another attempt of this task lives: the kernel lets go of a lock when its process is gone."""
    with Path(f"{path}.lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = "alone"
        except OSError:
            found = "beside-another"
        with Path(path).open("a") as notes:
            notes.write(f"{current_attempt().fence}:{found}\n")
        time.sleep(seconds)


@jobs.task
def sleeps_and_raises(seconds: float, path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    raise ValueError("after a while")


@jobs.task
def boom(words: str) -> None:
    raise ValueError(words)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@jobs.task
def unspeakable() -> None:
    raise Unspeakable


class Quitting(Exception):
    def __str__(self) -> str:
        sys.exit(9)


@jobs.task
def quitting() -> None:
    raise Quitting


@jobs.task
def chained() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("outer") from error


@jobs.task
def group_of_errors() -> None:
    raise ExceptionGroup("two", [ValueError("one of them"), TypeError("the other")])


@jobs.task
def endless_recursion() -> int:
    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    return deeper(0)


@jobs.task
def system_exit(code: int) -> None:
    sys.exit(code)


@jobs.task
def keyboard_interrupt() -> None:
    raise KeyboardInterrupt


@jobs.task
def leave(code: int) -> None:
    os._exit(code)


@jobs.task
def segfault() -> None:
    ctypes.string_at(0)


@jobs.task
def abort() -> None:
    os.abort()


@jobs.task
def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


@jobs.task
def kills_its_worker() -> None:
    time.sleep(0.5)
    parent = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    os.kill(int(parent[1]), signal.SIGKILL)
    time.sleep(30)


@jobs.task
def kills_its_parent() -> None:
    time.sleep(0.5)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(30)


@jobs.task(memory_limit=64 * 2**20)
def hog(size: int) -> int:
    return len(bytearray(b"x") * size)


@jobs.task
def open_sockets(seconds: float) -> int:
    """Return how many sockets this process has open; ``seconds`` later, so that others run meanwhile."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the folder
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    time.sleep(seconds)
    return found


@jobs.task
def takes(size: int) -> int:
    return len(bytearray(b"x") * size)


@jobs.task
def where_am_i() -> list[Any]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [
        os.getcwd(),
        os.umask(0o22),
        sorted(int(number) for number in mask),
        role().value,
        os.getpid(),
        os.getpgid(0),
    ]


@jobs.task
def change_everything() -> None:
    os.chdir("/")
    os.umask(0o777)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.environ["PQ_DATABASE_URL"] = "nonsense"
    sys.path.clear()
    os.nice(5)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


# --- timeouts


@jobs.task(timeout=0.3, grace=5)
def sleeps_too_long() -> None:
    time.sleep(60)


@jobs.task(timeout=0.3, grace=5)
def cleans_up(path: str) -> None:
    try:
        time.sleep(60)
    except TaskTimeout:
        Path(path).write_text("cleaned up")
        raise


@jobs.task(timeout=0.3, grace=5)
def returns_after_all() -> str:
    try:
        time.sleep(60)
    except TaskTimeout:
        return "in the last moment"
    return "never"


@jobs.task(timeout=0.3, grace=5)
def catastrophic_regex() -> None:
    re.match(r"(a+)+$", "a" * 40 + "b")


@jobs.task(timeout=0.3, grace=0.3)
def holds_the_gil() -> None:
    sum(range(10**13))


@jobs.task(timeout=0.3, grace=0.3)
def ignores_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    current_attempt().progress(0.5, "deaf")
    while True:
        time.sleep(1)


@jobs.task(timeout=0.3, grace=0.3)
def blocks_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(1)


@jobs.task(timeout=0.3, grace=0.3)
def catches_everything() -> None:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(1)


@jobs.task(timeout=0.3, grace=0.3)
def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@jobs.task(timeout=0.3, grace=5)
def waits_for_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
    thread.start()
    thread.join()


# --- descendants


def _grandchild(path: str, ignore: bool) -> None:
    pid = os.fork()
    if pid:
        with Path(path).open("a") as file:
            file.write(f"{pid}\n")
        return
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        time.sleep(60)


@jobs.task
def leaves_grandchildren(path: str, count: int, ignore: bool) -> str:
    for _ in range(count):
        _grandchild(path, ignore)
    return "done"


@jobs.task(timeout=0.5, grace=0.3)
def hangs_with_grandchildren(path: str, ignore: bool) -> None:
    _grandchild(path, ignore)
    time.sleep(60)


@jobs.task(max_attempts=1)
def uses_up_descriptors() -> None:
    while True:
        os.open(os.devnull, os.O_RDONLY)


@jobs.task
def pool_of_processes() -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


@jobs.task
def subprocesses() -> str:
    return subprocess.run(["echo", "hello"], capture_output=True, check=True, text=True).stdout


@jobs.task
def becomes_another_program(*words: str) -> None:
    os.execvp(words[0], list(words))


@jobs.task(timeout=0.3)
def becomes_an_endless_program() -> None:
    os.execvp("sleep", ["sleep", "60"])


# --- descriptors, output, results


@jobs.task
def closes_everything() -> str:
    os.closerange(0, 65536)
    return "closed"


@jobs.task
def reopens_everything(path: str, wait: float = 0.0) -> str:
    os.closerange(0, 65536)
    for _ in range(64):
        os.open(path, os.O_RDWR | os.O_CREAT)
    time.sleep(wait)
    print("into the void")
    return "reopened"


@jobs.task
def prints(size: int) -> None:
    line = "x" * 99 + "\n"
    for _ in range(size // 100):
        sys.stdout.write(line)
    print("the end")


@jobs.task
def prints_odd_things() -> None:
    sys.stdout.buffer.write(b"bytes \xff\x00\n")
    print("nul \x00 and surrogate \ud800".encode("utf-8", "replace").decode())
    print("on stderr", file=sys.stderr)


@jobs.task
def prints_then_dies() -> None:
    print("last words", end="")
    os.kill(os.getpid(), signal.SIGKILL)


@jobs.task
def returns_text(text: str, times: int) -> str:
    return text * times


@jobs.task(result_limit=8 * 2**20)
def returns_much(text: str, times: int) -> str:
    return text * times


@jobs.task
def returns_odd(kind: str) -> Any:
    made: dict[str, Callable[[], Any]] = {
        "object": object,
        "nul": lambda: "a\x00b",
        "surrogate": lambda: "a\ud800b",
        "nan": lambda: float("nan"),
        "deep": _deep,
        "lambda": lambda: _deep,
        "self": _holds_itself,
    }
    return made[kind]()


@jobs.task(strict_result=True)
def returns_odd_strictly(kind: str) -> Any:
    return returns_odd(kind)


def _deep() -> Any:
    value: Any = []
    for _ in range(50_000):
        value = [value]
    return value


def _holds_itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@jobs.task
def raises_odd(kind: str) -> None:
    raise ValueError({"nul": "a\x00b", "surrogate": "a\ud800b", "long": "x" * 2_000_000}[kind])


@jobs.task
def writes_garbage(kind: str, leave: bool = False) -> str:
    """Write into the socket to the worker what no child of ours would."""
    garbage = {
        "noise": os.urandom(4096),
        "length": b"\xff\xff\xff\xff\x04",
        "kind": b"\x00\x00\x00\x02\x09{}",
        "json": b"\x00\x00\x00\x02\x04{{",
        "list": b"\x00\x00\x00\x02\x04[]",
        "task": b"\x00\x00\x00\x02\x01{}",
        "short end": b"\x00\x00\x00\x02\x05{}",
        "end of another": b'\x00\x00\x00\x2d\x04{"how":"succeeded","id":1234567890,"fence":1}',
        "nan": _frame(4, b'{"how":"succeeded","result":NaN}'),
        "huge delay": _frame(4, b'{"how":"snoozed","after":1e308}'),
        "long number": _frame(4, b'{"how":"snoozed","after":1' + b"0" * 400 + b"}"),
        "nan progress": _frame(2, b'{"share":NaN,"message":5}'),
        "odd progress": _frame(2, b'{"share":1e-300,"message":"a\\u0000b\\ud800"}'),
        "result": _frame(4, b'{"how":"succeeded","result":"a\\u0000b"}'),
        "unknown how": _frame(4, b'{"how":"flying"}'),
        "odd types": _frame(4, b'{"how":"raised","error":[1],"fingerprint":{},"after":"x","retryable":5}'),
    }[kind]
    for fd in range(3, 1024):
        with contextlib.suppress(OSError):
            if _is_channel(fd):
                os.write(fd, garbage)
    time.sleep(0.2)
    if leave:
        os._exit(0)
    return "after garbage"


def _frame(kind: int, body: bytes) -> bytes:
    attempt = current_attempt()
    body = b'{"id":%d,"fence":%d,' % (attempt.id, attempt.fence) + body[1:]
    return len(body).to_bytes(4, "big") + bytes([kind]) + body


def _is_channel(fd: int) -> bool:
    import socket

    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM and sock.getpeername() == ""


# --- what a task says itself


@jobs.task(max_attempts=3, backoff=AT_ONCE)
def retries(fail: int) -> int:
    number = current_attempt().number
    if number <= fail:
        raise Retry(f"attempt {number}")
    return number


@jobs.task(max_attempts=3, backoff=Backoff(base=0.3, factor=2, jitter=0))
def backs_off(path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{time.time()}\n")
    raise ValueError("again")


@jobs.task(max_attempts=3, backoff=AT_ONCE, retry_on=(OSError,), no_retry_on=(FileNotFoundError,))
def picky(kind: str) -> None:
    raise {"os": OSError, "file": FileNotFoundError, "value": ValueError}[kind]("picky")


@jobs.task(max_attempts=2, backoff=AT_ONCE)
def crashes(how: str) -> None:
    {"kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "exit": lambda: os._exit(3)}[how]()


@jobs.task
def dies_with_an_heir(path: str | None) -> None:
    """With a path: die at once, and leave a process that holds every descriptor, in a session of its own."""
    if path is None:
        return
    if os.fork() == 0:
        os.setsid()
        Path(path).write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    while not os.path.exists(path) or not Path(path).read_text():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


@jobs.task
def snoozes(times: int, seconds: float = 0.01) -> int:
    attempt = current_attempt()
    if attempt.task.snoozes < times:
        raise Snooze(seconds, "not yet")
    return attempt.number


@jobs.task
def snoozes_for_ages() -> None:
    raise Snooze(timedelta.max)


@jobs.task(max_attempts=5)
def cancels() -> None:
    raise Cancel("changed my mind")


@jobs.task
def progresses(steps: list[float], message: str | None = None, pause: float = 0.0) -> None:
    for step in steps:
        current_attempt().progress(step, message)
        time.sleep(pause)


@jobs.task
def progress_odd(message: str) -> None:
    current_attempt().progress(1e-300, bytes.fromhex(message).decode("utf-8", "surrogatepass"))


@jobs.task(max_attempts=3, backoff=AT_ONCE)
def ends_later(how: str) -> None:
    time.sleep(0.5)
    match how:
        case "raise":
            raise ValueError("at the end")
        case "retry":
            raise Retry("at the end")
        case "snooze":
            raise Snooze(0)
        case "cancel":
            raise Cancel("at the end")
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)


@jobs.task
def reports_failure(subject: str) -> str:
    return f"{subject}: {current_attempt().headers['pq-failed-task']}"


# --- async


@jobs.task
async def async_add(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


@jobs.task(timeout=0.3, grace=5)
async def async_sleeps(path: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        Path(path).write_text("cleaned up")


@jobs.task(timeout=0.3, grace=0.3)
async def async_stubborn() -> None:
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(1)


@jobs.task
async def async_boom() -> None:
    await asyncio.sleep(0)
    raise ValueError("async boom")


# --- complete(connection)


@jobs.task(max_attempts=2, backoff=AT_ONCE)
def completes(when: str) -> str:
    """Write a row and complete in one transaction; die, raise or hang at the named moment, on the first attempt."""
    attempt = current_attempt()
    act = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "raise": lambda: _raise(ValueError("in between")),
        "hang": lambda: time.sleep(60),
        "return": lambda: None,
    }
    moment, _, how = when.partition(" ")
    first = attempt.fence == 1
    with psycopg.connect(own_dsn()) as connection:
        connection.execute("INSERT INTO effects (task, fence) VALUES (%s, %s)", (attempt.id, attempt.fence))
        if first and moment == "before":
            act[how]()
        attempt.complete(connection, result={"by": "complete"})
        if first and moment == "within":
            act[how]()
        connection.commit()
        if first and moment == "after":
            act[how]()
    return "returned"


def _raise(error: Exception) -> None:
    raise error


@jobs.task
def starts(path: str) -> int:
    """Note that it begins, and end once it is told to; return how often it has begun."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(f"{path}.go").exists():
        time.sleep(0.02)
    return len(Path(path).read_text().splitlines())


@jobs.task
def completes_without_commit() -> str:
    with psycopg.connect(own_dsn()) as connection:
        current_attempt().complete(connection)
        connection.rollback()
    return "returned"


@jobs.task
def completes_when_told(path: str, lingers: bool = False) -> str:
    """Complete once the file is there; report what became of it. ``lingers``: only once the next file is there."""
    attempt = current_attempt()
    Path(f"{path}.started").write_text(str(os.getpid()))
    while not Path(path).exists():
        time.sleep(0.02)
    with psycopg.connect(own_dsn()) as connection:
        connection.execute("INSERT INTO effects (task, fence) VALUES (%s, %s)", (attempt.id, attempt.fence))
        attempt.complete(connection, result="completed")
    Path(f"{path}.completed").touch()
    while lingers and not Path(f"{path}.end").exists():
        time.sleep(0.02)
    return "returned"


@jobs.task
async def acompletes() -> str:
    attempt = current_attempt()
    async with await psycopg.AsyncConnection.connect(own_dsn()) as connection:
        await connection.execute("INSERT INTO effects (task, fence) VALUES (%s, %s)", (attempt.id, attempt.fence))
        await attempt.acomplete(connection, result="async")
    return "returned"


@jobs.task
def completes_twice() -> None:
    with psycopg.connect(own_dsn()) as connection:
        current_attempt().complete(connection)
        current_attempt().complete(connection)


# --- one at a time


@jobs.task
def exclusive(writer: int, number: int) -> None:
    """Fail if another run of this is under way; remember the version that ran."""
    with psycopg.connect(own_dsn(), autocommit=True) as connection:
        alone = connection.execute("SELECT pg_try_advisory_lock(4711)").fetchone()
        connection.execute(
            "INSERT INTO versions (writer, number, alone) VALUES (%s, %s, %s)", (writer, number, alone == (True,))
        )


# --- where it runs


@jobs.task(queue="side")
def in_side_queue() -> str:
    return "side"


@jobs.task(version=2)
def second_version(a: int, b: int) -> int:
    return a + b


@second_version.upgrade(from_version=1)
def _second_version_from_first(a: int) -> tuple[list[int], dict[str, int]]:
    return [a], {"b": 10}


# --- coroutines that share a process


@jobs.task
async def async_naps(seconds: float, path: str = "") -> int:
    if path:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")
    await asyncio.sleep(seconds)
    return current_attempt().id


@jobs.task
async def async_dies(seconds: float) -> None:
    await asyncio.sleep(seconds)
    os.kill(os.getpid(), signal.SIGSEGV)


@jobs.task
async def async_blocks(seconds: float) -> None:
    time.sleep(seconds)


@jobs.task
def variables() -> list[str]:
    """Return the names of the environment's variables."""
    return sorted(os.environ)


@jobs.task(backoff=Backoff(base=7200, max=10_000))
def slow_to_retry() -> None:
    raise ValueError("not now")


@jobs.task(timeout=60)
def tells_its_deadline() -> str:
    deadline = current_attempt().deadline
    assert deadline is not None
    return "within a minute" if deadline - datetime.now(UTC) <= timedelta(seconds=60) else f"at {deadline}"


# --- waiting for others


@jobs.task
def waits_for_another() -> int:
    with PQ(own_dsn()) as pq:
        pq.include(jobs)
        return int(pq.wait(pq.enqueue(add.call(1, 2)), timeout=60))


# --- output while they run


def _print_and_wait(words: str, gate: str) -> None:
    print(words, flush=True)
    while not Path(gate).exists():
        time.sleep(0.02)
    print("the end")


@jobs.task
def prints_and_waits(words: str, gate: str) -> None:
    _print_and_wait(words, gate)


@jobs.task(sensitive=True)
def whispers_and_waits(words: str, gate: str) -> None:
    _print_and_wait(words, gate)
