"""The tables, and pq_enqueue."""

from __future__ import annotations

from pq_core.migrations.runner import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    run_file("0001_tables.sql")
