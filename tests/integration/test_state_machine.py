"""Hypothesis drives the real statements of client and worker in any order, beside a model of what they promise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pq_core import PQ
from pq_core.worker.claiming import Statements, encode_report, integer, number, text_array
from tests.integration import worker_tasks as tasks

QUEUE = text_array(["default"])
BANDS = [b"{-32768}", b"{32767}"]
NONE = [b"{}", b"{}", b"{}"]
CLIENTS = st.sampled_from([None, "one", "two"])
ENDS: dict[str, dict[str, Any]] = {
    "succeeded": {"status": "completed", "outcome": "succeeded", "counted": True},
    "raised": {"status": "failed", "outcome": "raised", "counted": True},
    "tried again": {"status": "pending", "outcome": "raised", "counted": True, "delay": 0.0},
    "put off": {"status": "pending", "outcome": "raised", "counted": True, "delay": 3600.0},
    "snoozed": {"status": "pending", "outcome": "snoozed", "counted": False, "delay": 0.0},
    "interrupted": {"status": "pending", "outcome": "interrupted", "counted": False, "delay": 0.0},
    "released": {"status": "pending", "outcome": "released", "counted": False, "delay": 15.0, "unroutable": True},
    "cancelled": {"status": "cancelled", "outcome": "cancelled", "counted": True},
}
COLUMNS = (
    "status", "worker", "fence", "attempts", "losses", "lone_losses", "snoozes", "alone", "due", "argument", "parked",
    "cancelling", "client",
)  # fmt: skip
LOOK = (
    "SELECT id, status, worker_id, fence, attempts, losses, lone_losses, snoozes, alone, due,"
    " (payload -> 'args' ->> 0)::integer, (parked -> 'payload' -> 'args' ->> 0)::integer,"
    " cancel_requested_at IS NOT NULL, client_id FROM pq_tasks"
)


@dataclass
class Task:
    """What is promised of one task. ``turn``: its place among those of its priority."""

    argument: int
    turn: int
    status: str = "pending"
    worker: int | None = None
    fence: int = 0
    attempts: int = 0
    losses: int = 0
    lone_losses: int = 0
    snoozes: int = 0
    alone: bool = False
    due: bool = True
    parked: int | None = None
    parked_turn: int = 0
    cancelling: bool = False
    client: str | None = None
    careful: bool = False
    priority: int = 50

    def end(self, status: str) -> None:
        """Take the new state, unless a version waits for the end of the run: that begins anew instead."""
        if status == "pending":
            self.worker = None  # of one that is over, who ended it stays on record
        self.status = status
        if self.parked is not None:
            self.begin(self.parked, turn=self.parked_turn)
            self.careful, self.priority = False, 50

    def begin(self, argument: int, *, turn: int) -> None:
        """Be a new version of the task."""
        self.argument, self.parked, self.turn = argument, None, turn
        self.status, self.due, self.alone, self.cancelling, self.worker = "pending", True, False, False, None
        self.attempts = self.losses = self.lone_losses = self.snoozes = 0


@dataclass
class Model:
    """All tasks, leases (id -> whether it is alive) and the history: (task, fence) -> (outcome, worker)."""

    tasks: dict[int, Task] = field(default_factory=dict)
    leases: dict[int, bool] = field(default_factory=dict)
    history: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    paused: bool = False
    turns: int = 0

    def turn(self) -> int:
        self.turns += 1
        return self.turns

    def ready(self, *, suspects: bool) -> list[int]:
        """Return what can be claimed, the best first."""
        found = [
            id_ for id_, task in self.tasks.items()
            if task.status == "pending" and task.due and (task.losses >= 2) is suspects
        ]  # fmt: skip
        return [] if self.paused else sorted(found, key=lambda id_: (-self.tasks[id_].priority, self.tasks[id_].turn))

    def claim(self, id_: int, worker: int, *, alone: bool) -> None:
        task = self.tasks[id_]
        task.status, task.worker = "running", worker
        task.fence += 1
        task.attempts += 1
        task.alone = task.alone or alone

    def report(self, id_: int, worker: int, fence: int, end: dict[str, Any]) -> str:
        """Record the end of an attempt if it is its owner's; return what its worker is told."""
        task = self.tasks.get(id_)
        if task is None or (task.status, task.worker, task.fence) != ("running", worker, fence):
            outcome, by = self.history.get((id_, fence), ("lost", 0))
            own = outcome != "lost" and by == worker
            completed = task is not None and task.status == "completed" and task.fence == fence
            return "self" if own or completed else "lost"
        if end["outcome"] != "succeeded" or fence > 1 or task.parked is not None:
            self.history.setdefault((id_, fence), (end["outcome"], worker))
        status = "cancelled" if end["status"] == "pending" and task.cancelling else end["status"]
        if not end["counted"]:
            task.attempts = max(task.attempts - 1, 0)
        task.snoozes += end["outcome"] == "snoozed"
        task.due = status != "pending" or end["delay"] <= 0
        if status == "pending":
            task.turn = self.turn()
        task.end(status)
        return "recorded"

    def rescue(self, workers: set[int], blameless: set[int]) -> set[int]:
        """Take back what these dead workers had; return which tasks."""
        taken = {id_ for id_, task in self.tasks.items() if task.status == "running" and task.worker in workers}
        for id_ in sorted(taken):
            task = self.tasks[id_]
            assert task.worker is not None
            blame = task.worker not in blameless
            self.history.setdefault((id_, task.fence), ("lost", task.worker))
            suspect = task.alone and task.lone_losses >= 2 and blame
            status = "cancelled" if task.cancelling else "failed" if task.careful or suspect else "pending"
            task.attempts = max(task.attempts - 1, 0)
            task.losses += blame
            task.lone_losses += task.alone and blame
            task.alone, task.due = False, True
            task.end(status)
        for worker in workers:
            del self.leases[worker]
        return taken

    def deregister(self, worker: int) -> None:
        for task in self.tasks.values():
            if task.status == "running" and task.worker == worker:
                task.attempts = max(task.attempts - 1, 0)
                task.alone, task.due = False, True
                task.end("cancelled" if task.cancelling else "pending")
        self.leases.pop(worker, None)

    def forget(self, ids: list[int]) -> None:
        for id_ in ids:
            del self.tasks[id_]
        self.history = {key: value for key, value in self.history.items() if key[0] in self.tasks}


class Machine(RuleBasedStateMachine):
    """One rule per statement. Each compares the answer; the invariant compares every row."""

    dsn: str
    connection: psycopg.Connection
    pq: PQ

    claims: Bundle[tuple[int, int, int]] = Bundle("claims")
    workers: Bundle[int] = Bundle("workers")

    @initialize(target=workers)
    def begin(self) -> Any:
        self.model = Model()
        self.arguments = 0
        self.began: dict[int, bytes] = {}
        self.claimed_at: dict[tuple[int, int], str] = {}
        self.connection.execute("TRUNCATE pq_tasks, pq_attempts, pq_workers, pq_queues")
        for client, careful in (("one", False), (None, False), (None, True)):
            self.enqueue(client=client, later=False, careful=careful, priority=50)
        # One that was lost twice already, which few steps would lead to.
        id_ = max(self.model.tasks)
        self.enqueue(client=None, later=False, careful=False, priority=50)
        suspect = max(self.model.tasks)
        assert suspect > id_
        self.connection.execute("UPDATE pq_tasks SET losses = 3, lone_losses = 1 WHERE id = %s", (suspect,))
        self.model.tasks[suspect].losses, self.model.tasks[suspect].lone_losses = 3, 1
        return multiple(self.register(), self.register())

    def run(self, name: str, *parameters: bytes | None) -> list[tuple[bytes | None, ...]]:
        """Run a statement of the worker as the worker does: text in, text out."""
        query = Statements("public")[name]
        result = self.connection.pgconn.exec_params(query.text.encode(), parameters)
        assert result.status in (1, 2), result.error_message.decode()
        width = range(result.nfields)
        return [tuple(result.get_value(row, column) for column in width) for row in range(result.ntuples)]

    def argument(self) -> int:
        self.arguments += 1
        return self.arguments

    # --- clients

    @rule(client=CLIENTS, later=st.booleans(), careful=st.booleans(), priority=st.sampled_from([50, 50, 75]))
    def enqueue(self, client: str | None, later: bool, careful: bool, priority: int) -> None:
        argument = self.argument()
        options: dict[str, Any] = {"run_in": timedelta(hours=1)} if later else {}
        call = tasks.add.call(argument)
        id_ = self.pq.enqueue(
            call, client_id=client, on_duplicate="return", on_lost="fail" if careful else "retry", priority=priority,
            **options,
        )  # fmt: skip
        taken = [known for known, task in self.model.tasks.items() if client is not None and task.client == client]
        if taken:
            assert [id_] == taken
            return
        assert id_ not in self.model.tasks
        self.model.tasks[id_] = Task(
            argument, self.model.turn(), due=not later, client=client, careful=careful, priority=priority
        )

    @rule(client=st.sampled_from(["one", "two"]))
    def upsert(self, client: str) -> None:
        argument = self.argument()
        id_ = self.pq.upsert(tasks.add.call(argument), client_id=client)
        task = next((task for task in self.model.tasks.values() if task.client == client), None)
        if task is None:
            self.model.tasks[id_] = Task(argument, self.model.turn(), client=client)
            return
        assert self.model.tasks[id_] is task
        if task.status == "running":
            # Its place is that of the moment at which it was asked for.
            task.parked, task.parked_turn = argument, self.model.turn()
            return
        task.begin(argument, turn=self.model.turn())
        task.careful, task.priority = False, 50

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.model.tasks:
            return
        id_ = data.draw(st.sampled_from(sorted(self.model.tasks)))
        task = self.model.tasks[id_]
        unfinished = task.status in ("pending", "running")
        assert self.pq.cancel(id_) is unfinished
        if unfinished:
            task.cancelling, task.parked = True, None
            task.status = "running" if task.status == "running" else "cancelled"

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        finished = [id_ for id_, task in self.model.tasks.items() if task.status in ("failed", "cancelled")]
        if finished:
            id_ = data.draw(st.sampled_from(finished))
            assert self.pq.retry(id_)
            task = self.model.tasks[id_]
            task.begin(task.argument, turn=self.model.turn())

    @rule(data=st.data())
    def reschedule(self, data: st.DataObject) -> None:
        if not self.model.tasks:
            return
        id_ = data.draw(st.sampled_from(sorted(self.model.tasks)))
        task = self.model.tasks[id_]
        assert self.pq.reschedule(id_, run_in=timedelta(0)) is (task.status == "pending")
        if task.status == "pending":
            task.due, task.turn = True, self.model.turn()

    @rule(claim=claims, commit=st.booleans())
    def complete(self, claim: tuple[int, int, int], commit: bool) -> None:
        worker, id_, fence = claim
        request = self.pq._operations.store.complete(
            id_,
            fence=fence,
            started_at=datetime.fromisoformat(self.claimed_at[id_, fence]),
            worker_id=worker,
            result=None,
        )
        task = self.model.tasks.get(id_)
        owned = task is not None and (task.status, task.worker, task.fence) == ("running", worker, fence)
        with psycopg.connect(self.dsn) as connection:
            words = request.statement.before + "%s" + request.statement.after
            rows = connection.execute(words.replace("%", "%%").replace("%%s", "%s"), (request.parameters,)).fetchall()
            assert bool(rows) is owned
            if not commit:
                connection.rollback()
        if owned and commit and task is not None:
            if task.parked is not None:
                self.model.history.setdefault((id_, fence), ("succeeded", worker))
            task.end("completed")

    @precondition(lambda self: len(self.model.tasks) > 6)
    @rule(everything=st.booleans())
    def prune(self, everything: bool) -> None:
        states = ("completed", "failed", "cancelled", "pending") if everything else ("completed",)
        gone = [id_ for id_, task in self.model.tasks.items() if task.status in states]
        assert (self.pq.clear_all() if everything else self.pq.clear_completed()) == len(gone)
        self.model.forget(gone)

    @rule(worker=workers)
    def pause(self, worker: int) -> None:
        """Claim out of a queue that is paused, and resume it."""
        self.connection.execute("INSERT INTO pq_queues (name, paused_at) VALUES ('default', now())")
        self.model.paused = True
        self.claim(worker=worker, most=3)
        self.claim_suspect(worker=worker)
        self.connection.execute("DELETE FROM pq_queues")
        self.model.paused = False

    @rule()
    def time_passes(self) -> None:
        """What was to come later is due."""
        self.connection.execute("UPDATE pq_tasks SET run_at = clock_timestamp() WHERE status = 'pending' AND NOT due")
        late = [task for task in self.model.tasks.values() if task.status == "pending" and not task.due]
        turn = self.model.turn()
        ((promoted, _),) = self.run("promote", b"500")
        assert int(promoted or 0) == len(late)
        for task in late:
            # At the same moment: the id decides, and so does the order of the model's ids.
            task.due, task.turn = True, turn

    # --- workers

    @precondition(lambda self: len(self.model.leases) < 3)
    @rule(target=workers)
    def register(self) -> int:
        words = [number(3600), b"1", b"4", b"name", b"host", b"app", b"0", QUEUE, b"{}", None, None]
        row = self.run("register", *words)[0]
        worker = int(row[0] or 0)
        self.began[worker] = row[1] or b""
        # It has been there for a while: what it sees dead is dead.
        self.connection.execute(
            "UPDATE pq_workers SET continuous_since = now() - interval '1 hour' WHERE id = %s", (worker,)
        )
        self.model.leases[worker] = True
        return worker

    @rule(worker=workers)
    def die(self, worker: int) -> None:
        if worker in self.model.leases:
            self.connection.execute(
                "UPDATE pq_workers SET expires_at = now() - interval '1 minute', lease = '1 ms' WHERE id = %s",
                (worker,),
            )
            self.model.leases[worker] = False

    @rule(worker=workers)
    def heartbeat(self, worker: int) -> None:
        rows = self.run("heartbeat", integer(worker), b"f", *BANDS, self.began[worker], None)
        assert bool(rows) is (worker in self.model.leases)
        if rows:
            # One that was given up for dead by nobody yet lives on.
            self.connection.execute(
                "UPDATE pq_workers SET expires_at = now() + interval '1 hour', lease = '1 hour',"
                " continuous_since = now() - interval '1 hour' WHERE id = %s",
                (worker,),
            )
            self.model.leases[worker] = True
            suspects = rows[0][3] == b"t"
            assert suspects is bool(self.model.ready(suspects=True))
        running = {
            (int(row[0] or 0), int(row[1] or 0)): row[3] is not None for row in self.run("running", integer(worker))
        }
        assert running == {
            (id_, task.fence): task.cancelling
            for id_, task in self.model.tasks.items()
            if task.status == "running" and task.worker == worker
        }

    @rule(target=claims, worker=workers, most=st.integers(1, 3))
    def claim(self, worker: int, most: int) -> Any:
        rows = self.run(
            "claim_one_queue",
            integer(worker),
            QUEUE,
            b"-32768",
            b"32767",
            integer(most),
            *NONE,
            self.began[worker],
            None,
        )
        return self.claimed(worker, rows, most, alone=False)

    @rule(target=claims, worker=workers)
    def claim_all(self, worker: int) -> Any:
        return self.claim(worker=worker, most=3)

    @precondition(lambda self: self.model.ready(suspects=True))
    @rule(target=claims, worker=workers)
    def claim_suspect(self, worker: int) -> Any:
        return self.claimed(
            worker, self.run("claim_suspect", integer(worker), QUEUE, *BANDS, self.began[worker]), 1, alone=True
        )

    def claimed(self, worker: int, rows: list[tuple[bytes | None, ...]], most: int, *, alone: bool) -> Any:
        expected = self.model.ready(suspects=alone)[:most] if self.model.leases.get(worker) else []
        for id_ in expected:
            self.model.claim(id_, worker, alone=alone)
        self.claimed_at.update({(int(row[0] or 0), int(row[4] or 0)): (row[12] or b"").decode() for row in rows})
        found = {int(row[0] or 0): (int(row[4] or 0), int(row[5] or 0)) for row in rows}
        assert found == {id_: (self.model.tasks[id_].fence, self.model.tasks[id_].attempts) for id_ in expected}
        return multiple(*((worker, id_, self.model.tasks[id_].fence) for id_ in expected))

    @rule(data=st.data(), kind=st.sampled_from(sorted(ENDS)))
    def report_what_runs(self, data: st.DataObject, kind: str) -> None:
        """By its owner."""
        running = [id_ for id_, task in self.model.tasks.items() if task.status == "running"]
        if running:
            id_ = data.draw(st.sampled_from(running))
            task = self.model.tasks[id_]
            assert task.worker is not None
            self.report(claim=(task.worker, id_, task.fence), kind=kind)

    @rule(target=claims, data=st.data())
    def report_twice(self, data: st.DataObject) -> Any:
        """The second time late: meanwhile its worker may have claimed the task again, under another fence."""
        running = [id_ for id_, task in self.model.tasks.items() if task.status == "running"]
        if not running:
            return multiple()
        id_ = data.draw(st.sampled_from(running))
        worker, fence = self.model.tasks[id_].worker, self.model.tasks[id_].fence
        assert worker is not None
        self.report(claim=(worker, id_, fence), kind="tried again")
        claims = self.claim(worker=worker, most=3)
        self.report(claim=(worker, id_, fence), kind="succeeded")
        return claims

    @rule(claim=claims, kind=st.sampled_from(sorted(ENDS)))
    def report(self, claim: tuple[int, int, int], kind: str) -> None:
        """Of a claim that may long be another's, that was reported before, or whose task is gone."""
        worker, id_, fence = claim
        claimed = {"id": id_, "fence": fence, "started_at": self.claimed_at[id_, fence]}
        end = {**claimed, "error": None, **ENDS[kind]}
        expected = self.model.report(id_, worker, fence, end)
        ((*_, report, _, _, _, _, _, _),) = self.run("report", integer(worker), encode_report([end]))
        assert (report or b"").decode() == expected
        task = self.model.tasks.get(id_)
        assert task is None or (task.status, task.worker, task.fence) != ("running", worker, fence)

    @rule(rescuer=workers, named=st.lists(workers, max_size=2, unique=True), blameless=st.booleans())
    def rescue(self, rescuer: int, named: list[int], blameless: bool) -> None:
        """Of those that are dead, if the rescuer is not, and of those that the keeper named."""
        named = [worker for worker in named if worker != rescuer]
        ids = text_array(map(str, named))
        began = text_array(self.began[worker].decode() for worker in named)
        rows = self.run("rescue", integer(rescuer), ids, b"f", ids if blameless else b"{}", began, b"{}")
        found = {int(row[6]) for row in rows if row[6] is not None}
        dead = {worker for worker in named if worker in self.model.leases}
        if self.model.leases.get(rescuer):
            dead |= {worker for worker, lives in self.model.leases.items() if not lives}
        assert found == self.model.rescue(dead, set(named) if blameless else set())

    @rule(target=claims, worker=workers, data=st.data(), blameless=st.booleans())
    def lost(self, worker: int, data: st.DataObject, blameless: bool) -> Any:
        """A worker dies with all that is ready, and another one that lives takes it back."""
        claims = self.claim(worker=worker, most=3)
        others = sorted(other for other, lives in self.model.leases.items() if lives and other != worker)
        if others:
            self.die(worker=worker)
            self.rescue(rescuer=data.draw(st.sampled_from(others)), named=[worker], blameless=blameless)
        return claims

    @precondition(lambda self: len(self.model.leases) > 2)
    @rule(worker=consumes(workers))
    def deregister(self, worker: int) -> None:
        self.run("deregister", integer(worker), self.began[worker], b"[]", None)
        self.model.deregister(worker)

    # --- what always holds

    @invariant()
    def rows_are_as_promised(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = {id_: dict(zip(COLUMNS, rest, strict=True)) for id_, *rest in self.connection.execute(LOOK).fetchall()}
        expected = {id_: {name: getattr(task, name) for name in COLUMNS} for id_, task in self.model.tasks.items()}
        for one in (rows, expected):
            for row in one.values():
                # Of what has ended, `due` says nothing.
                row["due"] = row["due"] or row["status"] != "pending"
        assert rows == expected, [
            (id_, rows.get(id_), expected.get(id_)) for id_ in rows if rows[id_] != expected.get(id_)
        ]
        history = self.connection.execute("SELECT task_id, fence, outcome, worker_id FROM pq_attempts").fetchall()
        assert {(id_, fence): (outcome, worker) for id_, fence, outcome, worker in history} == self.model.history
        leases = self.connection.execute("SELECT id, expires_at > clock_timestamp() FROM pq_workers").fetchall()
        assert dict(leases) == self.model.leases


@contextlib.contextmanager
def machine(dsn: str) -> Iterator[type[Machine]]:
    """Give a machine of this database."""
    with psycopg.connect(dsn, autocommit=True) as connection, PQ(dsn, tasks=[tasks.__name__]) as pq:
        yield type("BoundMachine", (Machine,), {"dsn": dsn, "connection": connection, "pq": pq})


def drive(dsn: str, *, examples: int, steps: int) -> None:
    with machine(dsn) as bound:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            bound,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                # A failure is shown as it was found: to shrink it, each step a statement, would take minutes.
                phases=(Phase.generate,),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_store_keeps_what_the_model_promises(database: str) -> None:
    drive(database, examples=25, steps=40)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_store_keeps_what_the_model_promises_for_long(database: str) -> None:
    drive(database, examples=2500, steps=60)
