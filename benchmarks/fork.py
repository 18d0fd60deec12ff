"""One process per task against a bare fork+exit+wait of the same image, at the same concurrency, in one run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from benchmarks.database import a_database, a_server
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.worker import ROOT


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--tasks", type=int, default=1000, help="in each round")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--ballast", type=int, default=0, help="MiB of live objects in the image")


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    report = Report("fork", {"tasks": given.tasks, "ballast MiB": given.ballast, "rounds": given.rounds})
    with a_server(given.dsn) as server, a_database(server) as dsn:
        report.server = describe_server(dsn)
        for concurrency in given.concurrency:
            _in_an_image(report, dsn, given, concurrency)
    return report


def _in_an_image(report: Report, dsn: str, given: argparse.Namespace, concurrency: int) -> None:
    """Measure in a process of its own: what this benchmark has imported would double the image."""
    command = [sys.executable, "-m", "benchmarks.image_of_a_worker", str(given.tasks), str(concurrency)]
    environment = {
        **os.environ,
        "PQ_DATABASE_URL": dsn,
        "PYTHONPATH": str(ROOT),
        "PQ_BENCH_BALLAST": str(given.ballast),
    }
    done = subprocess.run(
        [*command, str(given.rounds)], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    bare, tasks = (f"{kind}, {concurrency} at once" for kind in ("bare fork+exit+wait", "no-op tasks"))
    for line in done.stdout.splitlines():
        found = json.loads(line)
        report.add(bare, "rate", found["bare"], "/s")
        report.add(bare, "CPU", found["bare_cpu"] * 1e6, "us each")
        report.add(bare, "page faults", found["bare_faults"], "each")
        report.add(tasks, "rate", found["tasks"], "/s")
        report.add(tasks, "CPU", found["tasks_cpu"] * 1e6, "us each")
        report.add(tasks, "page faults", found["tasks_faults"], "each")
    report.ratio("rate", tasks, bare, goal=">= 0.9")
    report.note(f"{concurrency} at once: the image has {found['resident']:.0f} MiB resident")
