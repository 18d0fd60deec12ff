"""The pages of the adapters show what happens: their files and snippets run on a real database, beside a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from pq_adapters.sqlalchemy import engine_url
from tests.acceptance.pages import ROOT, Session, run_snippets, write_files

PAGES = {"sqlalchemy": "shop:pq", "fastapi": None, "custom": None}
"""The pages, and what a worker serves meanwhile."""


@pytest.mark.parametrize("name", PAGES)
def test_snippets_run(name: str, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = engine_url(database).set(drivername="postgresql")
    monkeypatch.setenv("ASYNCPG_URL", url.render_as_string(hide_password=False))
    page = ROOT / "docs" / "adapters" / f"{name}.md"
    session = Session(tmp_path, dsn=database)
    write_files(page, session.folder)
    try:
        if app := PAGES[name]:
            session.run(f"pq worker {app} &")
        run_snippets(page, session)
        session.stop()
    finally:
        session.end()
