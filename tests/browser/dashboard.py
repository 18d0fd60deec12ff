"""A real dashboard before a real browser: `pq dashboard` in a process of its own, a worker where a test wants one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from pq_core import PQ
from tests.integration.worker_process import PATIENCE, ROOT, WorkerProcess, eventually, running

APP = "tests.browser.shop:create_pq"
ENV = "PQ_TEST_CHROMIUM"

# What the page itself can't swallow: the browser tells of every violation of the policy.
_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


def chromium() -> str | None:
    """Return where a chromium is: the package's name differs by system."""
    names = [os.environ.get(ENV), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@dataclass
class Visitor:
    """Somebody with a browser window, and everything that the browser complained of."""

    context: BrowserContext
    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        """Open a page of the dashboard."""
        self.page.goto(f"{self.url}{path}", wait_until="load")
        return self.page

    def log_in(self, key: str) -> Page:
        """Log in by the form."""
        page = self.go("/login")
        page.fill("#key", key)
        page.click("text=Log in")
        return page

    def said(self, message: ConsoleMessage) -> None:
        """Take down what stands in the console."""
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url')})")


@dataclass
class Site:
    """A served dashboard. ``keys``: one for each role."""

    browser: Browser
    dsn: str
    pq: PQ
    url: str
    keys: dict[str, str]
    folder: Path
    visitors: list[Visitor] = field(default_factory=list)

    def visitor(self, role: str | None = "admin", **options: Any) -> Visitor:
        """Open a window, logged in unless the role is None."""
        context = self.browser.new_context(
            **{"viewport": {"width": 1360, "height": 900}, "timezone_id": "Europe/Berlin", "locale": "en-GB", **options}
        )
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(_TELL_VIOLATIONS)
        visitor = Visitor(context=context, page=context.new_page(), url=self.url)
        visitor.page.on("console", visitor.said)
        visitor.page.on("pageerror", lambda error: visitor.complaints.append(f"uncaught: {error}"))
        host = self.url.removeprefix("http://")
        context.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((f"http://{host}/", "data:", "about:"))
                else visitor.foreign.append(request.url)
            ),
        )
        self.visitors.append(visitor)
        if role is not None:
            visitor.log_in(self.keys[role])
            visitor.page.wait_for_selector("h1:has-text('Overview')")
        return visitor

    @contextmanager
    def worker(self, *, environment: dict[str, str] | None = None, **options: Any) -> Iterator[WorkerProcess]:
        """Run a worker of the shop."""
        environment = {"SHOP_BANK": str(self.folder / "bank"), **(environment or {})}
        with running(self.dsn, self.folder, app=APP, environment=environment, **options) as worker:
            yield worker

    def open_bank(self) -> None:
        """Let cards be charged from now on."""
        (self.folder / "bank").touch()

    def state(self, task_id: int) -> str:
        """Return the state of a task, as the database has it."""
        task = self.pq.get_task(task_id)
        assert task is not None
        return task.status.value


@contextmanager
def served(dsn: str, log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "pq_core", "dashboard", APP, "--factory", "--port", "0"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    variables |= {"PQ_DATABASE_URL": dsn, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=variables)
    try:
        found = eventually(
            lambda: re.search(r"http://localhost:\d+", log.read_text()) or process.poll() is not None,
            what="the dashboard's address",
        )
        assert isinstance(found, re.Match), log.read_text()
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
