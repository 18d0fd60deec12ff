"""A fork without what the interpreter does after one for threads, for a process that has no other thread.

After ``os.fork()`` CPython makes its locks anew, forgets the other threads, and has ``threading`` and ``logging`` do
the same in Python. Where there was one thread, no lock is held by another and none is to be forgotten: it changes
nothing, but it writes to some sixty pages, which the kernel copies for each child, and leads through as much code.
Measured with the image of a small application: a child that only exits takes 165 page faults and 1.7 ms of CPU time,
without it 40 and 1.0 ms.

What is left as it was: libc's own ``fork``, so that whatever libraries registered with ``pthread_atfork`` runs; and all
that anybody registered with ``os.register_at_fork``, but for those two modules' hooks.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

KNOWN = ((3, 11), (3, 12), (3, 13), (3, 14))
"""Versions of CPython of which it is known what ``PyOS_AfterFork_Child`` does (``Modules/posixmodule.c``)."""

_POSIX_FORK = getattr(sys.modules.get("posix"), "fork", None)
Hook = Callable[[], object]

_NEEDLESS = (
    ("threading", None, None, "_after_fork"),
    ("logging", "_acquireLock", "_releaseLock", "_after_at_fork_child_reinit_locks"),  # up to Python 3.12
    ("logging", "_prepareFork", "_afterFork", "_after_at_fork_child_reinit_locks"),
)
"""Module, and its hooks before a fork, in the parent and in the child, that only matter where there are threads."""

_GREEN = ("gevent", "eventlet")

_TASKS = "/proc/self/task"
_LINKS = 3
"""Of the directory of a process with one thread: its own two, and one for each thread."""


def choose() -> Callable[[], int]:
    """Return how to fork from now on, as ``os.fork`` is called: that itself where this can't be done."""
    usual = os.fork
    hooks = _registered() if _possible(usual) else None
    try:
        return usual if hooks is None else BareFork(*hooks)
    except (OSError, AttributeError):  # a program without a C library of its own
        return usual


def _possible(usual: object) -> bool:
    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        return False
    if sys.version_info[:2] not in KNOWN or "t" in sys.abiflags:  # "t": without the interpreter's lock
        return False
    if getattr(sys, "is_stack_trampoline_active", bool)():
        return False  # perf gets a file for each process
    # Where threads are something else, children need what these do for them.
    if any(name in sys.modules for name in _GREEN) or threading.get_ident is not _thread.get_ident:
        return False
    return usual is _POSIX_FORK


@dataclass(slots=True)
class BareFork:
    """Forks when it is called: returns the child's pid, and 0 in the child. Raises OSError as ``os.fork`` does.

    ``before``, ``in_parent``, ``in_child``: the interpreter's own lists of hooks, which may grow.
    """

    before: list[Hook]
    in_parent: list[Hook]
    in_child: list[Hook]
    _lengths: tuple[int, int, int] = (-1, -1, -1)
    _wanted: tuple[Sequence[Hook], Sequence[Hook], Sequence[Hook]] = ((), (), ())
    _fork: Callable[[], int] = field(init=False)
    _main_thread: Any = field(init=False)

    def __post_init__(self) -> None:
        main = threading.main_thread()
        self._main_thread = main if hasattr(main, "_native_id") else None
        # Not CDLL: that would give the interpreter's lock away meanwhile, and take it again in the child.
        self._fork = ctypes.PyDLL(None, use_errno=True).fork

    def __call__(self) -> int:
        """Fork; as ``os.fork`` does if there are other threads."""
        if os.fork is not _POSIX_FORK or not alone():
            return os.fork()
        sys.audit("os.fork")
        before, in_parent, in_child = self._hooks()
        _run(before)
        pid = self._fork()
        number = ctypes.get_errno() if pid < 0 else 0
        if pid == 0:
            if self._main_thread is not None:
                self._main_thread._native_id = os.getpid()  # not every version's hook sees to it
            _run(in_child)
            return 0
        _run(in_parent)
        if number:
            raise OSError(number, os.strerror(number))
        return pid

    def _hooks(self) -> tuple[Sequence[Hook], Sequence[Hook], Sequence[Hook]]:
        """Return what is to be called, in this order, each from its first to its last."""
        lengths = (len(self.before), len(self.in_parent), len(self.in_child))
        if lengths != self._lengths:
            needless = self._needless()
            before, in_parent, in_child = (
                tuple(hook for hook in hooks if hook not in needless)
                for hooks in (self.before, self.in_parent, self.in_child)
            )
            self._wanted = before[::-1], in_parent, in_child
            self._lengths = lengths
        return self._wanted

    def _needless(self) -> list[Hook]:
        """Return the hooks that are left out: all of a module's or none, as one takes what another gives back."""
        found: list[Hook] = []
        for module, *names in _NEEDLESS:
            hooks = [None if name is None else getattr(sys.modules.get(module), name, None) for name in names]
            lists = (self.before, self.in_parent, self.in_child)
            if all(
                name is None or hook in registered for name, hook, registered in zip(names, hooks, lists, strict=True)
            ):
                found += [hook for hook in hooks if hook is not None]
        return found


def alone() -> bool:
    """Say whether this process has one thread, counting those that Python does not know of."""
    try:
        return os.stat(_TASKS).st_nlink == _LINKS  # noqa: PTH116 - no pathlib in an image
    except OSError:
        return False


def _run(hooks: Sequence[Hook]) -> None:
    for hook in hooks:
        try:
            hook()
        except BaseException as error:  # the interpreter writes it out as well, whatever it is, and goes on
            with contextlib.suppress(BaseException):
                traceback.print_exception(error)


def _registered() -> tuple[list[Hook], list[Hook], list[Hook]] | None:
    """Return the interpreter's lists of hooks before a fork, in the parent and in the child. None: not found.

    Python does not show them. Hooks of one's own are referred to by nothing else.
    """

    def before() -> None: ...

    def in_parent() -> None: ...

    def in_child() -> None: ...

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
    frozen = gc.get_freeze_count() > 0
    if frozen:
        gc.unfreeze()  # what is frozen is not looked at
    found = []
    for hook in (before, in_parent, in_child):
        lists = [holder for holder in gc.get_referrers(hook) if type(holder) is list]
        for holder in lists:
            holder.remove(hook)
        found += lists
    if frozen:
        gc.freeze()
    if len(found) != 3 or len({id(one) for one in found}) != 3 or _threads_hook() not in found[2]:
        return None  # somebody keeps hooks in lists of their own
    return found[0], found[1], found[2]


def _threads_hook() -> object:
    return getattr(threading, "_after_fork", None)
