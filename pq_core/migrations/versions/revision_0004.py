"""Which worker ended a task, as a filter; workers that are told to stop at once."""

from __future__ import annotations

from pq_core.migrations.runner import build_index, drop_index, run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Put a wider index in the place of another; code of the revisions before goes on working with it.

    The worker comes last: what is read by time is read as before, and what one worker ended is found within the index,
    without a look at the rows of all others. It is there before the old one goes, so that no statement is ever without.
    """
    build_index(
        "pq_tasks_ended",
        "INDEX CONCURRENTLY {name} ON {schema}.pq_tasks (status, completed_at, worker_id)"
        " WHERE status IN ('completed', 'failed', 'cancelled')",
    )
    drop_index("pq_tasks_finished")
    run_file("0004_workers.sql")
