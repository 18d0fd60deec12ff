"""Postgres servers of the suite's own: made, stopped in every way, copied to a standby, promoted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pq_core.embedded.binaries import find_binaries
from pq_core.embedded.identity import give_data, prepare_server
from pq_core.embedded.plan import Plan
from tests.chaos.network import Host

READY_WITHIN = 60.0
STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """One data folder and the server on it. Without fsync: what is killed here are processes, not the machine."""

    def __init__(self, folder: Path, *, on: Host | None = None, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.folder = folder
        self.host = on.address if on is not None else "127.0.0.1"
        self._on = on
        self.port = free_port()
        self.settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "60",
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "log_min_messages": "warning",
            "autovacuum_naptime": "10s",
            **settings,
        }
        self._binaries = find_binaries().folder
        plan = Plan(folder=folder, sockets=folder, binaries=self._binaries, settings={}, linger=0.0, as_root="auto")
        self.data, self._log = plan.data, plan.log
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
        self._fit = prepare_server(plan)
        self._process: subprocess.Popen[bytes] | None = None

    def _prepare(self) -> None:
        """Run in the new process, before it becomes Postgres: another host can be entered as root alone."""
        if self._on is not None:
            self._on.enter()
        self._fit()

    @property
    def dsn(self) -> str:
        """The superuser's DSN of the database ``postgres``."""
        return make_conninfo(host=self.host, port=self.port, user="postgres", dbname="postgres", connect_timeout=5)

    def create(self) -> Server:
        """Make the data folder's cluster."""
        command = [self._binaries / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [*command, "--username=postgres", f"--pgdata={self.data}"],
            check=True, stdout=subprocess.DEVNULL, env=_environment(), preexec_fn=self._prepare,
        )  # fmt: skip
        if self._on is not None:
            with (self.data / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {self._on.network.subnet} trust\n")
        return self

    def start(self) -> Server:
        """Start it and wait until it answers."""
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), preexec_fn=self._prepare,
            )  # fmt: skip
        until = time.monotonic() + READY_WITHIN
        while True:
            try:
                psycopg.connect(self.dsn).close()
                return self
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"Postgres does not start:\n{self._log.read_text()[-2000:]}") from None
                time.sleep(0.05)

    def gone(self) -> None:
        """Take note that it was killed from outside."""
        if self._process is not None:
            self._process.wait(30)
            self._process = None
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self, how: str = "fast") -> None:
        """Stop it: smart, fast or immediate, the last without a checkpoint or a goodbye."""
        if self._process is None:
            return
        self._process.send_signal(STOP[how])
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.send_signal(STOP["immediate"])
            self._process.wait(30)
        self._process = None

    def execute(self, statement: str, parameters: Any = None, *, database: str = "postgres") -> list[Any]:
        """Run one statement as the superuser, by itself, and return its rows."""
        with psycopg.connect(make_conninfo(self.dsn, dbname=database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    @property
    def started(self) -> str:
        """When the server that runs now was started, which no other one was: seconds of the epoch."""
        return str(self.execute("SELECT extract(epoch FROM pg_postmaster_start_time())::text")[0][0])

    def set(self, name: str, value: str | None) -> None:
        """Change one setting of the running server, None: back to what it was."""
        self.execute(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def preset(self, **settings: str) -> None:
        """Change settings of the server that is not running as ``set`` does."""
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    @contextmanager
    def saving(self, folder: Path) -> Iterator[None]:
        """Copy its files while it runs. A server that starts on them has all that is committed within, too."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_backup_start('saved', fast => true)")
            shutil.copytree(self.data, folder, ignore=_of_the_process, copy_function=_copy_if_there)
            yield
            row = connection.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchone()
        assert row is not None
        (folder / "backup_label").write_text(row[0])
        shutil.copytree(self.data / "pg_wal", folder / "pg_wal", copy_function=_copy_if_there)
        self._give(folder)

    def restore(self, folder: Path) -> None:
        """Put saved files in the place of those of this server, which is not running."""
        self.data.rename(folder.with_name(f"{folder.name}-replaced"))
        folder.rename(self.data)

    def _give(self, folder: Path) -> None:
        owner = self.data.stat()
        if folder.stat().st_uid != owner.st_uid:
            give_data(folder, owner.st_uid, owner.st_gid)
        folder.chmod(0o700)

    def copy_to(self, folder: Path) -> Server:
        """Return a standby that follows this server, which is restarted for the copy."""
        self.stop()
        standby = Server(folder, **{**self.settings, "port": "0"})
        standby.settings["port"] = str(standby.port)
        shutil.rmtree(standby.data)
        shutil.copytree(self.data, standby.data)
        self._give(standby.data)
        (standby.data / "standby.signal").touch()
        standby.preset(primary_conninfo=f"host=127.0.0.1 port={self.port} user=postgres application_name=standby")
        self.start()
        return standby.start()


def _of_the_process(folder: str, names: list[str]) -> list[str]:
    """Return what a copy of a running server's files goes without; its log of writes is copied last."""
    return [name for name in names if name in ("postmaster.pid", "postmaster.opts", "pg_wal", "pg_internal.init")]


def _copy_if_there(source: str, target: str) -> None:
    with suppress(FileNotFoundError):  # removed meanwhile by the server: its log of writes says so
        shutil.copy2(source, target)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
