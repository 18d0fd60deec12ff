"""PgBouncer in transaction mode, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pq_core.embedded.identity import unprivileged_account
from tests.chaos.server import free_port


def program() -> str | None:
    """Return where PgBouncer is, None where it is not installed."""
    return shutil.which("pgbouncer") or next(
        (str(path) for path in (Path("/usr/sbin/pgbouncer"), Path("/usr/bin/pgbouncer")) if path.exists()), None
    )


class Pooler:
    """One PgBouncer before one server: few server sessions, given to each transaction anew."""

    def __init__(self, folder: Path, target: int, *, sessions: int = 6) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        users, config = folder / "users.txt", folder / "pgbouncer.ini"
        users.write_text('"postgres" ""\n"chaos" ""\n')
        config.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={target}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = {sessions}\n"
            "max_client_conn = 200\nignore_startup_parameters = extra_float_digits\nserver_lifetime = 5\n"
        )
        # With auth_type = any all come in as one user.
        config.write_text(config.read_text().replace(f"port={target}\n", f"port={target} user=chaos\n"))
        root = os.geteuid() == 0
        self._log = (folder / "pgbouncer.log").open("ab")
        executable = program()
        assert executable is not None
        self._process = subprocess.Popen(
            [executable, str(config)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            user=unprivileged_account().pw_uid if root else None,
        )
        until = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(make_conninfo(self.dsn, dbname="postgres"), prepare_threshold=None).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.close()
                    words = (folder / "pgbouncer.log").read_text()[-1000:]
                    raise RuntimeError(f"PgBouncer does not start:\n{words}") from None
                time.sleep(0.05)

    @property
    def dsn(self) -> str:
        """Its address, without a database."""
        return make_conninfo(host="127.0.0.1", port=self.port, user="chaos", connect_timeout=5)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
