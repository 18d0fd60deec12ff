"""The independent checker: its own SQL, the log of the tasks, and nothing of the code under test.

What it proves is said with each function; what it finds are sentences, sorted by the promise that they break.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from tests.chaos import history, record

TASKS = """
    SELECT id, name, payload -> 'args' ->> 0 AS key, payload -> 'args' ->> 1 AS second, status, outcome, fence,
        started_at, attempts, losses, client_id, schedule_id, tick_at, coalesce(error, '') AS error
    FROM pq_tasks WHERE name <> 'chaos.probe'
"""
MAY_END = {
    "plain": {"completed"},
    "long": {"completed"},
    "effect": {"completed"},
    "flaky": {"completed"},
    "version": {"completed"},
    "doomed": {"failed"},
    "once": {"completed", "failed"},
    "cancelled": {"completed", "cancelled"},
}
"""By what was ordered, the final states that are right."""
SLACK = timedelta(seconds=0.05)
"""By how much an attempt may seem to have begun before its claim: two clocks are compared."""


@dataclass(slots=True)
class Findings:
    """What was counted, and what is wrong. ``overlaps``: seconds for which two attempts of a task lived at once.

    Of a history that was lost: ``gone``: orders acknowledged in it, lost with it; ``reused``: ids under which tasks of
    both histories ran; ``again``: tasks that must not start twice, started in both, the first of which did not survive.
    """

    tasks: int = 0
    effects: int = 0
    starts: int = 0
    ticks: int = 0
    suspects: int = 0
    gone: int = 0
    reused: int = 0
    again: int = 0
    overlaps: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """All that is wrong, the overlaps aside: whether they are wrong depends on the fault."""
        return [*self.lost, *self.duplicated, *self.stuck, *self.wrong]


class Checker:
    """Everything known of one run, after all its workers have ended."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.runs = record.runs(folder)
        self.orders = record.orders(folder)
        self.switches = history.switches(folder)
        self.found = Findings()
        with psycopg.connect(dsn, row_factory=namedtuple_row) as connection:
            self.tasks: dict[int, Any] = {row.id: row for row in connection.execute(TASKS)}
            self.booked: dict[str, Any] = {row.key: row for row in connection.execute("SELECT * FROM chaos_orders")}
            self.effects = connection.execute("SELECT key, task, fence, pid FROM chaos_effects").fetchall()
            self.attempts: dict[int, dict[int, Any]] = defaultdict(dict)
            for row in connection.execute("SELECT task_id, fence, outcome, started_at FROM pq_attempts"):
                self.attempts[row.task_id][row.fence] = row
            self.schedules = connection.execute(
                "SELECT id, run_every, next_run, clock_timestamp() AS now FROM pq_periodic"
            ).fetchall()
        self.by_key: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for task in self.tasks.values():
            self.by_key[_kind(task), task.key].append(task)
        self.starts = [line for line in self.runs if line.what == "start"]
        self.ends: dict[tuple[int, int], list[record.Line]] = defaultdict(list)
        self._begun = self._beginnings()
        self._zero = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        for line in self.runs:
            if line.what == "end" and self._own(line):
                self.ends[line.task, line.fence].append(line)

    def check(self) -> Findings:
        """Return what was found."""
        self._transactions()
        self._final_states()
        self._starts()
        self._once_only()
        self._consequences()
        self._versions()
        self._ticks()
        self._lost_histories()
        self._overlaps()
        self.found.tasks = len(self.tasks)
        self.found.starts = len(self.starts)
        return self.found

    def _beginnings(self) -> dict[record.Line, float]:
        """Return when the attempt began that wrote a line, for each."""
        began: dict[tuple[int, int, int, str], float] = {}
        found = {}
        for line in self.runs:
            attempt = (line.pid, line.task, line.fence, line.key)
            if line.what == "start":
                began[attempt] = line.at
            found[line] = began.get(attempt, line.at)
        return found

    def _own(self, line: record.Line) -> bool:
        """Say whether it is of a claim that is on record: where no history was lost id and fence tell; else it is the
        payload that was claimed, and began after this claim, not before one that has the same fence by chance."""
        if not self.switches:
            return True
        claim = self._claim(line)
        if claim is None:
            task = self.tasks.get(line.task)
            # Of an earlier version's success nothing is on record: in which history it was only the time tells.
            earlier = task is not None and _kind(task) == "version" and line.key == task.key and line.fence < task.fence
            return earlier and self._begun[line] >= self.switches[-1].ended
        return bool(self._zero + timedelta(seconds=self._begun[line]) >= claim - SLACK)

    def _claim(self, line: record.Line) -> datetime | None:
        """Return when the task of a line was claimed under its fence, None if nothing is on record."""
        task = self.tasks.get(line.task)
        if task is None or task.key != line.key:
            return None
        on_record = task if line.fence == task.fence else self.attempts[line.task].get(line.fence)
        return on_record.started_at if on_record is not None else None

    def _transactions(self) -> None:
        """What was committed is there with its one task; what was rolled back is not, nor is anything of it."""
        for key, server in self.orders["committed"].items():
            if key in self.booked:
                continue
            if any(server in switch.servers and key not in switch.orders for switch in self.switches):
                self.found.gone += 1
            else:
                self.found.lost.append(f"{key} was committed, and its transaction is gone")
        for key in self.orders["rolled-back"]:
            if key in self.booked or any(kind != "version" and name == key for kind, name in self.by_key):
                self.found.wrong.append(f"{key} was rolled back, and something of it is there")
        expected = {key for key, order in self.booked.items() if order.kind != "version"}
        for key in expected:
            found = self.by_key[_function(self.booked[key].kind), key]
            if not found:
                self.found.lost.append(f"the task of {key} is gone")
            elif len(found) > 1:
                self.found.duplicated.append(f"{key} has {len(found)} tasks")
        for (kind, key), tasks in self.by_key.items():
            if kind not in ("version", "mourn", "tick") and key not in expected:
                self.found.wrong.append(f"task {tasks[0].id} of {key} has no order")

    def _final_states(self) -> None:
        """Every task has ended, as what was ordered may end; its last attempt did the work."""
        for task in self.tasks.values():
            if task.status not in ("completed", "failed", "cancelled"):
                self.found.stuck.append(f"task {task.id} ({task.key}) is left {task.status}")
                continue
            if self._suspect(task):
                continue
            kind = _kind(task)
            if kind == "plain":
                kind = self.booked[task.key].kind if task.key in self.booked else kind
            if task.status not in MAY_END.get(kind, {"completed"}):
                words = task.error.strip().splitlines()[-1:]
                self.found.lost.append(f"task {task.id} ({kind} {task.key}) ended as {task.status}: {words}")
            # What completes in its own transaction may be killed before it writes its last line.
            if task.status == "completed" and kind != "effect" and not self.ends[task.id, task.fence]:
                self.found.lost.append(
                    f"task {task.id} ({task.key}) is completed, and its attempt never ended its work"
                )

    def _suspect(self, task: Any) -> bool:
        """Given up after it was lost five times, three of them while it ran alone on its worker: that is the rule."""
        if task.status != "failed" or "suspect of killing" not in task.error:
            return False
        losses = sum(attempt.outcome == "lost" for attempt in self.attempts[task.id].values())
        if losses < 5:
            self.found.lost.append(f"task {task.id} was given up as suspect after {losses} losses")
        self.found.suspects += 1
        return True

    def _starts(self) -> None:
        """Each claim started one process at most, and no attempt ran that is not on record."""
        seen: Counter[tuple[int, int]] = Counter()
        for line in self.starts:
            task = self.tasks.get(line.task)
            if self._own(line):
                seen[line.task, line.fence] += 1
                if task is not None and task.key != line.key:
                    self.found.wrong.append(f"task {line.task} ({task.key}) ran with the payload of {line.key}")
        for (task_id, fence), count in seen.items():
            task = self.tasks.get(task_id)
            if count > 1:
                self.found.duplicated.append(f"task {task_id} was started {count} times under fence {fence}")
            if task is None:
                self.found.wrong.append(f"task {task_id} ran, and is not there")
            elif fence == task.fence or fence in self.attempts[task_id]:
                continue
            # A success at the first try is on record in the task alone, until another version takes its place.
            elif fence > task.fence or _kind(task) != "version" or not self.ends[task_id, fence]:
                self.found.wrong.append(f"task {task_id} ran under fence {fence}, of which nothing is on record")

    def _once_only(self) -> None:
        """What completes in its own transaction has one effect; what may not start twice has not."""
        effects = Counter(row.key for row in self.effects)
        fences = {row.key: row.fence for row in self.effects}
        starts = Counter(line.task for line in self.starts if self._own(line))
        self.found.effects = len(self.effects)
        for key, order in self.booked.items():
            for task in self.by_key[_function(order.kind), key]:
                if order.kind == "effect":
                    if effects[key] > 1:
                        self.found.duplicated.append(f"the effect of {key} happened {effects[key]} times")
                    if (task.status == "completed") != (effects[key] == 1 and fences.get(key) == task.fence):
                        self.found.lost.append(f"{key} is {task.status} with {effects[key]} effects")
                if order.kind == "once" and starts[task.id] > 1:
                    self.found.duplicated.append(f"{key} may not start twice, and was started {starts[task.id]} times")
        for key in effects.keys() - self.booked.keys():
            self.found.wrong.append(f"there is an effect of {key}, which was never ordered")
        own = {(line.task, line.fence, line.pid) for line in self.starts if self._own(line)}
        for row in self.effects:
            task = self.tasks.get(row.task)
            if task is None or task.key != row.key:
                self.found.wrong.append(f"the effect of {row.key} is that of task {row.task}, which is another")
            elif row.pid is not None and (row.task, row.fence, row.pid) not in own:
                self.found.wrong.append(f"the effect of {row.key} comes from an attempt of which nothing is on record")

    def _consequences(self) -> None:
        """A failure for good has its consequence, once."""
        for key, order in self.booked.items():
            if order.kind == "doomed":
                count = len(self.by_key["mourn", key])
                failed = sum(task.status == "failed" for task in self.by_key["doomed", key])
                if count != failed:
                    kept = self.found.duplicated if count > failed else self.found.lost
                    kept.append(f"{key} has {count} consequences of {failed} failures")

    def _versions(self) -> None:
        """Of what was upserted, the last version ran to its end, on the one task that there is."""
        last: dict[str, int] = {}
        for order in self.booked.values():
            if order.kind == "version":
                last[order.client] = max(order.number, last.get(order.client, 0))
        for client, number in last.items():
            tasks = self.by_key["version", client]
            if len(tasks) != 1:
                self.found.lost.append(f"{client} has {len(tasks)} tasks")
                continue
            (task,) = tasks
            ran = {line.extra for line in self.ends[task.id, task.fence]}
            if task.status == "completed" and (task.second != str(number) or str(number) not in ran):
                self.found.lost.append(f"{client}: version {number} is the last, {task.second} is stored, {ran} ran")

    def _ticks(self) -> None:
        """Every tick of a schedule is one task, without a gap, up to now."""
        ticks: dict[int, list[datetime]] = defaultdict(list)
        for task in self.tasks.values():
            if task.schedule_id is not None:
                ticks[task.schedule_id].append(task.tick_at)
        for schedule in self.schedules:
            times = sorted(ticks[schedule.id])
            self.found.ticks += len(times)
            if not times:
                self.found.lost.append(f"schedule {schedule.id} never ticked")
                continue
            for one, other in pairwise(times):
                if other == one:
                    self.found.duplicated.append(f"schedule {schedule.id} ticked twice at {one}")
                elif other - one != schedule.run_every:
                    self.found.lost.append(f"schedule {schedule.id} did not tick between {one} and {other}")
            if schedule.next_run != times[-1] + schedule.run_every:
                self.found.lost.append(f"schedule {schedule.id} goes on at {schedule.next_run}, after {times[-1]}")

    def _lost_histories(self) -> None:
        """What survived is there; nothing lost runs on; what is known to have begun does not start again."""
        for switch in self.switches[-1:]:
            for key in set(switch.orders) - self.booked.keys():
                self.found.lost.append(f"{key} had survived, and its transaction is gone")
            for known in switch.tasks:
                if known.id not in self.tasks or self.tasks[known.id].key != known.key:
                    self.found.lost.append(f"task {known.id} ({known.key}) had survived, and is gone")
        for switch in self.switches:
            for known in switch.tasks:
                if known.name.endswith(".once"):
                    self._started_in_both(switch, known)
        for line in self.runs if self.switches else []:
            if not self._own(line) and not any(line.at < switch.until for switch in self.switches):
                late = line.at - self.switches[-1].ended
                self.found.wrong.append(
                    f"an attempt at task {line.task} ({line.key}, fence {line.fence}) of a lost history wrote"
                    f" {line.what!r} {late:.1f} s after it was lost"
                )
        keys: dict[int, set[str]] = defaultdict(set)
        for line in self.starts:
            keys[line.task].add(line.key)
        self.found.reused = sum(len(found) > 1 for found in keys.values())

    def _started_in_both(self, switch: history.Switch, known: history.Known) -> None:
        times = [line.at for line in self.starts if (line.task, line.key) == (known.id, known.key)]
        if not (any(at < switch.ended for at in times) and any(at >= switch.ended for at in times)):
            return
        if known.status == "pending":
            self.found.again += 1
        else:
            self.found.duplicated.append(
                f"{known.key} may not start twice, was {known.status} when a history was lost, and was started again"
            )

    def _overlaps(self) -> None:
        """How long two attempts of a task lived at once, by the locks that the kernel kept for them."""
        begun: dict[tuple[int, int], float] = {}
        last: dict[tuple[int, int], float] = {}
        for line in self.runs:
            key = (line.task, line.fence)
            last[key] = line.at
            if line.what == "overlap":
                begun[key] = line.at
            elif line.what == "parted" and key in begun:
                self.found.overlaps.append(line.at - begun.pop(key))
        # Those that were over first, or were killed, before the other one was gone.
        self.found.overlaps += [last[key] - at for key, at in begun.items()]


def _kind(task: Any) -> str:
    return str(task.name).rpartition(".")[2]


def _function(kind: str) -> str:
    return "plain" if kind in ("long", "cancelled") else kind
