"""The Postgres process of one data folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from pq_core.embedded.identity import Prepare, prepare_server
from pq_core.embedded.leftovers import SHUTDOWN, end_leftovers
from pq_core.embedded.plan import DATABASE, SUPERUSER, HolderError, Plan

LOG_LIMIT = 10 * 2**20
"""Bytes of server log above which it is begun anew at the next start."""


class Server:
    """The Postgres process on one data folder."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._prepare: Prepare | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def create_cluster(self) -> None:
        """Make the data folder if there is none; one that was left unfinished is begun anew."""
        self._prepare = prepare = prepare_server(self._plan)
        if (self._plan.data / "pq_complete").exists():
            return
        data = self._plan.data
        for entry in list(data.iterdir()) if data.exists() else []:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        command = [self._binary("initdb"), "--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8"]
        self._run([*command, "--locale=C", f"--username={SUPERUSER}", f"--pgdata={data}"], prepare)
        single = [self._binary("postgres"), "--single", "-c", "fsync=off", "-c", "log_checkpoints=off"]
        self._run([*single, "-D", str(data), "postgres"], prepare, f"CREATE DATABASE {DATABASE};\n")
        (data / "pq_complete").touch(mode=0o600)

    def start(self) -> None:
        """Start Postgres; ``ready`` tells when it accepts connections."""
        end_leftovers(self._plan.data)
        for stale in (self._plan.data / "postmaster.pid", *self._plan.sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)
        command = [self._binary("postgres"), "-D", str(self._plan.data)]
        for name, value in self._plan.settings.items():
            command += ["-c", f"{name}={value}"]
        with self._plan.log.open("ab") as log:
            if log.tell() > LOG_LIMIT:
                log.truncate(0)
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(),
                preexec_fn=self._prepare, start_new_session=True,
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def ready(self) -> bool:
        try:
            lines = (self._plan.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def last_words(self) -> str:
        """Return why this start ended, as the log has it."""
        with self._plan.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
        return (fatal or lines or ["it said nothing"])[-1].strip()

    def stop(self) -> None:
        """Shut down, fast at first; returns when no process of it lives."""
        for number, patience in SHUTDOWN:
            if self._process is None or self.ended:
                break
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        end_leftovers(self._plan.data)

    def kill(self) -> None:
        """End it without any of its own tidying up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _binary(self, name: str) -> str:
        return str(self._plan.binaries / name)

    def _run(self, command: list[str], prepare: Prepare, text: str | None = None) -> None:
        done = subprocess.run(
            command, input=text or "", text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(), preexec_fn=prepare, check=False,
        )  # fmt: skip
        if done.returncode or (text and "ERROR:" in done.stdout):
            raise HolderError(f"{Path(command[0]).name} failed: {' '.join(done.stdout.split()) or done.returncode}")


def environment() -> dict[str, str]:
    """Return the environment of the server: nothing in the user's may steer it."""
    # With TZ given, initdb does not search the time zone files for the machine's.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
