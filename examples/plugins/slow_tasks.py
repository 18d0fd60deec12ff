"""A plugin of one's own: say which tasks are slow."""

import time
from contextlib import contextmanager


class SlowTasks:
    def __init__(self, seconds):
        self.seconds = seconds

    @contextmanager
    def pq_in_child(self, task):
        started = time.monotonic()
        yield
        if time.monotonic() - started > self.seconds:
            print(f"slow: {task.name}({task.id})")
