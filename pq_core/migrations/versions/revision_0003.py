"""The history of each task function, for lists and for what its runs cost."""

from __future__ import annotations

from pq_core.migrations.runner import build_index, run_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Build the index; code of revision 1 and 2 goes on working with it.

    On finished rows alone, so that it costs one entry when a task ends and nothing when it is enqueued or claimed.
    Built first, since it commits what came before: if this ends half-way, the next try finds the index and goes on.
    """
    build_index(
        "pq_tasks_named",
        "INDEX CONCURRENTLY {name} ON {schema}.pq_tasks (name, status, completed_at)"
        " WHERE status IN ('completed', 'failed', 'cancelled')",
    )
    run_file("0003_history.sql")
