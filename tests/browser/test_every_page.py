"""Every page, at every width and in both themes: what is too long, what is out of reach, what a screen reader lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser import shop
from tests.browser.dashboard import Site, Visitor
from tests.integration.worker_process import eventually

WIDTHS = (320, 768, 861, 1024, 1280, 1366, 1920)
THEMES: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1366), ("dark", 390))
PATHS = (
    "/", "/tasks", "/tasks?state=failed", "/tasks?state=held", "/tasks?priority=much", "/tasks/bulk?action=retry",
    "/failures", "/failures?within=15m", "/schedules", "/schedules/1", "/schedules/1/edit", "/schedules/new",
    "/calls/new", "/queues", "/limits", "/workers", "/functions",
    "/function/run?name=shop.charge_card", "/tasks?sort=-took", "/keys", "/nowhere",
)  # fmt: skip
AXE = Axe().axe_script

# What can be used must be inside the window and inside each box around it that cuts; text must be inside its own.
MEASURE = """
() => {
  const told = (node) => `<${node.localName} class="${node.className}"> ${node.innerText.trim().slice(0, 30)}`;
  const actions = "button, .button, select, textarea, input:not(.unseen, [type=hidden])";
  const texts = "main :is(td, th, dd, dt, p, h1, header, .head, .row, .spread, .tile)";
  const look = (menu) => {
    const wrong = [];
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) wrong.push(`the page is ${wide} px wide`);
    for (const node of document.querySelectorAll(actions)) {
      if (!node.checkVisibility()) continue;
      const box = node.getBoundingClientRect();
      if (box.left < -1 || box.right > innerWidth + 1) wrong.push(`out of the window: ${told(node)}`);
      for (let around = node.parentElement; around; around = around.parentElement) {
        const edge = around.getBoundingClientRect();
        const cut = box.left < edge.left - 1 || box.right > edge.right + 1;
        if (cut && getComputedStyle(around).overflowX !== "visible")
          wrong.push(`cut off by <${around.localName} class="${around.className}">: ${told(node)}`);
      }
    }
    for (const node of document.querySelectorAll(texts))
      if (node.clientWidth && node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX === "visible")
        wrong.push(`text ${node.scrollWidth} px wide in ${node.clientWidth}: ${told(node)}`);
    return wrong.map((one) => menu + one);
  };
  const wrong = look("");
  for (const menu of document.querySelectorAll("details.menu")) {
    menu.open = true;
    wrong.push(...look("with a menu open, "));
    menu.open = false;
  }
  return wrong;
}
"""
# A chart is one image with a label; what it is drawn of says nothing more, and takes seconds.
LISTEN = """
() => axe.run({exclude: [["svg.chart > *"]]}, {resultTypes: ["violations"]}).then((found) =>
  found.violations.map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.target.join(" ")).join(", ")}`))
"""


def long(word: str) -> str:
    """Return a name of 60 characters that can't be broken between words."""
    return word.ljust(60, "x")


@contextmanager
def filled(site: Site) -> Iterator[dict[str, str]]:
    """Have something of everything, with the longest names that are likely; yield the pages to look at."""
    pq, queue, lane, name = site.pq, long("queue_"), long("tenant_"), shop.settle.name
    assert len(name) == 60
    zone = "America/Argentina/ComodRivadavia"
    pq.schedule(shop.settle.call("oslo"), cron="*/7 6-20 1,15 * 1-5", timezone=zone, key=long("key"))
    failing = shop.settle.options(client_id=long("client_"), headers={long("header_"): long("value_")})
    failed = pq.enqueue(failing.call(long("fails_"), **{shop.WORD: "word " * 1000}))
    pq.enqueue_many([shop.send_receipt.call(order) for order in range(3)])
    pq.enqueue(shop.resize_image.call("broken.png"))
    with site.worker(until_empty=True) as worker:
        assert worker.wait(60) == 0
    running = pq.enqueue(shop.transcode.options(queue=queue).call(long("film_"), seconds=600.0))
    limited = shop.settle.options(queue=queue, concurrency_key=lane, concurrency_limit=1)
    held = [pq.enqueue(limited.call(long("town_"))) for _ in range(3)][-1]
    later = pq.enqueue(shop.settle.options(queue=queue, run_in=timedelta(hours=2)).call("later"))
    pq.limit_queue(queue, concurrency=5, rate="100/5m")
    with site.worker(queues=[queue], concurrency=2):
        eventually(lambda: site.state(running) == "running")
        pq.pause_queue(queue, by=long("somebody_"))
        pq.pause_queue("mail", by=long("somebody_"))
        with psycopg.connect(site.dsn, autocommit=True) as connection:
            connection.execute("UPDATE pq_workers SET name = rpad(name, 60, 'x'), host = rpad(host, 60, 'x')")
            found = connection.execute("SELECT id FROM pq_workers ORDER BY id DESC LIMIT 1").fetchone()
        assert found is not None
        yield {
            **{path: path for path in PATHS},
            "its filter": f"/tasks?queue={queue}&name={name}&key={lane}",
            "failed": f"/tasks/{failed}",
            "running": f"/tasks/{running}",
            "held": f"/tasks/{held}",
            "later": f"/tasks/{later}",
            "bulk": f"/tasks/bulk?action=retry&state=failed&name={name}&client_id={long('client_')}",
            "queue": f"/queue?name={queue}",
            "key": f"/limits?key={lane}",
            "function": f"/function?name={name}",
            "run": f"/function/run?name={name}",
            "stop": f"/workers/{found[0]}/stop",
        }


@pytest.mark.timeout(300)
def test_nothing_is_out_of_reach_at_any_width_and_axe_finds_nothing(site: Site) -> None:
    site.keys["admin"] = site.pq.create_key(long("admin_"), role="admin").key
    with filled(site) as pages:
        visitor = site.visitor("admin", color_scheme="light")
        wrong = []
        for title, path in pages.items():
            page = visitor.go(path)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                wrong += [f"{title} at {width}: {one}" for one in page.evaluate(MEASURE)]
            wrong += [f"{title}, {one}" for one in read_aloud(visitor)]
        box = visitor.go(pages["failed"]).locator(".facts .long")
        tall, shown = box.evaluate("(node) => [node.scrollHeight, node.clientHeight]")
        assert shown < 300 < tall  # a long argument scrolls in its box
        wrong += [f"login, {one}" for one in read_aloud(site.visitor(None), "/login")]
        assert wrong == [], "\n".join(wrong)
    visitor.complaints = [one for one in visitor.complaints if "404" not in one and "422" not in one]


def read_aloud(visitor: Visitor, path: str | None = None) -> list[str]:
    """Return what axe finds on the page: light and wide, dark and narrow."""
    page: Page = visitor.page if path is None else visitor.go(path)
    wrong = []
    page.evaluate(AXE)
    for theme, width in THEMES:
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 900})
        wrong += [f"{theme} at {width}: {one}" for one in page.evaluate(LISTEN)]
    return wrong
