"""TLS: libpq's parameters pass through, and a server with another certificate is not talked to."""

from __future__ import annotations

import datetime
import ipaddress
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.conninfo
import pytest

from pq_core import PQ, DatabaseUnavailable
from pq_core.schema import migrate
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import WorkerProcess, until_empty

cryptography = pytest.importorskip("cryptography")

PASSWORD = "s3cret/4711@here"


@dataclass
class Secured:
    """A server that wants TLS and a password. ``folder`` holds its certificate and another one."""

    folder: Path
    port: int

    def dsn(self, certificate: str = "server", **more: str) -> str:
        words = {"host": "localhost", "port": self.port, "user": "tls", "dbname": "postgres", "sslmode": "verify-full"}
        words |= {"password": PASSWORD, "sslrootcert": self.folder / f"{certificate}.crt", **more}
        return psycopg.conninfo.make_conninfo("", **words)


def write_certificate(folder: Path, name: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(encoding))
    form = serialization.PrivateFormat.PKCS8
    (folder / f"{name}.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    (folder / f"{name}.key").chmod(0o600)


def find_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs initdb and postgres on this machine")
    user = None
    if os.getuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("runs as root, and there is no user postgres to run a server as")
    folder = Path(tempfile.mkdtemp(prefix="pq-tls-"))
    folder.chmod(0o755)
    for name in ("server", "other"):
        write_certificate(folder, name)
    (folder / "password").write_text(PASSWORD)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    if user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
    who = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = folder / "data"
    init = [binaries / "initdb", "-D", data, "-U", "tls", "--pwfile", folder / "password", "--no-sync"]
    init += ["--auth", "scram-sha-256"]
    server: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run([*map(str, init)], check=True, capture_output=True, cwd=folder, **who)  # type: ignore[call-overload]
        (data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        said = {"port": port, "listen_addresses": "localhost", "unix_socket_directories": folder, "fsync": "off"}
        said |= {"ssl": "on", "ssl_cert_file": folder / "server.crt", "ssl_key_file": folder / "server.key"}
        options = [word for name, value in said.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(data), *options],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
                **who,  # type: ignore[call-overload]
            )
        made = Secured(folder, port)
        for _ in range(100):
            try:
                psycopg.connect(made.dsn()).close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        migrate(made.dsn())
        yield made
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_client_and_a_worker_verify_the_server(secured: Secured, tmp_path: Path) -> None:
    with PQ(secured.dsn(), tasks=[tasks.__name__]) as pq:
        task_id = pq.enqueue(tasks.add.call(20, 22))
        with pq.session() as connection:
            row = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
            assert row == (True,)
        worker = until_empty(secured.dsn(), tmp_path)
        assert pq.wait(task_id, timeout=5) == 42
    assert PASSWORD not in worker.text


def test_another_certificate_is_refused_clearly(secured: Secured, tmp_path: Path) -> None:
    for dsn in (secured.dsn("other"), secured.dsn(sslmode="disable"), secured.dsn(host="127.0.0.2")):
        with PQ(dsn) as pq, pytest.raises(DatabaseUnavailable) as refused:
            pq.pending_count()
        assert PASSWORD not in str(refused.value)
    with PQ(secured.dsn("other")) as pq, pytest.raises(DatabaseUnavailable, match="certificate"):
        pq.pending_count()


def test_no_password_is_seen_anywhere(secured: Secured, tmp_path: Path) -> None:
    """Not in output, command lines, titles of sessions; whether the worker gets in or not."""
    for dsn in (secured.dsn(), secured.dsn("other"), secured.dsn(password=f"{PASSWORD}wrong"), secured.dsn(port="1")):
        worker = WorkerProcess(dsn, tmp_path / "log", until_empty=True, environment={"PQ_LOG_LEVEL": "DEBUG"})
        try:
            lines = b""
            for _ in range(20):
                for pid in (worker.keeper, *worker.workers):
                    try:
                        lines += Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes()
                    except OSError:
                        continue
                if worker.process.poll() is not None:
                    break
                time.sleep(0.1)
        finally:
            worker.kill()
        assert PASSWORD.encode() not in lines
        assert PASSWORD not in worker.text
        for command in (["stats"], ["migrate"], ["tasks", "list"], ["workers"], ["enqueue", "x", "--unchecked"]):
            done = subprocess.run(
                [sys.executable, "-m", "pq_core", *command],
                env={**os.environ, "PQ_DATABASE_URL": dsn},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert PASSWORD not in done.stdout + done.stderr
    with psycopg.connect(secured.dsn()) as connection:
        seen = connection.execute("SELECT string_agg(application_name || query, ' ') FROM pg_stat_activity").fetchone()
        assert PASSWORD not in str(seen)
