"""Tasks that leave work behind when their function ends."""

from __future__ import annotations

import atexit
import logging
import logging.handlers
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from pq_core import PQ, TaskGroup

jobs = TaskGroup(prefix="e")

if FOLDER := os.environ.get("PQ_TEST_FOLDER"):
    atexit.register(Path(FOLDER, "image-atexit").touch)
IMAGE_FOLDER = tempfile.TemporaryDirectory(prefix="pq-image-")
buffered = logging.handlers.MemoryHandler(1000)
kept: list[Any] = []


def create_pq() -> PQ:
    return PQ(tasks=[__name__])


def write_late(path: str, seconds: float = 0.3) -> None:
    time.sleep(seconds)
    Path(path).write_text(str(os.getpid()))


@jobs.task
def thread(path: str, seconds: float = 0.3, daemon: bool = False) -> int:
    threading.Thread(target=write_late, args=(path, seconds), name="writer", daemon=daemon).start()
    return os.getpid()


@jobs.task
def pool(path: str) -> None:
    kept.append(ThreadPoolExecutor(2))
    kept[-1].submit(write_late, path)


@jobs.task
def process_pool(path: str) -> None:
    kept.append(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
    kept[-1].submit(write_late, path)


@jobs.task
def process(path: str) -> None:
    multiprocessing.get_context("fork").Process(target=write_late, args=(path,)).start()


def sleep_long() -> None:
    time.sleep(3600)


@jobs.task
def terminate_at_once(times: int) -> list[int | None]:
    """End processes in the moment in which they begin; also from another thread, and with SIGTERM blocked."""
    found: list[int | None] = []

    def begin_and_end() -> None:
        process = multiprocessing.get_context("fork").Process(target=sleep_long)
        process.start()
        process.terminate()
        process.join(30)
        found.append(process.exitcode)
        process.kill()

    for _ in range(times):
        begin_and_end()
    other = threading.Thread(target=begin_and_end)
    other.start()
    other.join()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    return found


@jobs.task
def memory_handler(path: str) -> None:
    handler = logging.handlers.MemoryHandler(1000, target=logging.FileHandler(path))
    logging.getLogger("kept back").addHandler(handler)
    logging.getLogger("kept back").warning("said")


@jobs.task
def exit_function(path: str) -> None:
    atexit.register(write_late, path, 0)


@jobs.task
def image_folder() -> str:
    return IMAGE_FOLDER.name


@jobs.task
def child_folder() -> str:
    kept.append(tempfile.TemporaryDirectory(prefix="pq-child-"))
    return str(kept[-1].name)


@jobs.task
def segment(path: str, then: str = "return") -> str:
    memory = shared_memory.SharedMemory(create=True, size=4096)
    kept.append(memory)
    Path(path).write_text(memory.name)
    if then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while then == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        time.sleep(0.05)
    return memory.name


@jobs.task
def forks(how: str) -> int:
    pid = os.fork()
    if pid == 0:
        if how == "raise":
            raise RuntimeError("in the fork")
        if how == "exit":
            sys.exit(3)
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@jobs.task
async def forks_in_a_coroutine() -> int:
    if (pid := os.fork()) == 0:
        sys.exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@jobs.task
def read_stdin() -> str:
    return sys.stdin.readline() + subprocess.run(["cat"], capture_output=True, text=True, check=True).stdout


def start_session(path: str) -> None:
    """Start a process in a session of its own, whose parent is gone."""
    program = f"sleep 600 & echo $! > {path}"
    subprocess.run(["sh", "-c", program], start_new_session=True, check=True)


@jobs.task
def session(path: str, then: str = "return") -> None:
    start_session(path)
    if then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)


@jobs.task(detach=True)
def detached_session(path: str, then: str = "return") -> None:
    start_session(path)
    if then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)


@jobs.task
def grows(mib: int, keeps: bool = True) -> int:
    memory = bytearray(mib << 20)
    if keeps:
        kept.append(memory)
    return os.getpid()


@jobs.task(max_child_memory=32 << 20)
def grows_less(mib: int) -> int:
    kept.append(bytearray(mib << 20))
    return os.getpid()


def _connected() -> Any:
    import psycopg

    dsn = os.environ.get("PQ_TEST_INHERITED")
    return None if dsn is None else psycopg.connect(dsn)


CONNECTION = _connected()


@jobs.task
def uses_inherited() -> None:
    CONNECTION.execute("SELECT 1")


@jobs.task
def raises_and_leaves(path: str, seconds: float) -> None:
    threading.Thread(target=write_late, args=(path, seconds), name="writer").start()
    raise LookupError("no such letter")


@jobs.task
def hangs_with_an_exit_function(path: str) -> None:
    atexit.register(write_late, path, 0)
    time.sleep(600)


class Failing(logging.Handler):
    """A handler that can't deliver what it has."""

    def emit(self, record: logging.LogRecord) -> None: ...

    def flush(self) -> None:
        raise RuntimeError("nobody listens")


@jobs.task
def handler_that_fails_at_its_end() -> int:
    kept.append(Failing())
    return 1


@jobs.task
def fork_server_pool(path: str) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        pool.submit(write_late, path, 0).result()
    return 1
