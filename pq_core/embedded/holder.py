"""The holder: the process that owns one embedded Postgres and ends it when nobody uses it any more.

Its clients are the connections to its unix socket. A client sends one line, gets one line of JSON, and then
just keeps the connection: the kernel closes it when the process ends, however it ends. ``join`` counts as a
client for as long as the connection lives, ``ask`` only wants the answer, ``stop`` ends the server; the
connection of a ``stop`` is closed when that is done.

Who starts first is decided by a file lock that the holder keeps for life. All that is found in the data
folder while the lock is ours (a pid file, live processes of Postgres) was left behind by a holder that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import selectors
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pq_core.embedded.identity import become
from pq_core.embedded.plan import HolderError, Plan
from pq_core.embedded.server import Server, refuse_foreign_files

CRASHES, CRASH_WINDOW = 5, 60.0
"""So many crashes of the server within so many seconds, and the holder gives up."""


def take_lock(plan: Plan) -> int | None:
    """Return the descriptor that holds the folder's lock, or None as soon as another holder serves it."""
    path = plan.folder / "lock"
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_same_file(lock, path):
                return lock
        except BlockingIOError:
            # Its owner is about to serve or about to end. In the first case we are not needed.
            if answers(plan.address):
                os.close(lock)
                return None
        os.close(lock)
        time.sleep(0.01)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Tell whether ``path`` still names the open file: False after the folder was deleted."""
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def answers(address: Path) -> bool:
    """Tell whether something listens on the unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(address))
        except OSError:
            return False
        return True


@dataclass(slots=True, eq=False)
class Visitor:
    """One connection to the holder's socket; ``wish`` is its line, empty while it has not come."""

    connection: socket.socket
    wish: str = ""
    answered: bool = False


@dataclass(slots=True)
class Holder:
    """Serves clients, restarts a crashed server, and ends when nobody is left."""

    plan: Plan
    lock: int
    server: Server = field(init=False)
    visitors: set[Visitor] = field(default_factory=set)
    ending: bool = False
    idle_since: float = 0.0
    ready: bool = False
    crashes: list[float] = field(default_factory=list)
    listener: socket.socket = field(init=False)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def listen(self) -> None:
        """Accept connections from now on; they are answered when the server is ready."""
        own_folder(self.plan.sockets)
        self.plan.address.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.plan.address))
        self.plan.address.chmod(0o600)
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        wake_reader, wake_writer = socket.socketpair()
        for end in (wake_reader, wake_writer):
            end.setblocking(False)
        self.selector.register(wake_reader, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake_writer.detach())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "ending", True))

    def run(self) -> None:
        """Run the server for as long as it has clients."""
        self.server = Server(self.plan)
        try:
            self.server.create_cluster()
            self.server.start()
            while not self.ending:
                self._turn()
        except (HolderError, OSError, subprocess.SubprocessError) as error:
            self._answer_all({"error": str(error)})
        if self._is_owner():
            # From here on nobody may join: whoever is in the backlog is hung up on and starts the next holder,
            # which waits for our lock.
            self.plan.address.unlink(missing_ok=True)
            self.listener.close()
            with contextlib.suppress(HolderError, OSError):
                self.server.stop()
                if self.plan.sockets != self.plan.folder:
                    self.plan.sockets.rmdir()
        else:
            # Another holder may serve a new folder of this name already. The sockets by these names are its own,
            # and a server that shuts down in order would remove them.
            self.server.kill()
        os.close(self.lock)

    def _turn(self) -> None:
        for key, _ in self.selector.select(self._patience()):
            if key.fileobj is self.listener:
                self._accept()
            elif isinstance(key.data, Visitor):
                self._hear(key.data)
            else:
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.recv(4096)
        if self.server.ended:
            self._revive()
        if not self.ready and self.server.ready:
            self.ready, self.idle_since = True, time.monotonic()
        # After the folder was deleted or moved, nobody may be told that this is its server.
        self.ending |= not self._is_owner()
        if self.ready and not self.ending:
            self._answer_all(self._card())
        if self.ready and not self._clients():
            self.ending |= time.monotonic() - self.idle_since >= self.plan.linger
        else:
            self.idle_since = time.monotonic()

    def _is_owner(self) -> bool:
        return is_same_file(self.lock, self.plan.folder / "lock")

    def _patience(self) -> float:
        if not self.ready:
            return 0.005
        return 1.0 if self._clients() else max(0.0, self.idle_since + self.plan.linger - time.monotonic())

    def _clients(self) -> int:
        return sum(visitor.wish == "join" for visitor in self.visitors)

    def _card(self) -> dict[str, object]:
        pids = {"holder_pid": os.getpid(), "server_pid": self.server.pid}
        return {**pids, "clients": self._clients(), "binaries": str(self.plan.binaries)}

    def _revive(self) -> None:
        """Start a server that ended though nobody asked it to; give up if that does not help."""
        now = time.monotonic()
        self.crashes = [then for then in self.crashes if now - then < CRASH_WINDOW] + [now]
        # Before it was ready it gets one more try: its memory may just have been in use by a dying predecessor.
        if len(self.crashes) > (CRASHES if self.ready else 1):
            raise HolderError(f"Postgres does not start: {self.server.last_words()} (see {self.plan.log})")
        self.ready = False
        self.server.start()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            visitor = Visitor(connection)
            self.visitors.add(visitor)
            self.selector.register(connection, selectors.EVENT_READ, visitor)

    def _hear(self, visitor: Visitor) -> None:
        try:
            said = visitor.connection.recv(64).decode(errors="replace").strip()
        except BlockingIOError:
            return
        except OSError:
            said = ""
        if not said:
            self.selector.unregister(visitor.connection)
            visitor.connection.close()
            self.visitors.discard(visitor)
        elif said == "stop":
            self.ending = True
        else:
            visitor.wish, visitor.answered = said, False

    def _answer_all(self, answer: dict[str, object]) -> None:
        line = json.dumps(answer).encode() + b"\n"
        for visitor in self._unanswered():
            visitor.answered = True
            with contextlib.suppress(OSError):
                visitor.connection.send(line)

    def _unanswered(self) -> Iterator[Visitor]:
        return (visitor for visitor in self.visitors if visitor.wish in ("join", "ask") and not visitor.answered)


def main(plan: Plan, report: int) -> int:
    """Serve ``plan``. Why that can't be is written to the descriptor ``report``; it is closed when clients may come."""
    os.umask(0o077)
    try:
        owner = plan.folder.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            # The project is another user's: what root leaves here must be of use to its owner.
            become(pwd.struct_passwd(("", "", owner.st_uid, owner.st_gid, "", "", "")))
        lock = take_lock(plan)
        if lock is None:
            return 0
        # Before anyone can join: a holder that fails at once may be gone before its client hears why.
        refuse_foreign_files(plan.data)
        holder = Holder(plan, lock)
        holder.listen()
    except (HolderError, OSError) as error:
        os.write(report, str(error).encode())
        return 1
    os.close(report)
    holder.run()
    return 0


def own_folder(path: Path) -> None:
    """Make the folder if it is missing; refuse what another user, or a link, has put in its place."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise HolderError(f"{path} belongs to another user: run as that user, or choose another path")
