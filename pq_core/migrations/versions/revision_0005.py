"""Promises that held but for corners: each file says which one it mends."""

from __future__ import annotations

from pq_core.migrations.runner import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add what is new; code of the revisions before goes on working with it.

    The last file says that all of it is there.
    """
    run_file("0005_repair.sql")
    run_file("0005_recovery.sql")
    run_file("0005_wake_ups.sql")
    run_file("0005_timeline.sql")
    run_file("0005_grants.sql")
    run_file("0005_revision.sql")
