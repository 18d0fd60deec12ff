"""Starting, joining and ending the embedded server from the processes that use it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pq_core.embedded.binaries import Source, find_binaries
from pq_core.embedded.leftovers import end_leftovers
from pq_core.embedded.plan import DATABASE, SUPERUSER, AsRoot, HolderError, Plan
from pq_core.errors import EmbeddedServerError

SOCKET_PATH_LIMIT = 103
"""Bytes that fit into a unix socket's address everywhere (Linux takes 107)."""
LONGEST_SOCKET_NAME = ".s.PGSQL.5432"
RUN_HOLDER = (
    "import sys; sys.path.append(sys.argv[1]); from pq_core.embedded import holder, plan; "
    "sys.exit(holder.main(plan.Plan.from_json(sys.argv[2]), int(sys.argv[3])))"
)
SERVER_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "cluster_name": "pq",
    "log_checkpoints": "off",
    "jit": "off",
}
CARELESS_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class _Membership:
    """The connection that makes this process a client of a holder.

    Whoever closes every descriptor of the process closes it too, and its number is given to another file: only with
    the same ``device`` and ``inode`` it still is ours.
    """

    descriptor: int
    device: int
    inode: int

    @classmethod
    def of(cls, connection: socket.socket) -> _Membership:
        descriptor = connection.detach()
        found = os.fstat(descriptor)
        return cls(descriptor, found.st_dev, found.st_ino)

    @property
    def is_ours(self) -> bool:
        try:
            found = os.fstat(self.descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)


_memberships: dict[Path, _Membership] = {}
"""By state folder."""
_starting = threading.RLock()


def _new_lock() -> None:
    # Another thread of the parent may have held it during the fork.
    global _starting
    _starting = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedStatus:
    """How an embedded server is: ``clients`` counts processes (a forked child shares its parent's membership)."""

    running: bool
    dsn: str
    data: Path
    holder_pid: int | None = None
    server_pid: int | None = None
    clients: int = 0
    binaries: Path | None = None


def start(
    path: str | Path | None = None,
    *,
    durable: bool = True,
    settings: Mapping[str, str] | None = None,
    binaries: Source | None = None,
    linger: float = 1.5,
    timeout: float = 60.0,
    as_root: AsRoot = "auto",
    on_start: Callable[[], None] | None = None,
) -> str:
    """Start the embedded Postgres of ``path`` (default ``./.pq``), or join the running one; return its DSN.

    This process is a client of it until it ends, and so are the children that it forks. ``linger`` seconds
    after the last client the server ends. Call it again whenever a connection fails: that costs one round
    trip, waits for a server that is just being restarted, and starts a new one if the old one is gone.

    ``durable=False`` gives up crash safety for speed, for tests. ``settings`` are server settings. ``binaries``
    chooses ``"system"`` or ``"package"`` (default: PQ_EMBEDDED_BINARIES, else the system's if it has any).
    All of them matter to the process that starts the server; who joins takes it as it is. ``as_root``: how
    Postgres is run when this process is root's. ``on_start``: called if this process starts it.
    """
    folder = _state_folder(path)
    with _starting:
        deadline = time.monotonic() + timeout
        if _is_member(folder) and _ask(folder, deadline) is not None:
            return _dsn(folder)
        _leave(folder)
        _prepare_folder(folder)
        while True:
            if (answered := _call(folder, "join", deadline)) is not None:
                _memberships[folder] = _Membership.of(answered[0])
                return _dsn(folder)
            _refuse_read_only(folder)
            given = {**SERVER_SETTINGS, **(CARELESS_SETTINGS if not durable else {}), **(settings or {})}
            given["unix_socket_directories"] = '"' + str(_sockets(folder)).replace('"', '""') + '"'
            source = binaries or _source_from_environment()
            plan = Plan(
                folder=folder,
                sockets=_sockets(folder),
                binaries=find_binaries(source, made_by=_made_by(folder)).folder,
                settings=given,
                linger=linger,
                as_root=as_root,
            )
            if on_start is not None:
                on_start()
            _run_holder(plan, deadline)


def stop(path: str | Path | None = None, *, timeout: float = 30.0) -> bool:
    """End the embedded server of ``path``, whoever uses it; return whether there was one."""
    folder = _state_folder(path)
    with _starting:
        _leave(folder)
        connection = _connect(folder)
        if connection is None:
            # A holder that was killed may have left its server.
            return _end_leftovers(folder)
        with connection:
            connection.settimeout(timeout)
            try:
                connection.sendall(b"stop\n")
                connection.recv(1)
            except TimeoutError:
                raise EmbeddedServerError(f"the embedded server of {folder} did not end in {timeout:g} s") from None
            except OSError:
                return True
        return True


def status(path: str | Path | None = None, *, timeout: float = 5.0) -> EmbeddedStatus:
    """Tell how the embedded server of ``path`` is, without starting it."""
    folder = _state_folder(path)
    card = _ask(folder, time.monotonic() + timeout)
    if card is None:
        return EmbeddedStatus(running=False, dsn=_dsn(folder), data=folder / "data")
    return EmbeddedStatus(
        running=True,
        dsn=_dsn(folder),
        data=folder / "data",
        holder_pid=card["holder_pid"],
        server_pid=card["server_pid"],
        clients=card["clients"],
        binaries=Path(card["binaries"]),
    )


def _state_folder(path: str | Path | None) -> Path:
    return Path(path or ".pq").expanduser().resolve()


def _sockets(folder: Path) -> Path:
    """Return where the sockets are: in the state folder, unless its path can't be a socket's or a DSN's host."""
    if len(os.fsencode(folder / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT and "," not in str(folder):
        return folder
    return Path("/tmp") / f"pq-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]}"


def _dsn(folder: Path) -> str:
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(_sockets(folder)))}"


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In a folder that was in use before, as a project's own may be, it would hide the user's files from git.
        if not any(folder.iterdir()):
            (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise EmbeddedServerError(f"the embedded server can't keep its data in {folder}: {error.strerror}") from error


def _refuse_read_only(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EmbeddedServerError(f"the embedded server can't keep its data in {folder}: you may not write there")


def _made_by(folder: Path) -> int | None:
    try:
        return int((folder / "data" / "PG_VERSION").read_text())
    except PermissionError as error:
        raise EmbeddedServerError(f"{folder} belongs to another user: run as that user, or remove it") from error
    except (OSError, ValueError):
        return None


def _source_from_environment() -> Source:
    match os.environ.get("PQ_EMBEDDED_BINARIES", "auto"):
        case "system":
            return "system"
        case "package":
            return "package"
        case "auto" | "":
            return "auto"
        case other:
            raise EmbeddedServerError(f"PQ_EMBEDDED_BINARIES={other!r}: give auto, system or package")


def _is_member(folder: Path) -> bool:
    """Tell whether our connection to the holder still stands."""
    membership = _memberships.get(folder)
    if membership is None or not membership.is_ours:
        return False
    try:
        with socket.socket(fileno=os.dup(membership.descriptor)) as connection:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        # The holder is gone.
        return False


def _leave(folder: Path) -> None:
    membership = _memberships.pop(folder, None)
    if membership is not None and membership.is_ours:
        with contextlib.suppress(OSError):
            os.close(membership.descriptor)


def _connect(folder: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(_sockets(folder) / "holder.sock"))
    except PermissionError as error:
        connection.close()
        raise EmbeddedServerError(f"the embedded server of {folder} is another user's") from error
    except OSError:
        connection.close()
        return None
    return connection


def _ask(folder: Path, deadline: float) -> dict[str, Any] | None:
    """Return what the holder says of its server once that is ready; None if there is no holder."""
    said = _call(folder, "ask", deadline)
    if said is None:
        return None
    said[0].close()
    return said[1]


def _call(folder: Path, wish: str, deadline: float) -> tuple[socket.socket, dict[str, Any]] | None:
    """Say ``wish`` to the holder and return the connection and the answer; None if there is none, or it is ending."""
    connection = _connect(folder)
    if connection is None:
        return None
    try:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        connection.sendall(wish.encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            more = connection.recv(65536)
            if not more:
                connection.close()
                return None
            line += more
    except TimeoutError:
        connection.close()
        raise EmbeddedServerError(f"the embedded server of {folder} does not get ready: see its postgres.log") from None
    except OSError:
        connection.close()
        return None
    card: dict[str, Any] = json.loads(line)
    if "error" in card:
        connection.close()
        raise EmbeddedServerError(f"embedded server of {folder}: {card['error']}")
    connection.settimeout(None)
    return connection, card


def _run_holder(plan: Plan, deadline: float) -> None:
    """Start a holder in a session of its own; return when it, or another that was first, can be called."""
    if time.monotonic() > deadline:
        raise EmbeddedServerError(f"the embedded server of {plan.folder} does not get ready")
    python = sys.executable or shutil.which("python3") or "python3"
    root = str(Path(__file__).resolve().parents[2])
    reader, writer = os.pipe()
    try:
        # The shell in between makes the holder nobody's child: no zombie for a process that reaps its own.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "pq", python, "-I", "-S", "-c", RUN_HOLDER, root, plan.to_json(), str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            cwd="/",
            start_new_session=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(reader)
        raise EmbeddedServerError(f"the embedded server's holder can't be started: {error}") from error
    finally:
        os.close(writer)
    with open(reader, "rb", buffering=0) as report:  # noqa: PTH123
        readable, _, _ = select.select([report], [], [], max(0.01, deadline - time.monotonic()))
        said = report.read().decode(errors="replace") if readable else "its holder does not come up"
    if said:
        raise EmbeddedServerError(f"embedded server of {plan.folder}: {said}")


def _end_leftovers(folder: Path) -> bool:
    data = folder / "data"
    if not (data / "postmaster.pid").exists():
        return False
    try:
        return end_leftovers(data)
    except HolderError as error:
        raise EmbeddedServerError(str(error)) from error
