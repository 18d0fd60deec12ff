"""Every way out of a sensitive task: none of them shows a value of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg.types.json
import pytest
from click.testing import CliRunner
from psycopg import sql

from pq_adapters.cli.root import root
from pq_core import PQ, Call, Outcome, TaskRecord, TaskStatus
from tests.integration import sealed_tasks as tasks
from tests.integration.sealed_tasks import SECRET
from tests.integration.worker_process import PATIENCE, cloned, eventually, running

CALLS: dict[str, tuple[Call[Any], Outcome]] = {
    "fails": (tasks.fails.call(SECRET), Outcome.RAISED),
    "groups": (tasks.groups.call(SECRET), Outcome.RAISED),
    "returns_unstorable": (tasks.returns_unstorable.call(SECRET), Outcome.SUCCEEDED),
    "snoozes": (tasks.snoozes.call(SECRET), Outcome.SNOOZED),
    "cancels": (tasks.cancels.call(SECRET), Outcome.CANCELLED),
    "crashes": (tasks.crashes.call(SECRET), Outcome.CRASHED),
    "overruns": (tasks.overruns.call(SECRET), Outcome.TIMED_OUT),
    "works": (tasks.works.call(SECRET), Outcome.SUCCEEDED),
    "waits": (tasks.waits.call(SECRET), Outcome.RAISED),
}


@dataclass
class Scene:
    """What is left when all of them have run."""

    dsn: str
    pq: PQ
    records: dict[str, TaskRecord]
    leaks: str
    log: str


@pytest.fixture(scope="module", params=[1, 4], ids=["process-per-task", "reused-processes"])
def scene(
    request: pytest.FixtureRequest, server: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("sensitive")
    leaks = folder / "leaks"
    with cloned(server, template) as dsn, PQ(dsn, tasks=[tasks.__name__]) as pq:
        ids = {name: pq.enqueue(call) for name, (call, _) in CALLS.items()}
        # By SQL, without a word of it being sensitive: the task's code says so to the worker. To those who look at the
        # row nobody does, so that these three have a queue that the lists below leave out.
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name in ("fails", "misfits", "lingers"):
                spec = psycopg.types.json.Jsonb({"name": f"s.{name}", "args": [SECRET], "queue": "sql", "timeout": 2})
                (ids[f"{name}_by_sql"],) = connection.execute("SELECT id FROM pq_enqueue(%s)", (spec,)).fetchone()  # type: ignore[misc]
        options: dict[str, Any] = {"app": f"{tasks.__name__}:create_pq", "queues": ["default", "sql"], "grace": 1}
        options["tasks_per_child"] = request.param
        environment = {"PQ_LOG_LEVEL": "DEBUG", "PQ_TEST_LEAKS": str(leaks)}
        with running(dsn, folder, environment=environment, **options) as worker:
            for name, task_id in ids.items():
                if name == "snoozes":
                    eventually(lambda: (r := pq.get_task(ids["snoozes"])) and r.snoozes)
                    continue
                eventually(lambda task_id=task_id: (r := pq.get_task(task_id)) and r.status.finished, within=PATIENCE)  # type: ignore[misc]
            assert worker.stop() == 0, worker.text
            # What the task prints itself is its own affair: it goes on to the worker's output, and nowhere else.
            log = "\n".join(line for line in worker.text.splitlines() if line not in (SECRET, f"printed {SECRET}"))
        records = {name: pq.get_task(task_id) for name, task_id in ids.items()}
        yield Scene(dsn, pq, records, leaks.read_text(), log)  # type: ignore[arg-type]


def test_they_end_as_others_do(scene: Scene) -> None:
    for name, (_, outcome) in CALLS.items():
        if name != "snoozes":
            assert scene.records[name].outcome is outcome, scene.records[name]
    assert scene.records["works"].result == SECRET
    assert scene.records["works"].progress == 0.5
    assert all(record.sensitive for name, record in scene.records.items() if "by_sql" not in name)


def test_the_plugins_were_called_and_saw_nothing(scene: Scene) -> None:
    for hook in ("pre_fork", "in_child", "raised", "post_task", "task_died"):
        assert f"{hook} " in scene.leaks
    assert "KeyError" in scene.leaks
    assert SECRET not in scene.leaks


def test_the_hook_at_enqueue_sees_no_arguments(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQ_TEST_LEAKS", str(tmp_path / "leaks"))
    monkeypatch.setenv("PQ_DATABASE_URL", database)
    with tasks.create_pq() as pq:
        pq.enqueue(tasks.fails.call(SECRET))
        pq.enqueue(tasks.plain.call("of another"))
    said = (tmp_path / "leaks").read_text()
    assert "before_enqueue" in said
    assert "of another" in said
    assert SECRET not in said


def test_the_log_of_the_worker_says_nothing(scene: Scene) -> None:
    assert "(s.fails) attempt 1 of 1 raised" in scene.log
    assert SECRET not in scene.log


def test_no_table_holds_it_beside_payload_and_result(scene: Scene) -> None:
    with psycopg.connect(scene.dsn) as connection:
        tables = [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        for table in tables:
            statement = sql.SQL("SELECT (to_jsonb(t) - ARRAY['payload', 'result'])::text FROM {} t")
            for (row,) in connection.execute(statement.format(sql.Identifier(table))):
                assert SECRET not in row, table


def test_of_errors_types_and_frames_are_kept(scene: Scene) -> None:
    error = str(scene.records["fails"].error)
    assert "ValueError: (hidden: the task is sensitive)" in error
    assert "KeyError: (hidden: the task is sensitive)" in error
    assert "sealed_tasks.py" in error
    assert ", in fails" in error
    assert "raise KeyError" not in error
    assert scene.records["fails_by_sql"].error == error
    assert "PayloadDecodeError: (hidden" in str(scene.records["misfits_by_sql"].error)
    assert scene.records["lingers_by_sql"].outcome is Outcome.TIMED_OUT
    assert "ValueError: (hidden" in str(scene.records["lingers_by_sql"].error)
    groups = str(scene.records["groups"].error)
    assert "LookupError: (hidden" in groups
    assert "faulthandler" not in error
    assert "crashes" in str(scene.records["crashes"].error)
    assert "timed out" in str(scene.records["overruns"].error)
    assert "the result can't be stored" in str(scene.records["returns_unstorable"].error)
    for record in scene.records.values():
        assert SECRET not in str(record.error)
        assert record.output is None
        for attempt in scene.pq.attempts(record.id):
            assert SECRET not in repr(attempt)


@pytest.mark.parametrize("name", [*CALLS])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_command_line_does_not_show_it(scene: Scene, name: str, form: list[str]) -> None:
    for command in (["show", str(scene.records[name].id)], ["list", "--queue", "default"]):
        environment = {"PQ_DATABASE_URL": scene.dsn, "COLUMNS": "500"}
        result = CliRunner().invoke(root, ["tasks", *command, *form], env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert f"s.{name}" in result.output
        assert SECRET not in result.output


def test_a_schedule_does_not_show_it(database: str) -> None:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        pq.schedule(tasks.fails.call(SECRET), run_every=timedelta(hours=1), key="k")
        task_id = pq.run_schedule_now(tasks.fails, key="k")
        record = pq.get_task(task_id)
        assert record is not None
        assert record.sensitive
        (schedule,) = pq.list_schedules()
        assert schedule.sensitive
        assert SECRET not in repr(schedule.shown())
    result = CliRunner().invoke(root, ["schedules", "show", "s.fails", "--key", "k"], env={"PQ_DATABASE_URL": database})
    listed = CliRunner().invoke(root, ["schedules", "list", "--json"], env={"PQ_DATABASE_URL": database})
    assert (result.exit_code, listed.exit_code) == (0, 0), result.output + listed.output
    assert SECRET not in result.output + listed.output


def test_a_call_does_not_show_its_arguments() -> None:
    assert SECRET not in repr(tasks.fails.call(SECRET))
    assert repr(tasks.plain.call("x")) == "<Call s.plain('x')>"


def test_what_was_enqueued_by_code_of_the_first_schema_still_runs(database: str) -> None:
    with PQ(database, tasks=[tasks.__name__]) as pq, psycopg.connect(database, autocommit=True) as connection:
        for value in (False, None):
            spec = psycopg.types.json.Jsonb({"name": "s.plain", "args": ["x"], "sensitive": value})
            connection.execute("SELECT pq_enqueue(%s)", (spec,))
        with pytest.raises(psycopg.errors.InvalidParameterValue, match='"sensitive" must be true or false'):
            connection.execute("SELECT pq_enqueue(%s)", (psycopg.types.json.Jsonb({"name": "x", "sensitive": 1}),))
        assert [ended.status for ended in pq.run_inline()] == [TaskStatus.COMPLETED] * 2
