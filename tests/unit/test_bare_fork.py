"""A fork without the interpreter's work for threads: the same for whoever runs in parent or child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pq_core.worker import bare_fork

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere os.fork is used")


def run(program: str, **environment: str) -> str:
    """Run it in a process of its own: what is registered there is never taken back."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


PREFACE = """
import gc, json, logging, os, random, sys, threading
from pq_core.worker import bare_fork

told = []
os.register_at_fork(before=lambda: told.append("before 1"), after_in_child=lambda: told.append("child 1"))
os.register_at_fork(
    before=lambda: told.append("before 2"),
    after_in_parent=lambda: told.append("parent 2"),
    after_in_child=lambda: told.append("child 2"),
)
gc.freeze()

def in_child(fork, look):
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(writer, json.dumps(look()).encode())
        os._exit(0)
    os.close(writer)
    found = json.loads(os.read(reader, 65536))
    os.close(reader)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert found["pid"] == pid
    return found
"""

LOOK = """
def look():
    main = threading.main_thread()
    logging.getLogger("child").warning("a lock is taken")
    return {
        "pid": os.getpid(),
        "told": list(told),
        "random": random.random(),
        "threads": threading.active_count(),
        "native": main is threading.current_thread() and main.native_id == threading.get_native_id(),
        "ident": main.ident == threading.get_ident(),
        "locked": threading.Lock().acquire(timeout=1),
    }

logging.disable()
random.seed(5)
results = []
for fork in (os.fork, bare_fork.choose()):
    del told[:]
    results.append([in_child(fork, look), list(told)])
print(json.dumps([type(fork).__name__, *results]))
"""


def test_parent_and_child_find_what_they_find_after_os_fork() -> None:
    kind, (plain, plain_parent), (bare, bare_parent) = json.loads(run(PREFACE + LOOK))

    assert kind == "BareFork"
    assert bare_parent == plain_parent == ["before 2", "before 1", "parent 2"]
    assert bare["told"] == plain["told"] == ["before 2", "before 1", "child 1", "child 2"]
    assert bare["random"] != plain["random"], "each child has its own random numbers"
    for found in (plain, bare):
        assert (found["threads"], found["ident"], found["locked"]) == (1, True, True)
    assert bare["native"], "which os.fork leaves as it was in some versions"


def test_only_hooks_that_matter_to_threads_are_left_out() -> None:
    program = """
fork = bare_fork.choose()
os._exit(0) if fork() == 0 else os.wait()
wanted = [hook for hooks in fork._wanted for hook in hooks]
names = [getattr(hook, "__qualname__", "?") for hook in wanted]
assert "Random.seed" in names and names.count("<lambda>") == 5, names
registered = {getattr(hook, "__module__", None) for hook in (*fork.before, *fork.in_parent, *fork.in_child)}
assert {"threading", "logging"} <= registered, registered
assert not {"threading", "logging"} & {hook.__module__ for hook in wanted}

os.register_at_fork(after_in_child=lambda: told.append("late"))
found = in_child(fork, lambda: {"pid": os.getpid(), "told": told})
assert found["told"][-1] == "late", found

# All of a module's hooks or none: one that takes a lock stays where that which frees it is another.
logging._after_at_fork_child_reinit_locks = None
fork._lengths = ()
fork._hooks()
assert len(fork._wanted[2]) == len(fork.in_child) - 1
print("well")
"""
    assert run(PREFACE + program) == "well\n"


def test_where_there_are_other_threads_it_is_os_fork() -> None:
    program = """
fork = bare_fork.choose()
assert bare_fork.alone()
release = threading.Event()
thread = threading.Thread(target=release.wait, name="another")
thread.start()
assert not bare_fork.alone()
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later on forks with threads
found = in_child(fork, lambda: {"pid": os.getpid(), "alive": [one.name for one in threading.enumerate()]})
assert found["alive"] == ["MainThread"], found
release.set()
thread.join()
print("well")
"""
    assert run(PREFACE + program) == "well\n"


def test_a_hook_that_fails_is_written_out_and_no_more() -> None:
    program = """
import io
fork = bare_fork.choose()
os.register_at_fork(before=lambda: 1 / 0, after_in_parent=sys.exit, after_in_child=lambda: told.append("after it"))
words, sys.stderr = sys.stderr, io.StringIO()
found = in_child(fork, lambda: {"pid": os.getpid(), "told": told})
words, sys.stderr = sys.stderr, words
assert found["told"][-1] == "after it"
assert "ZeroDivisionError" in words.getvalue() and "SystemExit" in words.getvalue()
print("well")
"""
    assert run(PREFACE + program) == "well\n"


def test_where_hooks_are_kept_in_another_way_it_is_os_fork() -> None:
    program = """
kept, register = [], os.register_at_fork
def theirs(*, before=None, after_in_parent=None, after_in_child=None):
    kept.extend(one for one in (before, after_in_parent, after_in_child) if one)
    register(after_in_child=lambda: [one() for one in kept])
os.register_at_fork = theirs
assert bare_fork.choose() is os.fork
os.register_at_fork = register

fork = bare_fork.choose()
assert fork is not os.fork
sys.modules["eventlet"] = threading
assert bare_fork.choose() is os.fork
print("well")
"""
    assert run(PREFACE + program) == "well\n"


def test_a_refused_fork_is_an_oserror_with_its_number() -> None:
    program = """
import resource
fork = bare_fork.choose()
if os.geteuid() == 0:
    os.setuid(65534)  # root has no limit of processes
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    if fork() == 0:
        os._exit(0)
except BlockingIOError as error:
    print(error.errno == 11, told[-1])
"""
    assert run(PREFACE + program, PYTHONDONTWRITEBYTECODE="1") == "True parent 2\n"


def test_a_fork_that_somebody_has_replaced_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs() -> int:
        """Do more, as gevent's does."""
        return 0

    monkeypatch.setattr(os, "fork", theirs)
    assert bare_fork.choose() is theirs


def test_an_unknown_interpreter_gets_os_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare_fork, "KNOWN", ())
    assert bare_fork.choose() is os.fork
