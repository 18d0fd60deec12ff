"""A Postgres of one's own, for a first try, for development and for tests: started on demand, ended when unused."""

from __future__ import annotations

from pq_core.embedded.client import EmbeddedStatus, start, status, stop

__all__ = ["EmbeddedStatus", "start", "status", "stop"]
