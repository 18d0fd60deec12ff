"""The real command line, in processes of its own, against a real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[2]

APP = """
import sys
from datetime import date
from pq_core import PQ, TaskGroup

jobs = TaskGroup(prefix="shop", queue="orders")
pq = PQ(app="shop", tasks=["shop"])

def create():
    return pq

@jobs.task(name="receipt", max_attempts=2, timeout=30)
def receipt(order: int, *, copy: bool = False) -> str:
    return f"receipt {order} {copy}"

@jobs.task(name="on_day")
def on_day(day: date) -> str:
    return type(day).__name__

@jobs.task(name="modules")
def modules() -> list:
    return sorted({name.partition(".")[0] for name in sys.modules} & {"click", "rich", "sqlalchemy", "alembic"})

@jobs.task(name="fails")
def fails() -> None:
    raise RuntimeError("no paper")
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def environment(database: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PQ_", "PG"))}
    return {**kept, "PQ_DATABASE_URL": database, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def pq(folder: Path, environment: dict[str, str]) -> Run:
    def run(*words: object, status: int = 0, **variables: str | None) -> subprocess.CompletedProcess[str]:
        said = {**environment, **{name: value for name, value in variables.items() if value is not None}}
        for name in [name for name, value in variables.items() if value is None]:
            said.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-m", "pq_core", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=said,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        if status != 1:
            assert "Traceback" not in done.stderr
        return done

    return run


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def drain(pq: Run, *words: str) -> subprocess.CompletedProcess[str]:
    return pq("worker", "shop:pq", "--until-empty", "--concurrency", "2", "--poll-interval", "0.1", *words)


def test_enqueued_task_is_run_by_the_worker_and_shown(pq: Run) -> None:
    task_id = int(pq("enqueue", "shop:pq", "shop.receipt", "7", "copy=true").stdout)

    drain(pq)

    shown = printed(pq("tasks", "show", task_id, "--json"))
    assert shown["task"]["status"] == "completed"
    assert shown["task"]["result"] == "receipt 7 True"
    assert shown["attempts"] == []
    assert "receipt 7 True" in pq("tasks", "show", task_id).stdout


def test_image_that_forks_holds_none_of_the_command_lines_libraries(pq: Run) -> None:
    task_id = int(pq("enqueue", "shop:pq", "shop.modules").stdout)

    drain(pq)

    assert printed(pq("tasks", "show", task_id, "--json"))["task"]["result"] == []


def test_waiting_enqueue_prints_the_result(pq: Run, folder: Path, environment: dict[str, str]) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "pq_core", "worker", "shop:create", "--factory"], cwd=folder, env=environment
    )
    try:
        done = pq("enqueue", "shop:pq", "shop.on_day", "2026-01-31", "--wait", "30s", "--json")
        failed = pq("enqueue", "shop:pq", "shop.fails", "--wait", "30", status=1)
        listed = printed(pq("workers", "--json"))
    finally:
        worker.send_signal(signal.SIGTERM)

    assert printed(done)["result"] == "date"
    assert failed.stderr.startswith("pq: task ")
    assert "no paper" in failed.stderr
    assert [(one["app"], one["alive"]) for one in listed] == [("shop", True)]
    assert worker.wait(20) == 0


def test_sigterm_ends_worker_and_leaves_nothing_running(pq: Run, folder: Path, environment: dict[str, str]) -> None:
    worker = subprocess.Popen([sys.executable, "-m", "pq_core", "worker", "shop:pq"], cwd=folder, env=environment)
    until = time.monotonic() + 20
    while not printed(pq("workers", "--json")) and time.monotonic() < until:
        time.sleep(0.1)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(20) == 0
    assert printed(pq("workers", "--json")) == []


def test_options_of_enqueue_reach_the_row(pq: Run) -> None:
    words = ["--priority", "high", "--queue", "q", "--client-id", "c-1", "--run-in", "2h"]
    task_id = int(pq("enqueue", "shop:pq", "shop.receipt", "--kwargs", '{"order": 3}', *words).stdout)

    task = printed(pq("tasks", "show", task_id, "--json"))["task"]

    assert (task["priority"], task["queue"], task["client_id"]) == (75, "q", "c-1")
    assert task["payload"] == {"args": [], "kwargs": {"order": 3}}
    assert task["status"] == "pending"


def test_taken_client_id_is_a_negative_answer(pq: Run) -> None:
    first = pq("enqueue", "shop:pq", "shop.receipt", "1", "--client-id", "c").stdout

    second = pq("enqueue", "shop:pq", "shop.receipt", "2", "--client-id", "c", status=1)
    third = pq("enqueue", "shop:pq", "shop.receipt", "2", "--client-id", "c", "--on-duplicate", "return")

    assert "'c'" in second.stderr
    assert third.stdout == first


def test_failed_tasks_are_listed_and_retried_by_filter(pq: Run) -> None:
    for _ in range(2):
        pq("enqueue", "shop:pq", "shop.fails")
    pq("enqueue", "shop:pq", "shop.receipt", "1")
    drain(pq)

    failed = printed(pq("tasks", "list", "--status", "failed", "--error", "NO PAPER", "--json"))
    asked = pq("tasks", "retry", "--name", "shop.fails", status=2)
    retried = pq("tasks", "retry", "--name", "shop.fails", "--yes", "--json")

    assert [task["name"] for task in failed] == ["shop.fails"] * 2
    assert asked.stderr == "pq: 2 failed would be meant; add --yes to retry them\n"
    assert printed(retried) == {"retried": 2, "refused": []}
    assert printed(pq("stats", "--finished", "--json"))["due"] == 2


def test_table_lists_one_line_a_task(pq: Run) -> None:
    pq("enqueue", "shop:pq", "shop.receipt", "1")
    pq("enqueue", "shop:pq", "shop.fails")

    lines = pq("tasks", "list").stdout.splitlines()

    assert lines[0].split() == ["ID", "STATUS", "NAME", "QUEUE", "PRIORITY", "TRIES", "WHEN", "ERROR"]
    assert "shop.fails()" in lines[1]
    assert "shop.receipt(1)" in lines[2]


def test_cancel_by_ids_tells_which_it_could_not(pq: Run) -> None:
    task_id = int(pq("enqueue", "shop:pq", "shop.receipt", "1").stdout)

    done = pq("tasks", "cancel", task_id, 999, "--reason", "gone", status=1)

    assert done.stdout == "cancelled 1 of 2\n"
    assert done.stderr == "task 999: it has finished, or is not there\n"
    assert printed(pq("tasks", "list", "--status", "cancelled", "--json"))[0]["id"] == task_id


def test_filter_that_matches_nothing_changes_nothing(pq: Run) -> None:
    assert pq("tasks", "cancel", "--queue", "nowhere").stdout == "cancelled 0\n"


def test_ids_and_filter_together_are_refused(pq: Run) -> None:
    assert "not both" in pq("tasks", "retry", "1", "--status", "failed", status=2).stderr
    assert "give ids" in pq("tasks", "retry", status=2).stderr


def test_prune_deletes_what_ended_long_ago(pq: Run, database: str) -> None:
    pq("enqueue", "shop:pq", "shop.receipt", "1")
    pq("enqueue", "shop:pq", "shop.fails")
    drain(pq)
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE pq_tasks SET completed_at = completed_at - interval '8 days'")

    assert printed(pq("prune", "--older-than", "9d", "--json")) == {"deleted": 0}
    assert pq("prune", "--older-than", "7d", "--status", "failed").stdout == "deleted 1\n"
    assert pq("prune", "--older-than", "7d").stdout == "deleted 1\n"
    assert printed(pq("prune", "--older-than", "7d", "--audit", "--json")) == {"deleted": 0}
    assert "--audit goes without" in pq("prune", "--older-than", "7d", "--audit", "--status", "failed", status=2).stderr


def test_registered_and_check_need_no_database(pq: Run) -> None:
    registered = printed(pq("tasks", "registered", "shop:pq", "--json", PQ_DATABASE_URL=None))
    checked = printed(pq("check", "shop:pq", "--json", PQ_DATABASE_URL=None))

    assert [task["name"] for task in registered] == ["shop.fails", "shop.modules", "shop.on_day", "shop.receipt"]
    assert (checked["queues"], checked["problems"]) == (["default", "orders"], [])
    assert "no problem found" in pq("check", "shop:pq", "--database").stdout


def test_check_finds_threads_only_fatal_with_strict(pq: Run, folder: Path) -> None:
    thread = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True, name='ticker').start()\n"
    )
    (folder / "threaded.py").write_text(thread + APP.replace("shop", "threaded"))

    assert "ticker" in pq("check", "threaded:pq").stdout
    assert "ticker" in pq("check", "threaded:pq", "--strict", status=1).stdout


def test_check_finds_an_unreachable_database(pq: Run) -> None:
    found = pq("check", "shop:pq", "--database", status=1, PQ_DATABASE_URL="host=127.0.0.1 port=1 dbname=x")

    assert "problem: " in found.stdout


def test_migrate_creates_tables_and_says_so(pq: Run, empty_database: str) -> None:
    first = pq("migrate", "--dsn", empty_database, "--schema", 'o"dd')
    second = printed(pq("migrate", "--dsn", empty_database, "--schema", 'o"dd', "--json"))

    assert "from no tables to revision" in first.stdout
    assert second["before"] == second["after"]
    assert pq("stats", "--dsn", empty_database, "--schema", 'o"dd').stdout.startswith("nothing waits")


def test_migrate_follows_the_applications_schema(pq: Run, folder: Path, empty_database: str) -> None:
    (folder / "elsewhere.py").write_text(f"from pq_core import PQ\npq = PQ({empty_database!r}, schema='jobs')\n")

    assert pq("migrate", "elsewhere:pq", PQ_DATABASE_URL=None).stdout.startswith("schema jobs: from no tables")
    assert printed(pq("stats", "--json", PQ_APP="elsewhere:pq", PQ_DATABASE_URL=None))["workers"] == 0


def test_migrate_goes_past_the_applications_pooler(pq: Run, folder: Path, empty_database: str) -> None:
    (folder / "pooled.py").write_text(
        f"from pq_core import PQ\npq = PQ('host=127.0.0.1 port=1', listen_dsn={empty_database!r})\n"
    )

    assert "from no tables" in pq("migrate", "pooled:pq", PQ_DATABASE_URL=None).stdout


def test_path_in_place_of_a_module_is_told(pq: Run) -> None:
    for words in (("worker", "./shop.py:pq"), ("check", ".shop:pq")):
        said = pq(*words, status=2).stderr
        assert "not a path" in said
        assert "Traceback" not in said


def test_unknown_state_to_prune_is_told(pq: Run) -> None:
    said = pq("prune", "--older-than", "1d", "--status", "done", status=2).stderr
    assert "give one of pending" in said
    assert "Traceback" not in said


def test_migration_as_sql_touches_no_database(pq: Run) -> None:
    script = pq("migrate", "--sql", "--schema", "jobs", PQ_DATABASE_URL=None).stdout

    assert "CREATE TABLE" in script
    assert "pq_alembic_version" in script


def test_plugins_says_who_implements_what(pq: Run, folder: Path) -> None:
    plugin = "class Counter:\n    def pq_post_task(self, task, outcome): ...\n"
    (folder / "plugged.py").write_text(f"from pq_core import PQ\n{plugin}\npq = PQ(plugins=[Counter()])\n")

    assert printed(pq("plugins", "plugged:pq", "--json")) == {"pq_post_task": ["plugged.Counter"]}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_pq(pq: Run, shell: str) -> None:
    assert "_PQ_COMPLETE" in pq("completion", shell).stdout


def test_completion_completes_commands_and_options(pq: Run) -> None:
    asked = pq(_PQ_COMPLETE="bash_complete", COMP_WORDS="pq tas", COMP_CWORD="1")
    options = pq(_PQ_COMPLETE="bash_complete", COMP_WORDS="pq worker --un", COMP_CWORD="2")

    assert asked.stdout.split() == ["plain,tasks"]
    assert options.stdout.split() == ["plain,--until-empty"]


def test_worker_check_reports_about_the_image(pq: Run) -> None:
    report = pq("worker", "shop:pq", "--check").stdout

    assert "one fork, exit and wait:" in report
    assert "shop.receipt" in report


@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        (["stats"], {"PQ_DATABASE_URL": None}, "no database is configured"),
        (["stats", "--dsn", "mysql://u:secret@h/d"], {}, "needs a Postgres database"),
        (["stats", "--dsn", "host=127.0.0.1 port=1 dbname=x"], {}, "port 1"),
        (["stats", "--schema", "nowhere"], {}, "pq migrate"),
        (["tasks", "list", "--status", "done"], {}, "pending"),
        (["check", "nothing.here:pq"], {}, "there is no module"),
        (["check", "shop:queue"], {}, "shop has no queue"),
        (["check", "shop:jobs"], {}, "not a PQ"),
        (["enqueue", "shop:pq", "shop.receit", "1"], {}, "did you mean 'shop.receipt'"),
        (["enqueue", "shop:pq", "shop.receipt"], {}, "missing a required argument"),
        (["enqueue", "shop:pq", "shop.on_day", "tomorrow"], {}, "day"),
        (["enqueue", "shop:pq", "shop.receipt", "{1"], {}, "is not JSON"),
        (["worker", "nothing:pq"], {}, "there is no module"),
        (["worker", "shop:pq", "--lease", "1"], {}, "--lease"),
        (["worker", "shop:pq", "--priorities", "urgent"], {}, "urgent"),
        (["worker", "shop:pq"], {"PQ_WORKER_TASKS_PER_CHILD": "0"}, "--tasks-per-child"),
        (["worker", "shop:pq", "--until-empty"], {"PQ_DATABASE_URL": "mysql://u:secret@h/d"}, "Postgres"),
        (["worker", "shop:pq", "--plugin", "shop:missing"], {}, "missing"),
    ],
)
def test_mistake_is_one_line_that_says_the_fix(pq: Run, words: list[str], variables: dict[str, Any], says: str) -> None:
    done = pq(*words, status=2, **variables)

    line = done.stderr.splitlines()[0]
    assert line.startswith("pq")
    assert says in done.stderr
    assert "secret" not in done.stderr
    assert done.stdout == ""


def test_database_without_tables_says_migrate(pq: Run, empty_database: str) -> None:
    for words in (["stats"], ["enqueue", "shop:pq", "shop.receipt", "1"], ["worker", "shop:pq", "--until-empty"]):
        assert "pq migrate" in pq(*words, status=2, PQ_DATABASE_URL=empty_database).stderr


def test_unknown_command_gets_a_suggestion(pq: Run) -> None:
    assert "did you mean 'worker'?" in pq("wroker", status=2).stderr


def test_missing_task_is_a_negative_answer(pq: Run) -> None:
    assert pq("tasks", "show", "4711", status=1).stderr.startswith("pq: there is no task 4711")


def test_error_in_the_users_module_shows_its_traceback_without_ours(pq: Run, folder: Path) -> None:
    (folder / "broken.py").write_text("def setting():\n    return {}['missing']\n\nvalue = setting()\n")

    said = pq("check", "broken:pq", status=1).stderr

    assert "KeyError: 'missing'" in said
    assert 'broken.py", line 4' in said
    assert "pq_adapters" not in said
    assert said.endswith("pq: loading broken:pq raised KeyError\n")


def test_worker_takes_its_options_from_the_environment(pq: Run) -> None:
    pq("enqueue", "shop:pq", "shop.receipt", "1")
    variables = {"PQ_WORKER_UNTIL_EMPTY": "1", "PQ_WORKER_QUEUES": "other", "PQ_LEASE": "10", "PQ_APP": "shop:pq"}

    pq("worker", **variables)

    assert printed(pq("stats", "--json"))["due"] == 1


def test_version_and_interpreter_flags(pq: Run, folder: Path, environment: dict[str, str]) -> None:
    from pq_core import __version__

    checked = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "pq_core", "worker", "shop:pq", "--check"],
        cwd=folder,
        env={**environment, "PYTHONVERBOSE": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert pq("--version").stdout == f"pq, version {__version__}\n"
    assert "tasks: " in checked.stdout
