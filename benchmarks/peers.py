"""python-pq, Procrastinate and PgQueuer beside ours, each by its public interface: drain, enqueue, latency."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from benchmarks.database import a_database, a_server
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.worker import ROOT

PACKAGES = ("python-pq", "procrastinate", "pgqueuer[asyncpg,psycopg]", "psycopg[binary]", "psycopg2-binary")
PEERS = {
    "pq, a process per task": ("pq_toolkit", {"PQ_BENCH_PER_CHILD": "1"}),
    "pq, a process per task, eight at once": (
        "pq_toolkit",
        {"PQ_BENCH_PER_CHILD": "1", "PQ_BENCH_CONCURRENCY": "8"},
    ),
    "pq, reused children": ("pq_toolkit", {"PQ_BENCH_PER_CHILD": "1000"}),
    "pq, reused children, two processes": ("pq_toolkit", {"PQ_BENCH_PER_CHILD": "1000", "PQ_BENCH_WORKERS": "2"}),
    "python-pq, one worker": ("python_pq", {"PQ_BENCH_WORKERS": "1"}),
    "python-pq, two workers": ("python_pq", {"PQ_BENCH_WORKERS": "2"}),
    "python-pq, eight workers": ("python_pq", {"PQ_BENCH_WORKERS": "8"}),
    "Procrastinate": ("procrastinate", {}),
    "PgQueuer": ("pgqueuer", {}),
    "PgQueuer, two processes": ("pgqueuer", {"PQ_BENCH_WORKERS": "2"}),
}
"""Variant -> the library that ``benchmarks/peer_programs/drive_….py`` drives, and what it is told."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument(
        "--tasks", type=int, default=500, help="for a process per task; up to forty times as many for others"
    )
    parser.add_argument("--variants", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="NAME", help="[all]")
    parser.add_argument("--samples", type=int, default=60, help="of the latency, in each round and variant")
    parser.add_argument("--python", default=sys.executable, help="at least 3.13, for python-pq")
    parser.add_argument("--environment", type=Path, help="a virtual environment that has them; by default a new one")


def run(given: argparse.Namespace) -> Report:
    """Install, measure and report."""
    report = Report("peers", {"tasks": given.tasks, "samples": given.samples, "rounds": given.rounds})
    with an_environment(given) as python, a_server(given.dsn) as server:
        report.server = describe_server(server)
        report.versions |= installed(python)
        for _ in range(given.rounds):
            for variant in given.variants:
                program, told = PEERS[variant]
                with a_database(server, tables=False) as dsn:
                    _measure(report, given, python, variant, program, told, dsn)
    ours = [variant for variant in given.variants if PEERS[variant][0] == "pq_toolkit"]
    for peer in (variant for variant in given.variants if variant not in ours):
        for variant in ours:
            goal = "> 1" if "reused" in variant else ">= 8" if peer == "python-pq, two workers" else ""
            report.ratio("drain", variant, peer, goal=goal)
    report.note("no-op tasks, one machine for all and for Postgres; drain is from the first completion to the last")
    report.note("Procrastinate and PgQueuer run handlers inside the worker's event loop, without a process between")
    return report


def _measure(
    report: Report, given: argparse.Namespace, python: str, variant: str, program: str, told: dict[str, str], dsn: str
) -> None:
    ours = program == "pq_toolkit"
    forks = ours and told["PQ_BENCH_PER_CHILD"] == "1"
    # Long enough to outweigh the start of a second worker process.
    times = {"procrastinate": 10, "pgqueuer": 40, "python_pq": 0.25}.get(program, 1 if forks else 40)
    count = max(int(given.tasks * times), 20)
    environment = {
        **os.environ,
        **told,
        **address_of(dsn),
        "PYTHONPATH": str(ROOT) if ours else "",
    }
    command = [sys.executable if ours else python, str(ROOT / "benchmarks" / "peer_programs" / f"drive_{program}.py")]
    done = subprocess.run(
        [*command, str(count), str(given.samples)], env=environment, stdout=subprocess.PIPE, text=True, timeout=900
    )
    if done.returncode:
        report.note(f"{variant}: its program ended with {done.returncode}")
        return
    found = json.loads(done.stdout.splitlines()[-1])
    units = {"drain": "tasks/s", "enqueue, one by one": "tasks/s", "enqueue, bulk": "tasks/s", "latency p50": "ms"}
    for figure, value in found.items():
        report.add(variant, figure, value, units.get(figure, "ms"))


def address_of(dsn: str) -> dict[str, str]:
    """Return the DSN as a URL, the form that all of them take, and as libpq's variables what a URL says badly.

    A socket's folder would have to be quoted with per cent signs, which python-pq's migrations do not survive.
    """
    found = conninfo_to_dict(dsn)
    user = quote(str(found.get("user", "postgres")), safe="")
    password = f":{quote(str(found['password']), safe='')}" if found.get("password") else ""
    name = quote(str(found["dbname"]), safe="")
    return {
        "PQ_BENCH_DSN": dsn,
        "PQ_BENCH_URL": f"postgresql://{user}{password}@/{name}",
        "PGHOST": str(found.get("host", "localhost")),
        "PGPORT": str(found.get("port", "5432")),
    }


@contextmanager
def an_environment(given: argparse.Namespace) -> Iterator[str]:
    """Yield the Python of a virtual environment that has the peers."""
    if given.environment is not None:
        yield str(given.environment / "bin" / "python")
        return
    folder = Path(tempfile.mkdtemp(prefix="pq-bench-peers-"))
    try:
        subprocess.run([given.python, "-m", "venv", str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        yield python
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def installed(python: str) -> dict[str, str]:
    program = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({n: m.version(n) for n in ('python-pq', 'procrastinate', 'pgqueuer')}))"
    )
    found = subprocess.run([python, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(found.stdout))
