"""Give two customers schedules of their own, have one run now, and look at what the heartbeat has done."""

from __future__ import annotations

import time
from itertools import pairwise

import reports


def main() -> None:
    """Add schedules as a program does that does not know them beforehand."""
    pq = reports.pq
    with pq.session() as connection:  # the customers and their schedules: all, or none
        for name, zone in (("ada", "Europe/London"), ("grace", "America/New_York")):
            call = reports.invoice.call(name)
            pq.using(connection).schedule(call, cron="0 9 1 * *", timezone=zone, key=name)
    print(pq.wait(pq.run_schedule_now(reports.invoice, key="ada"), timeout=30))

    pq.pause_schedule(reports.invoice, key="grace")
    for schedule in pq.list_schedules():
        state = "active" if schedule.active else "paused"
        print(schedule.name, schedule.key or "-", schedule.cron or schedule.run_every, state)

    heartbeat = pq.get_schedule(reports.heartbeat)
    assert heartbeat is not None
    while len(runs := pq.schedule_runs(heartbeat.id, limit=3)) < 3:
        time.sleep(0.2)
    ticks = [run.tick_at for run in runs if run.tick_at]
    print("distance of heartbeats:", {(later - earlier).total_seconds() for later, earlier in pairwise(ticks)})


if __name__ == "__main__":
    main()
