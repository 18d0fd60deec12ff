"""The keeper: parent of the workers, without a database connection and without the application's code.

It restarts a worker that dies, ends one that stops renewing its lease together with all its children, adopts and
reaps orphans (it is fit for PID 1), and passes signals on. It imports as little as it can: its memory is for every
deployment what is paid on top.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import struct
import sys
from time import monotonic

from pq_core.worker import guards
from pq_core.worker.forking import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pq_core.worker.vitals import Vitals

    LeaseKey = tuple[int, bytes]
    """A worker's id, and when its lease began, as the database says it."""

    StartWorker = Callable[["Page", tuple[LeaseKey, ...]], int]

    _State = tuple[int, float, float, list[int]]

_HEAD = struct.Struct("=qddqq")
_PID = struct.Struct("=i")
_ID = struct.Struct("=q")
_BEGAN = struct.Struct("=48s")

TRIES = 100
"""Readings of a page before what was read last counts: a write takes less than one."""
OVERDUE = 0.5
"""Seconds after the end of a lease at which the keeper ends a worker that did not do so itself."""
USAGE_ERROR = 2
"""Exit status of a worker that can't start for a reason that a restart won't change."""
APPLICATION_ERROR = 3
"""Exit status of a worker whose application raised when it was imported; it has printed the traceback."""
SCHEMA_ERROR = 5
"""Exit status of a worker whose schema lacks what its statements name."""
LEFT_BEHIND = 4
"""Exit status of a worker that ended by itself and left tasks running under leases that nobody renews."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
SETTLED = 60.0
"""Seconds after which a worker counts as healthy, so that its next death starts from the first pause again."""
SILENCE = 120.0
"""Seconds that a worker without a lease may be silent: it imports the application, or waits for the database."""


class Page:
    """Memory that a worker writes and its keeper reads, also when the worker can't answer any more.

    Holds the lease's id, when it ends (monotonic clock, the same in all processes of a machine), when it was written
    and the pids of the children, each of which leads its own process group. With them stands a hash of them all: a
    reader may come in the middle of a write, and a lease without its end would look as if it were over.
    """

    def __init__(self, *, children: int, ordinal: int = 0) -> None:
        self.ordinal = ordinal
        self._most = children = 2 * children + 8  # one may be leaving while another runs; spares
        self._map = mmap.mmap(-1, _BEGAN.size + _HEAD.size + _PID.size * (children + 1) + _ID.size)
        self._acquitted_at = len(self._map) - _ID.size
        self._known: _State
        self._store(0, 0.0, 0.0, [])

    def write(self, worker_id: int, expires: float, pids: list[int]) -> None:
        """Store the present state."""
        self._store(worker_id, expires, monotonic(), pids[: self._most])

    def _store(self, worker_id: int, expires: float, written: float, pids: list[int]) -> None:
        self._known = (worker_id, expires, written, list(pids))
        check = hash((worker_id, expires, written, *pids))
        state = _HEAD.pack(worker_id, expires, written, len(pids), check) + struct.pack(f"={len(pids)}i", *pids)
        self._map[_BEGAN.size : _BEGAN.size + len(state)] = state

    @property
    def began(self) -> bytes:
        """When the lease began, as the database says it; written before the lease's id is, so never half."""
        found: bytes = _BEGAN.unpack_from(self._map)[0]
        return found.rstrip(b"\0")

    @began.setter
    def began(self, value: bytes) -> None:
        _BEGAN.pack_into(self._map, 0, value)

    def _load(self) -> _State:
        """Return what was stored last; of a write that is under way, or was never finished, what stood there before."""
        for _ in range(TRIES):
            state = self._map[_BEGAN.size :]
            worker_id, expires, written, count, check = _HEAD.unpack_from(state)
            pids = struct.unpack_from(f"={min(max(count, 0), self._most)}i", state, _HEAD.size)
            if hash((worker_id, expires, written, *pids)) == check:
                self._known = (worker_id, expires, written, list(pids))
                break
        return self._known

    def acquit(self, worker_id: int) -> None:
        """Note that none of this worker's tasks is to blame for its end, which follows."""
        _ID.pack_into(self._map, self._acquitted_at, worker_id)

    @property
    def acquitted(self) -> int:
        """The last worker of which that was noted; 0: none. For its successor."""
        return int(_ID.unpack_from(self._map, self._acquitted_at)[0])

    def read(self) -> tuple[int, float, list[int]]:
        """Return worker id (0: none), end of the lease, pids."""
        worker_id, expires, _, pids = self._load()
        return worker_id, expires, list(pids)

    @property
    def written(self) -> float:
        """When the worker last wrote here: its loop turned at that time."""
        return self._load()[2]


class _Place:
    """One worker process after the other.

    ``retiring``: it drains and is not restarted. ``replaces``: whose turn to retire comes when this one is ready.
    """

    def __init__(self, children: int, ordinal: int) -> None:
        self.children = children
        self.page = Page(children=children, ordinal=ordinal)
        self.pid = 0
        self.started = 0.0
        self.restart_at: float | None = 0.0
        self.pause = 0.0
        self.known_dead: list[LeaseKey] = []
        self.retiring = False
        self.replaces: _Place | None = None

    @property
    def ready(self) -> bool:
        """True once its worker holds a lease."""
        return bool(self.pid) and self.page.read()[0] != 0

    def lives(self, now: float) -> bool:
        """Tell whether its worker works or has a reason not to: it starts, is about to, or waits for the database."""
        if not self.pid:
            return True
        worker_id, expires, _ = self.page.read()
        return (bool(worker_id) and now <= expires + OVERDUE) or now - self.page.written < SILENCE


def _ended() -> int | None:
    """Return a child that has ended, without reaping it: its pid can't be another's yet."""
    if not hasattr(os, "waitid"):
        return 0
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _end_adopted(pid: int) -> bool:
    """End a process with its group, if it was left to this one; True when it is gone.

    One that is not the child of this process is let alone: its parent is about to end, or it is somebody else's.
    """
    if not hasattr(os, "waitid"):  # macOS before Python 3.13, where nobody adopts
        return not _exists(pid)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return not _exists(pid)
    guards.kill_group(pid, signal.SIGKILL)  # before it is reaped: until then nobody else has this number
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Keeper:
    """Keeps ``processes`` workers alive. ``run`` returns the exit status of the whole.

    ``start``: runs one worker in its forked process and returns its exit status. ``children``: how many children one
    worker has at most. ``vitals``: whom to tell that it lives.
    """

    def __init__(
        self,
        start: StartWorker,
        *,
        processes: int,
        children: int,
        log: Callable[[str], None],
        vitals: Vitals | None = None,
    ) -> None:
        self._start = start
        self._vitals = vitals
        self._children = children
        self._log = log
        self._places = [_Place(children, ordinal) for ordinal in range(processes)]
        self._stopping = 0
        self._status = 0
        self._signals: list[int] = []
        self._ever_ready = False

    def run(self) -> int:
        """Start the workers and look after them until all have ended."""
        guards.become_subreaper()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        hangup_stops = os.isatty(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, self._note)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            while True:
                self._reap()
                self._act_on_signals(hangup_stops)
                self._retire_replaced()
                self._watch()
                self._restart()
                self._give_signs()
                if not any(place.pid or place.restart_at is not None for place in self._places):
                    return self._status
                select.select([ours], [], [], self._timeout())
                try:
                    while ours.recv(4096):
                        pass
                except BlockingIOError:
                    continue
        finally:
            # First of all: a signal must not write to a number that is another file's by then.
            signal.set_wakeup_fd(-1)
            ours.close()
            theirs.close()

    def _note(self, number: int, _: object) -> None:
        self._signals.append(number)

    def _timeout(self) -> float:
        now = monotonic()
        # No signal tells that a worker has become ready, or that a lease ran out.
        awaited = any(place.replaces is not None for place in self._places)
        events = [now + (0.1 if awaited else 1.0)]
        for place in self._places:
            if not place.pid and place.restart_at is not None:
                events.append(place.restart_at)
            elif place.ready:
                # At once when a lease has run out: soon after it another worker may start the tasks anew.
                events.append(place.page.read()[1] + OVERDUE + 0.001)
        return max(0.0, min(events) - now)

    def _give_signs(self) -> None:
        """Tell probes and systemd how it stands. A worker that hangs silences the whole until it has been replaced."""
        if self._vitals is None:
            return
        if self._stopping:
            self._vitals.stopping()
        elif all(place.ready for place in self._places):
            self._vitals.ready()
        now = monotonic()
        if all(place.lives(now) for place in self._places):
            self._vitals.sign(workers=sum(place.ready for place in self._places), now=now)

    # --- signals ------------------------------------------------------------------------------------------------

    def _act_on_signals(self, hangup_stops: bool) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number == signal.SIGHUP and not hangup_stops:
                self._replace_all()
            elif number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self._stop()
            elif number == signal.SIGQUIT:
                self._stopping = max(self._stopping, 1)
                self._stop()

    def _stop(self) -> None:
        """First: have every worker drain. Again: have them interrupt what runs."""
        self._stopping += 1
        number = signal.SIGTERM if self._stopping == 1 else signal.SIGQUIT
        if any(place.pid for place in self._places):
            self._log("draining; once more to stop now" if self._stopping == 1 else "stopping now")
        for place in self._places:
            place.restart_at = None
            if place.pid:
                os.kill(place.pid, number)

    def _replace_all(self) -> None:
        """Start new workers, with the code as it is now; each old one drains as soon as its successor is ready."""
        if self._stopping:
            return
        replaced = {id(place.replaces) for place in self._places}
        for place in list(self._places):
            if place.retiring or place.replaces is not None or id(place) in replaced:
                continue
            successor = _Place(self._children, place.page.ordinal)
            successor.replaces = place
            self._places.append(successor)
        self._log("starting new workers; the old ones drain when the new are ready")

    def _retire_replaced(self) -> None:
        for place in list(self._places):
            if not place.ready:
                continue
            self._ever_ready = True
            old, place.replaces = place.replaces, None
            if old is None or old not in self._places:
                continue
            old.retiring = True
            old.restart_at = None
            if old.pid:
                os.kill(old.pid, signal.SIGTERM)
            else:
                self._places.remove(old)

    # --- workers ------------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        now = monotonic()
        for place in self._places:
            if not place.pid and place.restart_at is not None and now >= place.restart_at:
                place.restart_at = None
                place.started = now
                try:
                    self._fork(place)
                except OSError as error:
                    self._log(f"a worker can't be forked: {error}")
                    place.restart_at = now + LONGEST_PAUSE / 10

    def _fork(self, place: _Place) -> None:
        place.page.write(0, 0.0, [])
        known_dead = tuple(place.known_dead)
        keeper = os.getpid()
        page, start = place.page, self._start

        def body() -> NoReturn:
            signal.set_wakeup_fd(-1)
            # A group of its own: Ctrl-C on a terminal reaches the keeper alone, which passes it on once.
            os.setpgid(0, 0)
            guards.end_with_parent(keeper, signal.SIGTERM)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            status = 1
            try:
                status = start(page, known_dead)
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    try:
                        stream.flush()
                    except (OSError, ValueError):
                        continue
                os._exit(status)

        place.pid = fork(body)

    def _reap(self) -> None:
        while (pid := _ended()) is not None:
            if pid and not any(place.pid == pid for place in self._places):
                self._end_group_of(pid)
            try:
                pid, status = os.waitpid(pid or -1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for place in self._places:
                if place.pid == pid:
                    self._ended(place, status)
                    break
        # Whatever else was reaped was an orphan: adopted, and now gone.

    def _end_group_of(self, pid: int) -> None:
        """End what is left of the group of an orphan that was a worker's child; others may mean to leave one behind."""
        if any(pid in place.page.read()[2] for place in self._places):
            guards.kill_group(pid, signal.SIGKILL)

    def _ended(self, place: _Place, status: int) -> None:
        worker_id, _, pids = place.page.read()
        lived = monotonic() - place.started
        place.pid = 0
        gone = self._end_orphans(pids)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        if place.replaces is not None and not worker_id and not self._stopping:
            self._log("the new code does not start; the old workers go on")
            self._places.remove(place)
            return
        if code == 0:
            pass
        elif code == LEFT_BEHIND:  # it did all that it could
            self._status = max(self._status, LEFT_BEHIND)
        elif code in (USAGE_ERROR, APPLICATION_ERROR) and not self._ever_ready:
            self._status = max(self._status, USAGE_ERROR if code == USAGE_ERROR else 1)
            if not self._stopping:
                self._stop()
        elif code == SCHEMA_ERROR:
            # The others meet the same. Whoever looks after this process shall see it end, and its last line.
            self._status = max(self._status, USAGE_ERROR)
            if not self._stopping:
                self._stop()
        elif (self._stopping or place.retiring) and not worker_id and os.WIFSIGNALED(status):
            pass  # asked to stop before it could listen to that: it held nothing yet
        elif not self._stopping and not place.retiring:
            if lived > SETTLED:
                place.pause = 0.0
                place.known_dead.clear()  # it has long taken their tasks back
            place.restart_at = monotonic() + place.pause
            place.pause = min(max(place.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
            self._log(f"worker process ended with {how}; another starts")
            if worker_id and gone:
                place.known_dead.append((worker_id, place.page.began))
        else:
            self._status = max(self._status, 1)
        if place.retiring:
            self._places.remove(place)

    def _end_orphans(self, pids: list[int]) -> bool:
        """End what a dead worker left; True once every one of them is known to be gone.

        The kernel has sent them SIGKILL already where it can (PR_SET_PDEATHSIG): first the worker's fork server, then,
        when that has ended, its children; but not their own children. Each is left to this process, and then ended.
        """
        until = monotonic() + 2.0
        left = list(pids)
        while True:
            left = [pid for pid in left if not _end_adopted(pid)]
            if not left or monotonic() >= until:
                return not left
            select.select([], [], [], 0.005)

    def _watch(self) -> None:
        """End a worker whose lease ran out under it: it hangs, or was stopped."""
        now = monotonic()
        for place in self._places:
            if not place.pid:
                continue
            worker_id, expires, pids = place.page.read()
            if worker_id and now > expires + OVERDUE:
                # The others die with these two, and are seen to when they have been left to this process: while the
                # worker hung, its fork server went on giving pids back.
                self._log(f"worker {worker_id} has not renewed its lease; it is ended with its children")
                for pid in (*pids[:1], place.pid):  # the worker may have reaped the first, and hung after that
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                place.page.write(worker_id, now + LONGEST_PAUSE, pids)  # once; reaping does the rest
