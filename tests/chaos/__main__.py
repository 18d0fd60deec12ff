"""``python -m tests.chaos``: run faults one after another, print the table, end with 1 if a promise was broken."""

from __future__ import annotations

import argparse
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg

from tests.chaos import report
from tests.chaos.fault import Fault
from tests.chaos.faults import Storm, all_faults
from tests.chaos.server import Server
from tests.chaos.stage import Result, Size, Stage, prepare

SHORT = ("kill-children", "kill-worker", "terminate", "restart-immediate", "network-swallow")
"""What the short form strikes with, all on one stage."""
MARGIN = 0.5
"""Seconds for which two attempts may be seen alive at once: between the kill of a process and its end."""
Log = Callable[[str], None]


def run(fault: Fault, server: Server, folder: Path, size: Size, *, keep: bool, seconds: float) -> Result:
    """Run one fault on a stage of its own."""
    stage = Stage(server, folder, size)
    with fault.around(stage):
        try:
            stage.open()
            before = stage.throughput()
            injected = fault.inject(stage, seconds)
            recovery = stage.recovery()
            after = stage.throughput()
            problems = [*fault.problems(), *stage.settle()]
            problems += stage.fleet.stop()
            findings = stage.check()
            if fault.promise == "processes" and (found := [one for one in findings.overlaps if one > MARGIN]):
                problems.append(
                    f"two attempts of a task lived at once, {len(found)} times, for up to {max(found):.2f} s"
                )
            if fault.loses and not (findings.gone and findings.reused):
                problems.append(
                    f"the fault did not strike: {findings.gone} orders lost, {findings.reused} ids used twice"
                )
            return Result(
                injected=injected, kills=stage.fleet.kills, findings=findings, recovery=recovery, before=before,
                after=after, problems=[*problems, *findings.problems],
            )  # fmt: skip
        finally:
            stage.close(keep=keep)


class Together(Fault):
    """Several faults, one after another, on one stage: the short form."""

    name = "short"
    title = "several, one after another"

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        # The one that needs a proxy prepares the stage for all.
        self._preparing = next(fault for fault in faults if fault.name == "network-swallow")
        self.around = self._preparing.around  # type: ignore[method-assign]

    def inject(self, stage: Stage, seconds: float) -> int:
        return sum(fault.inject(stage, seconds / len(self.faults)) for fault in self.faults)


class Kills(Storm):
    """The long form: a storm until so many workers were killed."""

    name = "kills"

    def __init__(self, kills: int, *, within: float) -> None:
        self.kills = kills
        self.within = within
        self.title = "workers killed again and again"

    def inject(self, stage: Stage, seconds: float) -> int:
        until = time.monotonic() + self.within
        while stage.fleet.kills < self.kills and time.monotonic() < until:
            # A keeper that sees its worker die again and again waits longer and longer. A new one does not.
            ready = [keeper for keeper in stage.fleet.keepers if keeper.ready]
            if ready and random.random() < 0.5:
                stage.fleet.kill_keeper(random.choice(ready))
            elif ready:
                # Of those that have worked: to kill what is only starting would be easy.
                for pid in random.choice(ready).workers:
                    stage.fleet.kill_worker(pid)
            stage.fleet.ensure()
            time.sleep(0.5)
        return stage.fleet.kills


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says and return the exit status."""
    options = _parse(arguments)
    random.seed(options.seed)
    faults = _chosen(options)
    size = Size(workers=options.workers, rate=options.rate, lease=options.lease, probes=options.probes)
    if options.short:
        size = replace(size, workers=2, warm_up=1.0, probes=0, lease=3.0, rate=20.0)
    folder = Path(tempfile.mkdtemp(prefix="pq-chaos-"))
    folder.chmod(0o755)
    server = Server(folder / "server").create().start()
    rows: list[report.Row] = []
    problems: dict[str, list[str]] = {}
    began = time.monotonic()
    try:
        version = server.execute("SHOW server_version")[0][0].split()[0]
        prepare(server)
        print(report.heading(), flush=True)
        for fault in faults:
            missing = fault.missing()
            result = None
            if missing is None:
                seconds = options.seconds or (10.0 if options.short else size.seconds)
                try:
                    result = run(fault, server, folder / fault.name, size, keep=options.keep, seconds=seconds)
                    problems[fault.name] = result.problems
                except (RuntimeError, OSError, psycopg.Error) as error:
                    missing = "the suite itself failed"
                    problems[fault.name] = [f"{missing}: {error!r}"]
            rows.append(report.Row(fault.title, fault.promise, result, missing or ""))
            print(report.plain(rows[-1]), flush=True)
    finally:
        server.stop("immediate")
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    kills = sum(row.result.kills for row in rows if row.result)
    print(f"{kills} workers killed in {(time.monotonic() - began) / 60:.1f} minutes; seed {options.seed}")
    problems = {name: found for name, found in problems.items() if found}
    for name, found in problems.items():
        print(f"\n{name}: {len(found)} problem(s)", *found[:20], sep="\n  ")
    if options.write_docs:
        command = shlex.join(["python", "-m", "tests.chaos", *(arguments or sys.argv[1:])])
        minutes = (time.monotonic() - began) / 60
        whole = options.only is None
        report.write_docs(rows, command=command, minutes=minutes, kills=kills, version=version, whole=whole)
    if options.keep:
        print(f"\nwhat it wrote is in {folder}")
    return 1 if problems else 0


def _chosen(options: argparse.Namespace) -> list[Fault]:
    faults = all_faults()
    if options.short:
        return [Together([fault for fault in faults if fault.name in SHORT])]
    if options.only is not None:
        names = [name for name in options.only.split(",") if name]
        unknown = set(names) - {fault.name for fault in faults}
        if unknown:
            sys.exit(f"there is no fault {', '.join(sorted(unknown))}; known are {', '.join(f.name for f in faults)}")
        faults = [fault for fault in faults if fault.name in names]
    if options.kills:
        faults.append(Kills(options.kills, within=60 * options.minutes))
    return faults


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break things, and check what is left.")
    parser.add_argument("--only", metavar="A,B", help="these faults alone; " + ", ".join(f.name for f in all_faults()))
    parser.add_argument("--short", action="store_true", help="some faults on one stage, under a minute")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="and kill N workers in the end")
    parser.add_argument("--minutes", type=float, default=30, help="the longest that --kills may take (%(default)s)")
    parser.add_argument("--seconds", type=float, help="for how long each fault strikes")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (%(default)s)")
    parser.add_argument("--rate", type=float, default=25, help="tasks enqueued per second (%(default)s)")
    parser.add_argument("--lease", type=float, default=5, help="seconds (%(default)s)")
    parser.add_argument("--probes", type=int, default=3, help="bursts that measure throughput, 0: none (%(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is left to chance")
    parser.add_argument("--keep", action="store_true", help="leave logs and databases where they are")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/reliability.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
