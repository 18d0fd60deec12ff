"""What a scrape gets of a worker: how it stands, and what it has counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pq_core.version import __version__
from pq_core.worker.metrics import Counters, gauge

if TYPE_CHECKING:
    from pq_core.worker.book import Book
    from pq_core.worker.children import Children
    from pq_core.worker.host import Host
    from pq_core.worker.lease import Lease


@dataclass(slots=True, kw_only=True)
class Gauges:
    """Puts the state of a worker into the text format of Prometheus."""

    host: Host
    queues: tuple[str, ...]
    lease: Lease
    children: Children
    book: Book
    counters: Counters

    def text(self, *, draining: bool) -> str:
        """Return all of it. ``draining``: the worker takes nothing new."""
        host, lease = self.host, self.lease
        labels = {"app": host.app, "name": host.name, "version": __version__, "queues": ",".join(self.queues)}
        lines = [
            *gauge("pq_worker_info", "This worker.", 1, labels),
            *gauge("pq_worker_lease", "1 while it holds a lease.", int(lease.worker_id is not None and lease.held)),
            *gauge("pq_worker_draining", "1 while it takes nothing new.", int(draining)),
            *gauge("pq_worker_concurrency", "Tasks that it runs at once.", host.options.concurrency),
            *gauge("pq_worker_running", "Tasks that it runs.", self.children.busy),
            *gauge("pq_worker_unreported", "Ends that the database has not confirmed yet.", len(self.book.entries)),
            *gauge("pq_worker_image_bytes", "Memory of the image that forks.", host.image_rss),
            *self.counters.lines(),
        ]
        return "\n".join(lines) + "\n"
