"""The Postgres process of one data folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from pq_core.embedded.identity import Prepare, prepare_server
from pq_core.embedded.leftovers import SHUTDOWN, end_leftovers
from pq_core.embedded.plan import DATABASE, SUPERUSER, HolderError, Plan, begun_mark, is_complete, was_begun

LOG_LIMIT = 10 * 2**20
"""Bytes of server log above which it is begun anew at the next start."""
INITDB_NAMES = {"PG_VERSION", "base", "global"}
INITDB_PREFIXES = ("pg_", "postgresql.", "postmaster.")
"""Names of what initdb and the server put into a data folder."""


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
        """Make the data folder if there is none; one that we left unfinished is begun anew.

        Files that we did not make are neither deleted nor given to another user: HolderError.
        """
        data, begun = self._plan.data, begun_mark(self._plan.data)
        if is_complete(data):
            self._prepare = prepare_server(self._plan)
            begun.unlink(missing_ok=True)
            return
        refuse_foreign_files(data)
        begun.touch(mode=0o600)
        self._prepare = prepare = prepare_server(self._plan)
        try:
            self._initialize(data, prepare)
        except (HolderError, OSError, subprocess.SubprocessError):
            # What comes to lie there until the next start is not ours any more.
            empty_folder(data)
            begun.unlink()
            raise
        begun.unlink()

    def _initialize(self, data: Path, prepare: Prepare) -> None:
        empty_folder(data)
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


def refuse_foreign_files(data: Path) -> None:
    """Raise HolderError unless the data folder is missing, empty, ours, or holds only what an initdb of ours left.

    Only for the owner of the folder's lock: without it, another holder may complete the data meanwhile.
    """
    if is_complete(data):
        return
    if data.exists() and not data.is_dir():
        raise HolderError(f"{data} is not a folder: choose another path")
    for entry in data.iterdir() if data.exists() else ():
        of_initdb = entry.name in INITDB_NAMES or entry.name.startswith(INITDB_PREFIXES)
        if not was_begun(data) or not of_initdb:
            raise HolderError(f"{data} holds files that pq did not make ({entry.name}): choose another path")


def empty_folder(data: Path) -> None:
    """Delete everything in the folder, if there is one; links in it are deleted, not followed."""
    for entry in list(data.iterdir()) if data.exists() else []:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def environment() -> dict[str, str]:
    """Return the environment of the server: nothing in the user's may steer it."""
    # With TZ given, initdb does not search the time zone files for the machine's.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
