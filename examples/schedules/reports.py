"""Reports that run by themselves: a heartbeat, a nightly job on Berlin's clock, and one schedule for each customer."""

from __future__ import annotations

from datetime import timedelta

from pq_core import PQ, TaskGroup, current_attempt

jobs = TaskGroup("reports")

pq = PQ(app="reports")  # the database of PQ_DATABASE_URL, else DATABASE_URL
pq.include(jobs)


@jobs.periodic(run_every=timedelta(seconds=1), catch_up="skip")
def heartbeat() -> str:
    """Say that we are alive; nobody wants to hear it late."""
    return "alive"


@jobs.periodic(cron="30 2 * * *", timezone="Europe/Berlin", catch_up="all")
@jobs.task(max_attempts=3, timeout=600)
def nightly() -> str:
    """Close the day: each one once, also after an outage, also in the nights in which the clock is moved."""
    return f"closed by task {current_attempt().id}"


@jobs.task
def invoice(customer: str) -> str:
    """Write a customer's invoice."""
    return f"invoice for {customer}"
