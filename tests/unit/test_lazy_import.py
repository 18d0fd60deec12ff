from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pq_core

ROOT = Path(__file__).parents[2]
HEAVY = {"psycopg", "sqlalchemy", "alembic", "pluggy", "pydantic", "click", "croniter", "asyncio", "django"}
LATER = {"psycopg_binary", "ssl", "rich", "email", "hashlib", "pickle", "random", "subprocess", "tempfile"}
IMAGE = HEAVY | LATER
"""What the image that a worker forks from should not hold for nothing: each task pays for it."""


def loaded_after(code: str, **environment: str) -> set[str]:
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def test_the_package_loads_nothing_but_itself() -> None:
    loaded = loaded_after("import pq_core")

    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("pq_core")} == {"pq_core"}


@pytest.mark.parametrize(
    "code",
    [
        "from pq_core import TaskGroup, TaskOptions, Backoff, Priority, Retry, Snooze, Cancel, call, role",
        "from pq_core import current_attempt",
        "from pq_core import TaskGroup\n@TaskGroup('x').task\ndef f(a: int): ...\nf.call(1).options(priority=3)",
    ],
)
def test_declaring_and_calling_tasks_loads_no_driver(code: str) -> None:
    assert not HEAVY & loaded_after(code)


APPLICATION = """
from pq_core import PQ, Priority, TaskGroup
jobs = TaskGroup(prefix="app")
@jobs.task(priority=Priority.HIGH, max_attempts=3)
def f(a: int) -> int: ...
pq = PQ("postgresql://localhost/app")
pq.include(jobs)
pq.registry.prepare()
f.call(1)
"""


def test_an_application_loads_neither_driver_nor_asyncio() -> None:
    assert not IMAGE & loaded_after(APPLICATION)


@pytest.mark.parametrize("module", ["host", "program", "application", "run", "rehearsing"])
def test_what_a_worker_imports_before_it_forks_loads_neither_driver_nor_asyncio(module: str) -> None:
    assert not IMAGE & loaded_after(f"import pq_core.worker.{module}")


def test_the_image_that_a_worker_forks_from_holds_neither_driver_nor_asyncio() -> None:
    worker = """
import json, os, sys
from datetime import timedelta
from pq_core.worker.host import Host
from pq_core.worker.options import WorkerOptions
from pq_core.worker.run import supervise

freeze = Host.freeze
def frozen(host):
    freeze(host)
    assert host.declared_schedules is not None
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

Host.freeze = frozen
jobs.task(name="hourly")(lambda: None)
pq.periodic(run_every=timedelta(hours=1))(pq.task(name="tick")(lambda: None))
supervise(pq, WorkerOptions(huge_pages=False))
"""
    # Schedules are written with a digest of their definition; plugins are looked for by importlib.metadata.
    needed = {"pluggy", "hashlib", "email", "random", "tempfile"}
    assert (IMAGE - needed) & loaded_after(APPLICATION + worker) == set()


def test_first_use_of_the_database_loads_the_driver() -> None:
    use = "import contextlib\nwith contextlib.suppress(Exception): PQ('postgresql://host:port/').pending_count()"

    assert "psycopg" in loaded_after(f"{APPLICATION}{use}")


def test_asking_for_the_role_loads_two_leaves() -> None:
    loaded = loaded_after("from pq_core import role")

    assert {name for name in loaded if name.startswith("pq_core.")} == {"pq_core.roles", "pq_core.types"}


@pytest.mark.parametrize(
    ("variable", "role"), [("worker", "worker"), (" CHILD", "child"), ("", "client"), ("nonsense", "client")]
)
def test_the_environment_says_the_first_role(variable: str, role: str) -> None:
    loaded_after(f"import pq_core; assert pq_core.role() == {role!r}, pq_core.role()", PQ_ROLE=variable)


def test_a_role_is_handed_on_but_a_child_starts_clients() -> None:
    loaded_after(
        "import os; from pq_core.roles import role, set_role; from pq_core import Role\n"
        "set_role(Role.WORKER); assert (role(), os.environ['PQ_ROLE']) == ('worker', 'worker')\n"
        "set_role(Role.CHILD); assert (role(), os.environ['PQ_ROLE']) == ('child', 'client')"
    )


def test_children_of_a_worker_that_is_ready_to_fork_start_clients() -> None:
    loaded_after(
        "import os; from pq_core.roles import become_child, ready_to_fork, role, set_role; from pq_core import Role\n"
        "become_child(); assert (role(), os.environ['PQ_ROLE']) == ('child', 'client')\n"
        "set_role(Role.WORKER); ready_to_fork(); assert (role(), os.environ['PQ_ROLE']) == ('worker', 'client')\n"
        "become_child(); assert (role(), os.environ['PQ_ROLE']) == ('child', 'client')\n"
        "set_role(Role.WORKER); become_child(); assert (role(), os.environ['PQ_ROLE']) == ('child', 'client')\n"
        "set_role(Role.CLIENT); assert (role(), os.environ['PQ_ROLE']) == ('client', 'client')"
    )


def test_every_public_name_is_there_and_where_it_is_said_to_be() -> None:
    assert sorted(pq_core.__all__) == sorted(pq_core._HOMES)
    for name, module in pq_core._HOMES.items():
        assert getattr(pq_core, name) is getattr(importlib.import_module(f"pq_core.{module}"), name)
    assert set(pq_core.__all__) <= set(dir(pq_core))


def test_every_error_is_public() -> None:
    errors = importlib.import_module("pq_core.errors")
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and v.__module__ == "pq_core.errors"}

    assert defined <= set(pq_core.__all__)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pq_core.nothing  # noqa: B018
