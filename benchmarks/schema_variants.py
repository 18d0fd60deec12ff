"""Other tables, indexes and storage than those of revision 0001, for ``benchmarks.schema_prototype`` to compare."""

from __future__ import annotations

import re
from collections.abc import Callable

Variant = tuple[tuple[str, ...], Callable[[str], str]]
"""What is executed after revision 0001 ({schema} filled in), and how a turn's statement changes."""

READY = "(queue, (-priority::integer), run_at, id) WHERE status = 'pending' AND"
DROP = "DROP INDEX {schema}."

NO_DUE = (DROP + "pq_tasks_ready", f"CREATE INDEX pq_tasks_ready ON {{schema}}.pq_tasks {READY} losses < 2")

MOVED = (
    DROP + "pq_tasks_finished",
    "CREATE TABLE {schema}.pq_finished (LIKE {schema}.pq_tasks); ALTER TABLE {schema}.pq_finished ADD PRIMARY KEY (id);"
    "CREATE INDEX ON {schema}.pq_finished (status, completed_at)",
)

BY_TIME = (
    DROP + "pq_tasks_finished",
    "CREATE INDEX ON {schema}.pq_tasks (completed_at) WHERE completed_at IS NOT NULL",
    "CREATE INDEX ON {schema}.pq_tasks (completed_at) WHERE status = 'failed'",
)

SIDE = (
    DROP + "pq_tasks_ready",
    "CREATE TABLE {schema}.pq_ready (queue text, rank integer, run_at timestamptz, id bigint, PRIMARY KEY (queue, rank,"
    " run_at, id)) WITH (autovacuum_vacuum_scale_factor = 0.02)",
    "CREATE FUNCTION {schema}.side() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {schema}.pq_ready"
    " SELECT n.queue, -n.priority::integer, n.run_at, n.id FROM n; RETURN NULL; END $$;"
    "CREATE TRIGGER side AFTER INSERT ON {schema}.pq_tasks REFERENCING NEW TABLE AS n FOR EACH STATEMENT"
    " EXECUTE FUNCTION {schema}.side()",
)


def _schema(text: str) -> str:
    found = re.search(r"(\w+)\.pq_tasks", text)
    assert found
    return found.group(1)


def filter_by_run_at(text: str) -> str:
    """Change a turn so that it finds what is due by its time, not by the flag."""
    return text.replace("t.due AND", "t.run_at <= statement_timestamp() AND")


def move_finished(text: str) -> str:
    """Change a turn so that finished tasks go into another table; the least it can cost."""
    schema = _schema(text)
    start, end = text.index("ended AS ("), text.index("), lease AS")
    return (
        text[:start]
        + f"gone AS (DELETE FROM {schema}.pq_tasks t WHERE t.id = ANY (ARRAY(SELECT h.id FROM held h)) RETURNING t.*),"
        f" ended AS (INSERT INTO {schema}.pq_finished SELECT g.* FROM gone g RETURNING id" + text[end:]
    )


def find_in_side_table(text: str) -> str:
    """Change a turn so that ready tasks are found in, and deleted from, a narrow table of their own."""
    if "best AS" in text or "$2::bigint[]" in text:
        return text
    schema = _schema(text)
    start, end = text.index("ready AS MATERIALIZED ("), text.index("claimed AS (")
    claim = text[end:].replace("t.ctid = ANY (ARRAY(SELECT r.spot", "t.id = ANY (ARRAY(SELECT r.id", 1)
    return (
        text[:start] + f"taken AS MATERIALIZED (SELECT s.ctid AS spot FROM {schema}.pq_ready s"
        " WHERE s.queue = ($2::text[])[1] AND s.rank <= -$3::integer AND s.rank >= -$4::integer"
        " AND $6::integer[] IS NOT NULL AND $7::timestamptz[] IS NOT NULL AND $8::bigint[] IS NOT NULL"
        " AND EXISTS (SELECT FROM lease) ORDER BY s.rank, s.run_at, s.id LIMIT $5::integer FOR UPDATE SKIP LOCKED),"
        f" ready AS (DELETE FROM {schema}.pq_ready s WHERE s.ctid = ANY (ARRAY(SELECT spot FROM taken))"
        " RETURNING s.id), " + claim
    )


def unchanged(text: str) -> str:
    """Leave a turn as it is."""
    return text


VARIANTS: dict[str, Variant] = {
    "as decided": ((), unchanged),
    "fillfactor 100": (("ALTER TABLE {schema}.pq_tasks SET (fillfactor = 100)",), unchanged),
    "without index suspect": ((DROP + "pq_tasks_suspect",), unchanged),
    "without indexes client_id": ((DROP + "pq_tasks_client_id", DROP + "pq_tasks_client_id_history"), unchanged),
    "without index tick": ((DROP + "pq_tasks_tick",), unchanged),
    "without index running": ((DROP + "pq_tasks_running",), unchanged),
    "without index finished": ((DROP + "pq_tasks_finished",), unchanged),
    "finished by time, failed apart": (BY_TIME, unchanged),
    "without trigger apply_parked": (("DROP TRIGGER pq_apply_parked ON {schema}.pq_tasks",), unchanged),
    "finished rows moved": (MOVED, move_finished),
    "narrow table for ready rows": (SIDE, find_in_side_table),
}
DUE: dict[str, Variant] = {"due flag": ((), unchanged), "run_at as a filter": (NO_DUE, filter_by_run_at)}
