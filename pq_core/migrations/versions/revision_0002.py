"""What operating pq needs: keys for the API, an audit log, schedules that say their rhythm."""

from __future__ import annotations

from pq_core.migrations.runner import build_index, run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create what is new; code of revision 1 goes on working with it."""
    # Whoever dies between these has left nothing that a second run would meet as an error.
    run_file("0002_lanes.sql")
    # Tasks that wait for their limit, by what they share it with. No row is in it when it is built.
    build_index(
        "pq_tasks_held",
        "INDEX CONCURRENTLY {name} ON {schema}.pq_tasks (queue, lane, (-priority::integer), run_at, id)"
        " WHERE status = 'blocked' AND lane IS NOT NULL",
    )
    run_file("0002_operations.sql")
