"""What the documentation shows is what happens: its commands, files and snippets run on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pages import BEFORE, FENCE, ROOT, Session, run_console, run_snippets, write_files

CONSOLES = ["README.md", "docs/quickstart.md"]
SNIPPETS = {
    "docs/tasks.md": "app:pq",
    "docs/payloads.md": "app:pq",
    "docs/database.md": None,
    "docs/tenants.md": "tenants:pq",
    "docs/deploys.md": None,
    "docs/schedules.md": None,
    "docs/coming-from/celery.md": "packing:pq",
    "docs/coming-from/rq.md": "app:pq",
    "docs/coming-from/python-pq.md": None,
}
"""Pages with snippets, and what a worker serves meanwhile."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path, dsn="")
    yield session
    session.end()


@pytest.mark.parametrize("name", CONSOLES)
def test_commands_print_what_the_page_shows(name: str, session: Session, empty_database: str) -> None:
    session.dsn = empty_database
    write_files(ROOT / name, session.folder)

    run_console(ROOT / name, session)


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run(name: str, session: Session, database: str) -> None:
    session.dsn = database
    write_files(ROOT / name, session.folder)
    if (app := SNIPPETS[name]) is not None:
        session.run(f"pq worker {app} &")

    run_snippets(ROOT / name, session)

    session.stop()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "coming-from").glob("*.md")), ids=lambda page: page.stem)
def test_what_others_had_stands_beside_what_is_here(page: Path) -> None:
    name = str(page.relative_to(ROOT))

    blocks = [code for language, code in FENCE.findall(page.read_text()) if language == "python"]

    assert name in SNIPPETS
    assert any(code.startswith(BEFORE) for code in blocks)
    assert any(not code.startswith(BEFORE) for code in blocks)
