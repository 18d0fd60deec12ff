"""The examples run: exactly the commands of their README, on a database without tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.acceptance.pages import ROOT, Session, run_console
from tests.extras import needs

NEEDS = {
    "dashboard": ["fastapi", "uvicorn", "jinja2"],
    "django": ["django"],
    "fastapi": ["fastapi", "uvicorn", "asyncpg"],
    "plugins": ["opentelemetry"],
    "sqlalchemy": ["asyncpg", "greenlet"],
}
"""Optional modules that an example is about."""
EXAMPLES = [
    pytest.param(path.parent, id=path.parent.name, marks=needs(*NEEDS.get(path.parent.name, [])))
    for path in sorted((ROOT / "examples").glob("*/README.md"))
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_prints_what_its_readme_shows(example: Path, tmp_path: Path, empty_database: str) -> None:
    folder = shutil.copytree(example, tmp_path / example.name)
    session = Session(folder, dsn=empty_database)

    try:
        run_console(example / "README.md", session)
    finally:
        session.end()
