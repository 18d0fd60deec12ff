"""Lists that go on by themselves, and leave alone what somebody uses."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser import shop
from tests.browser.dashboard import Site

SLOW = 30_000


def test_list_of_tasks_goes_on_unless_somebody_picks(site: Site) -> None:
    first = site.pq.enqueue(shop.charge_card.call(1, "1.00"))
    mine = site.visitor("operator").go("/tasks?state=waiting")
    others = site.visitor("viewer").go("/tasks?state=waiting")
    expect(mine.get_by_role("button", name="Live")).to_have_attribute("aria-pressed", "true")
    mine.get_by_label(f"Pick task {first}").check()

    second = site.pq.enqueue(shop.charge_card.call(2, "2.00"))

    expect(others.locator(f'a[href="/tasks/{second}"]')).to_be_visible(timeout=SLOW)
    expect(mine.get_by_label(f"Pick task {first}")).to_be_checked()
    expect(mine.locator(f'a[href="/tasks/{second}"]')).to_have_count(0)

    mine.get_by_label(f"Pick task {first}").uncheck()
    mine.mouse.click(5, 500)
    expect(mine.locator(f'a[href="/tasks/{second}"]')).to_be_visible(timeout=SLOW)

    others.get_by_role("button", name="Live").click()
    expect(others.get_by_role("button", name="Not live")).to_have_attribute("aria-pressed", "false")
    others.reload()
    expect(others.get_by_role("button", name="Not live")).to_be_visible()


def test_output_of_a_running_task_comes_by_itself(site: Site) -> None:
    with site.worker(queues=["media"]):
        task_id = site.pq.enqueue(shop.transcode.call("film", seconds=60.0))
        page = site.visitor("viewer").go(f"/tasks/{task_id}")
        expect(page.get_by_role("region", name="Output so far")).to_contain_text("film: pass 2", timeout=SLOW)
        site.pq.cancel(task_id)


def test_schedule_is_paused_in_the_list(site: Site) -> None:
    site.pq.schedule(shop.sync_stock.call("x"), cron="0 0 1 1 *")
    page = site.visitor("operator").go("/schedules")

    page.get_by_role("button", name="Pause shop.sync_stock").click()

    expect(page.get_by_role("status")).to_contain_text("Schedule paused")
    page.get_by_role("button", name="Resume shop.sync_stock").click()
    expect(page.get_by_role("button", name="Pause shop.sync_stock")).to_be_visible()
