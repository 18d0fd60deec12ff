"""What operating pq needs: keys for the API, an audit log, schedules that say their rhythm."""

from __future__ import annotations

from pq_core.migrations.runner import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create what is new; code of revision 1 goes on working with it."""
    run_file("0002_operations.sql")
