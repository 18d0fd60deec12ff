"""What the worker's memory image costs a fork: 30 MB to 1 GB of live objects, children that read a little of them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import psycopg

from benchmarks.database import a_database, a_server, vacuum
from benchmarks.machine import describe_server, memory_of
from benchmarks.report import Report
from benchmarks.tasks import nap, read
from benchmarks.worker import ROOT, Worker, drained, processes_of, rate_of, running
from pq_core import PQ

NO_HUGE_PAGES = "--no-huge-pages"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--ballast", type=int, nargs="+", default=[0, 30, 250, 1000], help="MiB of live objects")
    parser.add_argument("--tasks", type=int, default=300, help="in each round and variant")
    parser.add_argument("--reads", type=int, nargs="+", default=[0, 1000], help="objects that each task reads")
    parser.add_argument("--concurrency", type=int, default=4)


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    settings = {name: getattr(given, name) for name in ("ballast", "tasks", "reads", "concurrency", "rounds")}
    report = Report("image", settings)
    pages = {"huge pages": (), "no huge pages": (NO_HUGE_PAGES,)}
    if NO_HUGE_PAGES not in _help():
        pages = {"as it is": ()}
        report.note(f"this pq has no {NO_HUGE_PAGES}: one variant only")
    with a_server(given.dsn) as server, a_database(server) as dsn, PQ(dsn) as pq:
        report.server = describe_server(dsn)
        pq.include(read.group)
        for _ in range(given.rounds):
            for ballast in given.ballast:
                for name, flags in pages.items():
                    variant = f"{ballast} MiB, {name}"
                    options = ("--tasks-per-child", "1", "--concurrency", str(given.concurrency), *flags)
                    told = {"PQ_BENCH_BALLAST": str(ballast)}
                    for reads in given.reads:
                        _drain(report, pq, dsn, variant, options, told, given.tasks, reads)
                    _memory(report, pq, dsn, variant, options, told)
    first = next(iter(pages))
    small, large = (f"{size} MiB, {first}" for size in (30, 250))
    for reads in given.reads:
        figure = f"time of a task that reads {reads}"
        report.ratio(figure, large, small, goal="<= 1.6" if reads == 0 else "")
        for ballast in given.ballast:
            report.ratio(f"rate, {reads} read", f"{ballast} MiB, huge pages", f"{ballast} MiB, no huge pages")
    report.note("PSS: memory with what is shared divided by its users; read while children sleep in a task")
    return report


def _help() -> str:
    command = [sys.executable, "-m", "pq_core", "worker", "--help"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def _drain(
    report: Report,
    pq: PQ,
    dsn: str,
    variant: str,
    options: tuple[str, ...],
    told: dict[str, str],
    count: int,
    reads: int,
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pq_tasks, pq_attempts, pq_statistics")
    pq.enqueue_many(read.call(reads, n) for n in range(count))
    vacuum(dsn)
    drained(dsn, *options, environment=told)
    rate = rate_of(dsn, skip=0.1)
    report.add(variant, f"rate, {reads} read", rate, "tasks/s")
    report.add(variant, f"time of a task that reads {reads}", 1000 / rate if rate else 0.0, "ms")


def _memory(report: Report, pq: PQ, dsn: str, variant: str, options: tuple[str, ...], told: dict[str, str]) -> None:
    with running(dsn, *options, environment=told) as keeper:
        for _ in range(2):
            pq.enqueue(nap.call(30))
        child = _child_of(keeper)
        (worker,) = keeper.workers
        time.sleep(0.5)
        for name, pid in (("worker", worker), ("child", child)):
            found = memory_of(pid)
            report.add(variant, f"{name}: RSS", found["Rss"], "MiB")
            report.add(variant, f"{name}: PSS", found["Pss"], "MiB")
            report.add(variant, f"{name}: huge pages", found["AnonHugePages"], "MiB")
        pq.clear_all(include_running=True)  # the worker ends what it finds gone


def _child_of(keeper: Worker) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for worker in keeper.workers:
            if children := processes_of(worker):
                time.sleep(0.3)
                if children[0] in processes_of(worker):
                    return children[0]
        time.sleep(0.05)
    raise RuntimeError("no child was seen within a minute")
