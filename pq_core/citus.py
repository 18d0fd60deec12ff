"""Citus, the distributed Postgres: whether it is there, and what of pq it must leave alone.

pq's own tables are never distributed. Beside distributed tables, a transaction that writes a remote shard and enqueues
is atomic only with the fence: Citus commits in two phases only what it manages itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from pq_core.doctor.finding import Finding, ok, problem, warning

if TYPE_CHECKING:
    import psycopg

FENCE = "pq_citus_fence"
"""The name of the fence's table, function and trigger."""

_VERSION = "SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'citus'"
_FACTS = (
    "SELECT coalesce((SELECT g.groupid = 0 FROM pg_catalog.pg_dist_local_group g LIMIT 1), true),"
    " coalesce(array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE n.nspname = %(schema)s"
    "  AND c.relname = ANY (%(tables)s)), '{}'),"
    " count(*) FILTER (WHERE n.nspname <> %(schema)s OR c.relname <> ALL (%(tables)s) AND c.relname <> %(fence)s),"
    " EXISTS (SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class k ON k.oid = t.tgrelid"
    "  JOIN pg_catalog.pg_namespace s ON s.oid = k.relnamespace"
    "  WHERE s.nspname = %(schema)s AND k.relname = 'pq_tasks' AND t.tgname = %(fence)s AND t.tgenabled <> 'D')"
    "  AND count(*) FILTER (WHERE n.nspname = %(schema)s AND c.relname = %(fence)s) > 0"
    " FROM pg_catalog.pg_dist_partition p JOIN pg_catalog.pg_class c ON c.oid = p.logicalrelid"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a database with Citus says of itself.

    ``coordinator``: this node is it. ``own``: tables of pq that are in Citus's metadata. ``others``: how many other
    tables are. ``fenced``: the fence stands on pq_tasks, and Citus knows its table.
    """

    version: str
    coordinator: bool
    own: tuple[str, ...]
    others: int
    fenced: bool


def version(connection: psycopg.Connection[Any]) -> str | None:
    """Return the version of the extension in this database; None without it."""
    row = connection.cursor(row_factory=tuple_row).execute(_VERSION).fetchone()
    return None if row is None else str(row[0])


def look(connection: psycopg.Connection[Any], schema: str) -> Facts | None:
    """Return what Citus knows of; None without the extension. Only reads the catalog."""
    from pq_core.schema import TABLES

    found = version(connection)
    if found is None:
        return None
    parameters = {"schema": schema, "tables": list(TABLES), "fence": FENCE}
    row = connection.cursor(row_factory=tuple_row).execute(_FACTS, parameters).fetchone()
    assert row is not None
    coordinator, own, others, fenced = row
    return Facts(version=found, coordinator=coordinator, own=tuple(own), others=others, fenced=fenced)


def judge(facts: Facts | None, schema: str) -> Iterator[Finding]:
    """Say what of it is not well."""
    if facts is None:
        yield ok("citus", "the extension citus is not in this database")
        return
    if facts.own:
        yield problem(
            "citus",
            f"tables of pq are distributed: {', '.join(facts.own)}: triggers are refused there, and claims fail",
            "never distribute them; SELECT undistribute_table('…') may bring them back, else give pq another schema",
        )
    elif facts.coordinator and facts.others and not facts.fenced:
        yield warning(
            "citus",
            f"{facts.others} table(s) are distributed, and pq_tasks has no fence: a transaction that writes them and "
            "enqueues may lose the task in a crash",
            f"pq migrate --schema {schema} --citus-fence; or a pq on the node of the tables that it serves",
        )
    else:
        fence = ", with its fence" if facts.fenced else ""
        yield ok("citus", f"Citus {facts.version} is here, and pq's tables are local{fence}: never distribute them")


def keep_local(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Keep what this session creates on this node, where Citus is; return what is to be said of it."""
    found = version(connection)
    if found is None:
        return ()
    connection.execute("SET citus.enable_ddl_propagation = off")
    return (
        f"Citus {found} is here: this migration is for this node alone (citus.enable_ddl_propagation = off); "
        "pq's own tables must never be distributed",
    )


def fence_sql(schema: str) -> str:
    """Return the script of the fence: whatever writes pq_tasks touches a table that Citus manages.

    It touches no row, so that nobody waits for anybody. Can be run again and again.
    """
    text = _FENCE
    tag = "pq"
    while f"${tag}" in schema:
        tag += "_"
    table = sql.Identifier(schema, FENCE).as_string(None)
    return (
        sql.SQL(text.replace("$pq$", f"${tag}$"))
        .format(
            schema=sql.Identifier(schema),
            fence=sql.Identifier(schema, FENCE),
            name=sql.Identifier(FENCE),
            fence_text=sql.Literal(table),
        )
        .as_string(None)
    )


_FENCE = """\
-- A transaction that writes a remote shard and pq_tasks becomes one of two phases: every statement that writes pq_tasks
-- writes, too, to a table in Citus's metadata.
SET citus.enable_ddl_propagation = off;
CREATE TABLE IF NOT EXISTS {fence} (id integer PRIMARY KEY, touched boolean NOT NULL);
SELECT citus_add_local_table_to_metadata({fence_text}::regclass)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = {fence_text}::regclass);
CREATE OR REPLACE FUNCTION {fence}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $pq$
BEGIN
    UPDATE {fence} SET touched = true WHERE id = 0;  -- there is none
    RETURN NULL;
END
$pq$;
REVOKE EXECUTE ON FUNCTION {fence}() FROM PUBLIC;
CREATE OR REPLACE TRIGGER {name} AFTER INSERT OR UPDATE ON {schema}.pq_tasks
    FOR EACH STATEMENT EXECUTE FUNCTION {fence}();
"""
