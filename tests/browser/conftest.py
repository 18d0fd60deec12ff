"""A browser for the run, and a dashboard for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from pq_core import PQ
from tests.browser.dashboard import ENV, Site, chromium, served


# By module: while playwright runs, its event loop counts as running in this thread, and no other test could have one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return the browser of this run."""
    path = chromium()
    if path is None:
        pytest.skip(f"no chromium is installed: apt-get install chromium, or say where one is in {ENV}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def site(browser: Browser, database: str, tmp_path: Path) -> Iterator[Site]:
    """Serve the dashboard of the shop; at the end no window may have complained, nor asked another host."""
    pq = PQ(database, tasks=["tests.browser.shop"], app="shop")
    keys = {role: pq.create_key(f"the {role}", role=role).key for role in ("viewer", "operator", "admin")}
    with pq, served(database, tmp_path / "dashboard.log") as url:
        found = Site(browser=browser, dsn=database, pq=pq, url=url, keys=keys, folder=tmp_path)
        yield found
        for visitor in found.visitors:
            visitor.context.close()
    assert [complaint for visitor in found.visitors for complaint in visitor.complaints] == []
    assert [url for visitor in found.visitors for url in visitor.foreign] == []
    assert "Traceback" not in (tmp_path / "dashboard.log").read_text()
