"""The pictures in the documentation, made with what the tests use: `make screenshots`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.browser import shop
from tests.browser.dashboard import Site
from tests.integration.worker_process import ROOT, eventually

FOLDER = os.environ.get("PQ_SCREENSHOTS")
LARGEST = 200 * 1024
"""Bytes of a picture: they are kept in the repository."""

# What a day would have left behind: nobody waits a day for a picture. More by day than by night, and a few minutes in
# which the bank did not answer.
PAST = """
DELETE FROM pq_statistics WHERE worker_id <> 0;
INSERT INTO pq_statistics (minute, worker_id, queue, name, outcome, count, wait_seconds, run_seconds, cpu_seconds,
    wait_histogram, run_histogram, memory_histogram)
SELECT date_trunc('minute', now()) - m * interval '1 minute', 0, f.queue, f.name, o.outcome, o.count, o.count * 0.1,
    o.count * f.run, o.count * f.run * 0.3,
    ARRAY[20 + swing, o.count / 2 + 1, 28 + swing, o.count / 3, 38 + swing, o.count / 12],
    ARRAY[f.place - 3 + swing / 4, o.count / 8, f.place + swing / 4, o.count / 2 + 1, f.place + 2, o.count / 4,
        f.place + 5 + swing / 2, o.count / 9],
    ARRAY[38, o.count / 2 + 1, 44, o.count / 3]
FROM generate_series(0, 1439) m
CROSS JOIN (VALUES ('mail.send_receipt', 'mail', 90, 0.12, 41, 0.002), ('shop.sync_stock', 'default', 34, 0.2, 44, 0),
    ('media.resize_image', 'media', 26, 0.4, 48, 0.02), ('shop.charge_card', 'default', 18, 0.3, 46, 0.01),
    ('mail.send_newsletter', 'mail', 60, 0.05, 36, 0.06), ('media.transcode', 'media', 2, 42, 75, 0)
) f(name, queue, rate, run, place, failing)
CROSS JOIN LATERAL (SELECT m BETWEEN 22 AND 30 AS closed,
    1 + 0.45 * sin((m + 300) / 230.0) + 0.12 * sin(m * 1.7 + f.place) + 0.1 * sin(m * 0.31) AS busy) w
CROSS JOIN LATERAL (SELECT CASE WHEN closed THEN 9 ELSE (3 * sin(m * 0.9) + 2 * sin(m * 0.23))::int END AS swing) v
CROSS JOIN LATERAL (VALUES
    ('succeeded', CASE WHEN closed AND f.name = 'shop.charge_card' THEN 0.1 ELSE 1 END),
    ('raised', CASE WHEN closed AND f.name = 'shop.charge_card' THEN 0.9 ELSE f.failing * (1 + sin(m * 2.3)) END)
) r(outcome, share)
CROSS JOIN LATERAL (SELECT r.outcome, (f.rate * w.busy * r.share)::int AS count) o
WHERE o.count > 0
"""
TICKS = """
INSERT INTO pq_tasks (id, name, queue, payload, status, outcome, run_at, created_at, started_at, completed_at, due,
    attempts, fence, schedule_id, tick_at, ledger, error)
SELECT 40000 + row_number() OVER (), s.name, s.queue, s.payload, k.status,
    CASE k.status WHEN 'failed' THEN 'timed_out' ELSE 'succeeded' END, k.at, k.at, k.at,
    k.at + interval '2 seconds', true,
    1, 1, s.id, k.at,
    jsonb_build_object('wall', CASE k.status WHEN 'failed' THEN 30.02 ELSE 1.4 + abs(sin(n)) END,
        'cpu_user', 0.3, 'cpu_system', 0.1, 'peak_memory', 18874368),
    CASE k.status WHEN 'failed' THEN 'timed out after 30 s' END
FROM pq_periodic s CROSS JOIN generate_series(1, 49) n
CROSS JOIN LATERAL (SELECT CASE WHEN (n + s.id) % 17 = 3 THEN 'failed' ELSE 'completed' END AS status,
    CASE WHEN s.name = 'reports.sales' THEN date_bin('5 minutes', now(), '2020-01-01') ELSE now() END
        - n * coalesce(s.run_every, interval '5 minutes') AS at) k
WHERE (n * 3 + s.id) % 23 <> 4;
UPDATE pq_periodic SET skipped = 2, last_skipped_at = now() - interval '40 minutes' WHERE name = 'reports.sales';
UPDATE pq_periodic SET last_run = now() - interval '4 minutes'
"""
# A picture shows an application where applications are.
PLACES = """
UPDATE pq_tasks SET error = replace(error, %(root)s, '/srv') WHERE error IS NOT NULL;
UPDATE pq_attempts SET error = replace(error, %(root)s, '/srv') WHERE error IS NOT NULL
"""


@pytest.mark.skipif(FOLDER is None, reason="pictures are made by `make screenshots`")
def test_screenshots(site: Site) -> None:
    pq = site.pq
    with psycopg.connect(site.dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE pq_tasks ALTER id RESTART WITH 48211")
    for tenant, count in ((12, 60), (42, 9), (7, 3)):
        options = shop.send_receipt.options(concurrency_key=f"tenant-{tenant}", concurrency_limit=2, queue="bulk")
        pq.enqueue_many([options.call(i) for i in range(count)])
    pq.enqueue_many([shop.send_receipt.options(queue="bulk").call(i) for i in range(340)])
    pq.enqueue_many([shop.send_receipt.call(1000 + i, copy=i % 3 == 0) for i in range(60)])
    pq.enqueue_many([shop.send_newsletter.call(i) for i in range(30)])
    pq.enqueue_many([shop.charge_card.options(client_id=f"order-{i}").call(i, "19.90") for i in range(14)])
    pq.enqueue_many([shop.resize_image.call(f"{name}.png", width=400) for name in ("broken", "huge", "cat", "dog")])
    pq.enqueue_many([shop.sync_stock.call(city) for city in ("oslo", "porto", "berlin")])
    pq.enqueue_many([shop.send_receipt.options(run_in=timedelta(hours=i)).call(2000 + i) for i in range(1, 9)])
    pq.schedule(shop.sync_stock.call("oslo"), cron="15 6-20 * * 1-5", timezone="Asia/Kolkata", key="oslo")
    pq.schedule(shop.send_newsletter.call(1), cron="0 9 * * 1", timezone="America/New_York", key="weekly")
    pq.pause_schedule("mail.send_newsletter", key="weekly")
    pq.limit_queue("mail", concurrency=20, rate="600/m")
    pq.limit_queue("bulk", concurrency=4)
    with ExitStack() as stack:
        for queues in (["mail", "default"], ["media", "reports"]):
            stack.enter_context(site.worker(queues=queues, concurrency=4))
        eventually(lambda: pq.stats().queues["mail"].due == 0, within=90)
        first = pq.enqueue(
            shop.transcode.options(headers={"request-id": "8f14e45f"}).call("holiday.mov", seconds=120.0)
        )
        pq.enqueue(shop.transcode.call("wedding.mov", seconds=300.0))
        with psycopg.connect(site.dsn, autocommit=True) as connection:
            for statement in (PAST, TICKS, PLACES):
                with psycopg.ClientCursor(connection) as cursor:
                    cursor.execute(statement, {"root": str(ROOT)} if statement is PLACES else None)
        pq.pause_queue("bulk", by="ada")
        failed = next(task.id for task in pq.list_failed() if task.name == "shop.charge_card")
        pages = {
            "overview": "/",
            "tasks": "/tasks",
            "task-failed": f"/tasks/{failed}",
            "task-running": f"/tasks/{first}",
            "failures": "/failures",
            "schedules": "/schedules",
            "schedule-new": "/schedules/new",
            "queues": "/queues",
            "queue": "/queue?name=bulk",
            "call": "/calls/new",
            "workers": "/workers",
            "function": "/function?name=mail.send_receipt",
        }
        take(site, pages, {"color_scheme": "light"}, "")
        take(site, {"overview": "/", "task-failed": pages["task-failed"]}, {"color_scheme": "dark"}, "-dark")
        phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
        take(site, {"overview": "/", "tasks": "/tasks?state=failed"}, {**phone, "color_scheme": "light"}, "-phone")


def take(site: Site, pages: dict[str, str], options: dict[str, object], suffix: str) -> None:
    """Take a picture of each page, and see to it that it is small enough to be kept."""
    assert FOLDER is not None
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    visitor = site.visitor("admin", **{"viewport": {"width": 1360, "height": 900}, **options})
    for name, path in pages.items():
        page = visitor.go(path)
        if page.locator(".live").count():
            page.wait_for_selector(".live.on")
        page.wait_for_timeout(2500)
        file = folder / f"dashboard-{name}{suffix}.png"
        page.screenshot(path=file)
        assert file.stat().st_size < LARGEST, file
