"""The application: two tasks, a plugin of its own and OpenTelemetry."""

import time

from slow_tasks import SlowTasks
from tracing import configure

from pq_core import PQ, TaskGroup
from pq_hooks.opentelemetry import OpenTelemetry

jobs = TaskGroup()
pq = PQ(tasks=["shop"], plugins=[SlowTasks(0.2), OpenTelemetry(configure=configure)])


@jobs.task(name="pack")
def pack(order: int) -> None:
    time.sleep(0.3)


@jobs.task(name="greet")
def greet(name: str) -> None:
    print(f"Hello {name}")
