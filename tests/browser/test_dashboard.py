"""What somebody does with the dashboard, done with a browser."""

from __future__ import annotations

import re
from datetime import timedelta

import psycopg
import pytest
from playwright.sync_api import expect

from tests.adapters.http_server import serving
from tests.browser import shop
from tests.browser.dashboard import Site
from tests.integration.worker_process import PATIENCE, eventually

SLOW = PATIENCE * 1000
PAGES = {
    "/": "Overview",
    "/?range=7d": "Overview",
    "/tasks": "Tasks",
    "/tasks?state=failed": "Tasks",
    "/failures": "Failures",
    "/schedules": "Schedules",
    "/schedules/new": "New schedule",
    "/queues": "Queues",
    "/queue?name=mail": "Queue mail",
    "/limits": "Limits of keys and functions",
    "/limits?key=tenant+42": "Key tenant 42",
    "/calls/new": "Call a URL",
    "/tasks?state=held": "Tasks",
    "/workers": "Workers",
    "/functions": "Functions",
    "/function?name=mail.send_receipt": "mail.send_receipt",
    "/keys": "Keys & audit",
    "/tasks/bulk?action=retry&state=failed": "Retry tasks?",
}


def test_wrong_key_gets_nowhere(site: Site) -> None:
    visitor = site.visitor(None)

    page = visitor.go("/tasks")
    expect(page).to_have_url(re.compile("/login"))
    page.fill("#key", "pq_this-is-no-key")
    page.click("text=Log in")

    expect(page.get_by_role("alert")).to_contain_text("Unknown key")
    page = visitor.go("/")
    expect(page).to_have_url(re.compile("/login"))
    visitor.complaints = [one for one in visitor.complaints if "401" not in one]  # the browser tells of the status


def test_log_in_leads_where_one_wanted_and_log_out_ends_it(site: Site) -> None:
    visitor = site.visitor(None)
    page = visitor.go("/queues")
    page.fill("#key", site.keys["operator"])
    page.click("text=Log in")

    expect(page.get_by_role("heading", name="Queues")).to_be_visible()
    expect(page.locator(".who")).to_contain_text("the operator")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/login"))
    visitor.go("/queues")
    expect(page).to_have_url(re.compile("/login"))


def test_progress_of_a_running_task_moves_by_itself(site: Site) -> None:
    with site.worker(queues=["media"]):
        task_id = site.pq.enqueue(shop.transcode.call("film", seconds=25.0))
        eventually(lambda: site.state(task_id) == "running")
        page = site.visitor("viewer").go(f"/tasks/{task_id}")

        expect(page.locator(".status.running")).to_be_visible(timeout=SLOW)
        bar = page.locator("progress")
        seen = {bar.get_attribute("value")}
        eventually(lambda: seen.add(bar.get_attribute("value")) or len(seen - {None}) >= 3, every=0.2)
        expect(page.locator("[data-live] strong")).to_contain_text("frame", timeout=SLOW)

        page.context.clear_cookies()  # what is open stays open; only a change would need a login
        site.pq.cancel(task_id)
        eventually(lambda: site.state(task_id) == "cancelled")


def test_page_of_a_task_follows_it_to_its_end(site: Site) -> None:
    with site.worker(queues=["media"]):
        task_id = site.pq.enqueue(shop.transcode.call("trailer", seconds=3.0))
        page = site.visitor("viewer").go(f"/tasks/{task_id}")

        expect(page.locator(".status.completed")).to_be_visible(timeout=SLOW)
        expect(page.get_by_role("heading", name="Result")).to_be_visible()
        expect(page.get_by_text("trailer.mp4")).to_be_visible()


def test_failed_task_is_retried_and_completes(site: Site) -> None:
    task_id = site.pq.enqueue(shop.charge_card.call(7, "19.90"))
    with site.worker(queues=["default"]):
        eventually(lambda: site.state(task_id) == "failed")
        page = site.visitor("operator").go("/tasks?state=failed")
        page.click("text=shop.charge_card")
        expect(page.locator(".log .final")).to_contain_text("CardDeclined: order 7: the bank does not answer")

        site.open_bank()
        page.get_by_role("button", name="Retry").click()

        expect(page.get_by_role("status")).to_contain_text("runs again")
        expect(page.locator(".status.completed")).to_be_visible(timeout=SLOW)
    assert [(one.actor, one.action, one.target) for one in site.pq.audit_log()] == [
        ("the operator", "task.retry", str(task_id))
    ]


def test_group_of_failures_is_retried_with_its_count_shown_before(site: Site) -> None:
    ids = [site.pq.enqueue(shop.charge_card.call(order, "5.00")) for order in range(4)]
    other = site.pq.enqueue(shop.resize_image.call("broken.png"))
    with site.worker(queues=["default", "media"]):
        eventually(lambda: all(site.state(task_id) == "failed" for task_id in [*ids, other]))
        page = site.visitor("operator").go("/failures")
        expect(page.locator("tbody tr")).to_have_count(2)
        expect(page.locator("tbody")).to_contain_text("killed by signal 11 (SIGSEGV)")
        site.open_bank()
        page.locator("tr", has_text="CardDeclined").get_by_role("link", name="Retry").click()
        expect(page.locator("#count")).to_have_text("4")

        page.get_by_role("button", name="Retry 4 tasks").click()

        expect(page.get_by_role("status")).to_contain_text("4 tasks put back")
        eventually(lambda: all(site.state(task_id) == "completed" for task_id in ids))
        assert site.state(other) == "failed"


def test_running_task_is_cancelled_and_a_waiting_one_moved_on_their_pages(site: Site) -> None:
    running = site.pq.enqueue(shop.transcode.call("film", seconds=60.0))
    waiting = site.pq.enqueue(shop.send_receipt.call(1))
    with site.worker(queues=["media"]):
        eventually(lambda: site.state(running) == "running")
        page = site.visitor("operator").go(f"/tasks/{running}")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".status.cancelled")).to_be_visible(timeout=SLOW)
        expect(page.get_by_text("cancelled by the operator").first).to_be_visible()

    page = site.visitors[-1].go(f"/tasks/{waiting}")
    page.click("text=Priority >> nth=0")
    page.select_option("select[name=priority]", "100")
    page.get_by_role("button", name="Change").click()
    expect(page.locator(".facts").last).to_contain_text("critical (100)")
    page.click("summary:has-text('Reschedule')")
    page.select_option("select[name=run_in]", "86400")
    page.locator("form.panel").get_by_role("button", name="Reschedule").click()
    expect(page.locator(".status.scheduled")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".status.cancelled")).to_be_visible()
    actions = [(one.action, one.target) for one in reversed(site.pq.audit_log())]
    assert actions == [
        ("task.cancel", str(running)),
        ("task.reschedule", str(waiting)),
        ("task.reschedule", str(waiting)),
        ("task.cancel", str(waiting)),
    ]


def test_schedule_is_changed_paused_resumed_and_run_now(site: Site) -> None:
    site.pq.schedule(shop.sync_stock.call("oslo"), cron="0 9 * * *", timezone="Asia/Kolkata", key="oslo")
    page = site.visitor("operator").go("/schedules")
    expect(page.locator("tbody tr")).to_contain_text("09:00 there")
    page.click("text=shop.sync_stock")
    page.get_by_role("link", name="Edit").click()
    expect(page.locator("#f-cron")).to_have_value("0 9 * * *")
    page.fill("#f-cron", "30 17 * * 1-5")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator(".next-times li")).to_have_count(10)
    expect(page.locator(".next-times li").first).to_contain_text("17:30")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".status.paused")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".status.paused")).to_have_count(0)
    with site.worker(queues=["default"]):
        page.get_by_role("button", name="Run now").click()
        expect(page.locator("h1")).to_have_text("shop.sync_stock")
        expect(page.locator(".status.completed")).to_be_visible(timeout=SLOW)
    page.get_by_role("link", name="shop.sync_stock · oslo").first.click()
    expect(page.locator("table .status.completed")).to_have_count(1)
    assert [one.action for one in reversed(site.pq.audit_log())] == [
        "schedule.save", "schedule.pause", "schedule.resume", "schedule.run",
    ]  # fmt: skip


def test_overview_moves_by_itself_and_leads_to_what_a_function_costs(site: Site) -> None:
    page = site.visitor("viewer").page
    workers = page.locator(".tile", has_text="Workers").locator(".value")
    waiting = page.locator(".tile", has_text="Waiting").locator(".value")
    expect(workers).to_contain_text("0")
    expect(page.locator(".live.on")).to_be_visible()
    site.pq.enqueue_many([shop.send_receipt.call(order) for order in range(40)])
    expect(waiting).to_contain_text("40", timeout=SLOW)
    with site.worker(queues=["mail"]):
        expect(workers).to_contain_text("1", timeout=SLOW)
        expect(waiting).not_to_have_text("40", timeout=SLOW)  # ticks of schedules may wait for others
        expect(page.locator(".tile", has_text="Throughput")).to_contain_text("40 in the last hour", timeout=SLOW)
    page = site.visitors[-1].go("/")
    page.locator("tr", has_text="mail.send_receipt").get_by_role("link").click()
    numbers = page.locator(".numbers").first

    def whole() -> bool:  # this page holds still, and its figures for a moment
        page.reload()
        return "Attempts40" in (numbers.text_content() or "").replace("\n", "").replace(" ", "")

    eventually(whole, every=0.5)
    for title in ("CPU in all", "Memory p50", "Memory p95", "Memory max", "Run p95"):
        value = numbers.locator("div", has_text=title).locator("dd")
        expect(value).to_have_text(re.compile(r"\d"))
    expect(page.locator(".plot svg rect").first).to_be_attached()


def test_created_schedule_ticks(site: Site) -> None:
    visitor = site.visitor("operator")
    page = visitor.go("/schedules/new")
    page.fill("#f-name", "shop.sync_stock")
    page.fill("#f-kwargs", '{"warehouse": "oslo"}')
    page.fill("#f-cron", "30 9 * * 1-5")
    expect(page.locator("#preview li")).to_have_count(10)
    expect(page.locator("#preview li").first).to_contain_text("09:30")
    expect(page.locator("#f-zone")).to_have_value("Europe/Berlin")
    page.fill("#f-cron", "61 * * * *")
    expect(page.locator("#preview")).to_contain_text("can't be read")
    page.check("input[name=rhythm][value=every]")
    page.fill("#f-every", "1")
    page.select_option("#f-unit", "s")
    with site.worker(queues=["default"]):
        page.get_by_role("button", name="Create schedule").click()
        expect(page.get_by_role("status")).to_contain_text("Schedule saved")

        def ran() -> bool:
            page.reload()
            return page.locator("table .status.completed").count() >= 2

        eventually(ran, every=1.0)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".status.paused")).to_be_visible()
    page.click("text=Delete")
    page.get_by_role("button", name="Delete").last.click()
    expect(page.get_by_role("status")).to_contain_text("Schedule deleted")
    assert site.pq.get_schedule("shop.sync_stock") is None


def test_schedule_that_is_wrong_is_refused_and_nothing_is_lost(site: Site) -> None:
    page = site.visitor("operator").go("/schedules/new")
    visitor = site.visitors[-1]
    page.fill("#f-name", "shop.sync_stock")
    page.fill("#f-kwargs", '{"warehuse": "oslo"}')
    page.get_by_role("button", name="Create schedule").click()

    expect(page.get_by_role("alert").first).to_contain_text("missing a required argument: 'warehouse'")
    expect(page.locator("#f-kwargs")).to_have_value('{"warehuse": "oslo"}')
    visitor.complaints = [one for one in visitor.complaints if "422" not in one]


def test_paused_queue_starts_nothing(site: Site) -> None:
    with site.worker(queues=["mail"]):
        page = site.visitor("operator").go("/queues")
        page.locator("tr", has_text="mail").get_by_role("button", name="Pause").click()
        expect(page.locator("tr", has_text="mail").locator(".status.paused")).to_be_visible()
        expect(page.locator("tr", has_text="mail")).to_contain_text("by the operator")

        task_id = site.pq.enqueue(shop.send_receipt.call(1))
        other = site.pq.enqueue(shop.send_receipt.options(queue="mail", run_in=timedelta(0)).call(2))
        # Live: the two appear by themselves. That they are still there some looks later is the pause.
        expect(page.locator("tr", has_text="mail").locator("td").nth(1)).to_have_text("2", timeout=SLOW)
        page.wait_for_timeout(3000)
        assert (site.state(task_id), site.state(other)) == ("pending", "pending")

        page.locator("tr", has_text="mail").get_by_role("button", name="Resume").click()
        eventually(lambda: site.state(task_id) == "completed")


def test_limit_that_is_set_on_the_page_holds(site: Site) -> None:
    page = site.visitor("operator").go("/queues")
    ids = [site.pq.enqueue(shop.transcode.call(f"film {i}", seconds=60.0)) for i in range(3)]
    page = site.visitors[-1].go("/queues")
    page.get_by_role("link", name="Limits of media").click()
    page.fill("#f-concurrency", "none")
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("alert")).to_contain_text("give a whole number")
    page.fill("#f-concurrency", "1")
    page.fill("#f-rate", "100/m")
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status")).to_contain_text("Limits saved")
    site.visitors[-1].complaints = [one for one in site.visitors[-1].complaints if "422" not in one]

    with site.worker(queues=["media"], concurrency=3):
        eventually(lambda: [site.state(task_id) for task_id in ids].count("running") == 1)
        page = site.visitors[-1].go("/queues")
        row = page.locator("tr", has_text="media")
        expect(row).to_contain_text("limit: 1 at once")
        expect(row).to_contain_text("limit: 100 per 1 min")
        page.wait_for_timeout(2000)
        assert [site.state(task_id) for task_id in ids].count("running") == 1

        row.get_by_role("link", name="Limits of media").click()
        page.get_by_role("button", name="Lift both limits").click()
        expect(page.locator("#f-concurrency")).to_have_value("")
        eventually(lambda: [site.state(task_id) for task_id in ids].count("running") == 3)


def test_url_is_called_once_and_by_a_schedule(site: Site) -> None:
    with serving() as receiver:
        allowed = {"PQ_WEBHOOK_ALLOW": f"localhost:{receiver.port}", "PQ_WEBHOOK_NETWORKS": "127.0.0.0/8 ::1/128"}
        with site.worker(queues=["default"], environment={**allowed, "PQ_WEBHOOK_SECRET_TOKEN": "s3cret"}):
            page = site.visitor("operator").go("/schedules")
            page.click("text=Call a URL")
            page.fill("#f-url", receiver.url("/once"))
            page.select_option("#f-method", "PUT")
            page.fill("#f-headers", "X-Shop: oslo\nAuthorization: Bearer ${token}")
            page.fill("#f-body", '{"order": 7}')
            page.get_by_role("button", name="Save call").click()
            expect(page.get_by_role("status")).to_contain_text("Enqueued")
            expect(page.locator(".status.completed")).to_be_visible(timeout=SLOW)
            [asked] = receiver.asked
            assert (asked.method, asked.path, asked.body) == ("PUT", "/once", b'{"order":7}')
            assert (asked.headers["x-shop"], asked.headers["authorization"]) == ("oslo", "Bearer s3cret")
            assert "s3cret" not in page.content()

            page = site.visitors[-1].go("/calls/new")
            page.fill("#f-url", receiver.url("/tick"))
            page.select_option("#f-method", "GET")
            expect(page.locator("#f-key")).to_be_hidden()
            page.check("input[name=rhythm][value=every]")
            expect(page.locator("#f-key")).to_be_visible()
            page.fill("#f-every", "1")
            page.select_option("#f-unit", "s")
            expect(page.locator("#preview li")).to_have_count(10)
            page.get_by_role("button", name="Save call").click()
            expect(page.get_by_role("status")).to_contain_text("Schedule saved")
            eventually(lambda: [one.path for one in receiver.asked].count("/tick") >= 2)


def test_worker_is_drained(site: Site) -> None:
    with site.worker(queues=["mail"]) as worker:
        page = site.visitor("admin").go("/workers")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("button", name="Drain").click()

        expect(page.get_by_role("status")).to_contain_text("Told to drain")
        assert worker.wait() == 0


def test_worker_is_stopped_and_its_task_put_back(site: Site) -> None:
    with site.worker(queues=["media"], drain_timeout=600) as worker:
        page = site.visitor("admin").go("/workers")
        video = site.pq.enqueue(shop.transcode.call("intro", seconds=600.0))
        eventually(lambda: site.state(video) == "running")
        expect(page.locator("tbody")).to_contain_text("media.transcode", timeout=SLOW)
        page.get_by_role("link", name="Stop").click()
        expect(page.locator("#count")).to_have_text("1")
        expect(page.locator("main")).to_contain_text("media.transcode")
        page.get_by_role("button", name="Stop now").click()

        expect(page.get_by_role("status")).to_contain_text("Told to stop")
        assert worker.wait() == 0
    assert site.state(video) == "pending"
    expect(site.visitors[-1].go("/workers").locator("main")).to_contain_text("No worker is running")


def test_viewer_changes_nothing(site: Site) -> None:
    failed = site.pq.enqueue(shop.charge_card.call(1, "1.00"))
    with site.worker(queues=["default"]):
        eventually(lambda: site.state(failed) == "failed")
    waiting = site.pq.enqueue(shop.send_receipt.call(1))
    site.pq.schedule(shop.sync_stock.call("oslo"), run_every=timedelta(days=1))
    visitor = site.visitor("viewer")

    for path in (
        f"/tasks/{failed}",
        f"/tasks/{waiting}",
        "/queues",
        "/queue?name=mail",
        "/workers",
        "/schedules",
        "/schedules/1",
    ):
        page = visitor.go(path)
        assert page.locator("main form[method=post]").count() == 0, path
    assert visitor.page.locator(".nav a", has_text="Keys").count() == 0
    headers = {"Origin": site.url}
    for path in (
        f"/tasks/{failed}/retry",
        f"/tasks/{waiting}/cancel",
        f"/tasks/{waiting}/reschedule",
        "/tasks/bulk",
        "/queues/pause",
        "/queue/limit",
        "/calls",
        "/schedules/1/delete",
        "/schedules/1/run",
        "/keys/create",
    ):
        answer = visitor.page.request.post(f"{site.url}{path}", headers=headers, form={"queue": "mail"})
        assert answer.status == 403, path
    assert visitor.page.request.get(f"{site.url}/keys").status == 403
    assert (site.state(failed), site.state(waiting)) == ("failed", "pending")
    assert site.pq.audit_log() == []


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_no_page_complains_and_all_fit(site: Site, look: str) -> None:
    fill(site)
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True} if look == "phone" else {}
    visitor = site.visitor("admin", color_scheme="dark" if look == "dark" else "light", **phone)
    first = next(task.id for task in site.pq.list_failed() if task.name == "shop.charge_card")

    for path, title in {**PAGES, f"/tasks/{first}": "shop.charge_card", "/schedules/1": "shop.sync_stock"}.items():
        page = visitor.go(path)
        expect(page.locator("h1").last).to_contain_text(title)
        if look == "phone":
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        visitor.page.wait_for_timeout(150)


def test_pages_can_be_read_without_scripts(site: Site) -> None:
    fill(site)
    visitor = site.visitor("admin", java_script_enabled=False)

    for path, title in PAGES.items():
        page = visitor.go(path)
        expect(page.locator("h1").last).to_contain_text(title)
    page = visitor.go("/tasks?state=failed")
    expect(page.locator("tbody")).to_contain_text("CardDeclined: order 0")
    expect(page.locator("tbody time").first).to_contain_text("ago")


def test_filters_work_as_one_types(site: Site) -> None:
    fill(site)
    page = site.visitor("viewer").go("/tasks")

    page.fill("input[name=queue]", "nowhere")
    page.keyboard.press("Tab")
    expect(page.locator("#results")).to_contain_text("No task matches")
    expect(page).to_have_url(re.compile("queue=nowhere"))
    page.go_back()
    expect(page.locator("tbody tr")).not_to_have_count(0)
    page.click("text=Failed >> nth=0")
    expect(page.locator("tbody .status").first).to_have_text("failed")


def test_refused_filter_says_why_instead_of_old_rows(site: Site) -> None:
    site.pq.enqueue_many([shop.send_receipt.call(order) for order in range(3)])
    visitor = site.visitor("viewer")
    page = visitor.go("/tasks")
    rows, told = page.locator("tbody tr"), page.locator("#results").get_by_role("alert")
    expect(rows).to_have_count(3)

    page.fill("input[name=priority]", "much")
    page.keyboard.press("Tab")
    expect(told).to_contain_text("priority: 'much' is no whole number")
    expect(rows).to_have_count(0)
    page.reload()
    expect(told).to_contain_text("is no whole number")
    expect(page.locator("input[name=priority]")).to_have_value("much")
    page.fill("input[name=priority]", "50")
    page.keyboard.press("Tab")
    expect(rows).to_have_count(3)
    expect(told).to_have_count(0)

    # The same where the dashboard itself refuses, and not the page.
    with psycopg.connect(site.dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE pq_tasks RENAME TO pq_tasks_away")
        page.fill("input[name=queue]", "mail")
        page.keyboard.press("Tab")
        expect(told).to_contain_text("The database is not ready")
        expect(rows).to_have_count(0)
        connection.execute("ALTER TABLE pq_tasks_away RENAME TO pq_tasks")
    page.fill("input[name=queue]", "")
    page.keyboard.press("Tab")
    expect(rows).to_have_count(3)
    visitor.complaints = [one for one in visitor.complaints if "422" not in one and "503" not in one]


def test_keys_lead_everywhere(site: Site) -> None:
    task_id = site.pq.enqueue(shop.send_receipt.options(client_id="order-9").call(9))
    page = site.visitor("viewer").page

    page.wait_for_load_state("load")
    page.keyboard.press("/")
    page.keyboard.type("order-9")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("td.main a").focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("mail.send_receipt")
    page.wait_for_load_state("load")
    page.keyboard.press("g")
    page.keyboard.press("q")
    expect(page.locator("h1")).to_have_text("Queues")
    page.wait_for_load_state("load")
    page.keyboard.press("/")
    page.keyboard.type(str(task_id))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/tasks/{task_id}$"))


def test_search_field_finds_tasks_by_id_client_id_and_function(site: Site) -> None:
    ids = [site.pq.enqueue(shop.send_receipt.options(client_id=f"order-{n}").call(n)) for n in range(3)]
    other = site.pq.enqueue(shop.charge_card.call(1, "1.00"))
    visitor = site.visitor("viewer")
    rows = visitor.page.locator("tbody tr")

    def search(words: str) -> None:
        page = visitor.go("/queues")
        page.keyboard.press("/")
        expect(page.locator("input[name=q]")).to_be_focused()
        page.keyboard.type(words)
        page.keyboard.press("Enter")

    search(f"#{other}")
    expect(visitor.page).to_have_url(re.compile(f"/tasks/{other}$"))
    search("order-1")
    expect(visitor.page).to_have_url(re.compile("client_id=order-1"))
    expect(rows).to_have_count(1)
    search("mail.send_receipt")
    expect(visitor.page).to_have_url(re.compile("name=mail.send_receipt"))
    expect(rows).to_have_count(len(ids))
    search("CHARGE")  # of the one function whose name has it
    expect(visitor.page).to_have_url(re.compile("name=shop.charge_card"))
    expect(rows).to_have_count(1)
    search("nothing is called this")
    expect(visitor.page.locator("#results")).to_contain_text("No task matches")


def test_single_rows_are_picked_on_a_phone(site: Site) -> None:
    ids = [site.pq.enqueue(shop.send_receipt.call(n)) for n in range(30)]
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    page = site.visitor("operator", **phone).go("/tasks")

    for task_id in (ids[2], ids[5]):
        page.get_by_label(f"Pick task {task_id}", exact=True).tap()
    expect(page.locator("[data-scope]")).to_have_text("2 selected")
    expect(page.locator("tr.picked")).to_have_count(2)
    # What can be done with them stays in sight.
    expect(page.get_by_role("button", name="Cancel…")).to_be_in_viewport()
    page.get_by_role("button", name="Cancel…").tap()
    expect(page.locator("#count")).to_have_text("2")
    page.get_by_role("button", name="Cancel 2 tasks").tap()
    expect(page.get_by_role("status")).to_contain_text("2 tasks")
    assert [task_id for task_id in ids if site.state(task_id) == "cancelled"] == [ids[2], ids[5]]

    page = site.visitors[-1].go("/tasks?state=waiting")
    page.locator("input.pick-all").tap()
    expect(page.locator("[data-scope]")).to_have_text("28 selected")


def test_theme_that_was_chosen_stays(site: Site) -> None:
    visitor = site.visitor("viewer", color_scheme="light")
    page = visitor.page
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.get_by_role("button", name="Switch between light and dark").last.click()

    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert after != before
    page = visitor.go("/queues")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after


def fill(site: Site) -> None:
    """Have something of everything."""
    site.pq.schedule(shop.sync_stock.call("oslo"), cron="*/7 * * * *", timezone="Asia/Kolkata", key="oslo")
    site.pq.enqueue_many([shop.charge_card.call(order, "5.00") for order in range(2)])
    site.pq.enqueue_many([shop.send_receipt.call(order) for order in range(3)])
    site.pq.enqueue_many([shop.resize_image.call(name) for name in ("broken.png", "huge.png", "cat.png")])
    with site.worker(until_empty=True) as worker:
        assert worker.wait(60) == 0
    site.pq.enqueue(shop.send_receipt.options(run_in=timedelta(hours=2)).call(99))
    site.pq.enqueue(shop.send_receipt.options(queue="a queue with spaces & <b>").call(100))
    site.pq.enqueue_many([shop.send_receipt.options(concurrency_key="tenant 42").call(i) for i in range(3)])
    site.pq.limit_queue("mail", concurrency=5, rate="100/5m")
    site.pq.pause_queue("mail", by="somebody")
