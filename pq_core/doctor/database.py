"""Checks of the database: each asks one question, and says what mends what it finds."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pq_core.doctor.finding import Finding, ok, problem, warning
from pq_core.errors import PQError
from pq_core.payload import dumps
from pq_core.psycopg_executor import PsycopgExecutor
from pq_core.schema import CODE_REVISION, TABLES
from pq_core.sql_names import identifier
from pq_core.store import statement
from pq_core.version import __version__

if TYPE_CHECKING:
    import psycopg

    from pq_core.registry import Registry

    Connection = psycopg.Connection[tuple[Any, ...]]

CAP = 100_000
"""Pending tasks whose names are looked at."""


def ask(connection: Connection, schema: str, name: str, **parameters: Any) -> list[Any]:
    """Run one of the doctor's statements and return its rows."""
    rows = PsycopgExecutor(connection).execute(statement(schema, f"doctor_{name}"), dumps(parameters))
    return [json.loads(row) for row in rows]


def may_read(connection: Connection, schema: str, table: str) -> bool:
    """Say whether whoever is connected may read a table of ours."""
    relation = f"{identifier(schema)}.{identifier(table)}"
    row = connection.execute("SELECT has_table_privilege(to_regclass(%s), 'SELECT')", (relation,)).fetchone()
    return row is not None and bool(row[0])


def schema_version(connection: Connection, schema: str) -> Iterator[Finding]:
    """Compare the tables with this code."""
    from pq_core.schema import check, check_whole

    try:
        check(connection, schema)
        check_whole(connection, schema)
    except PQError as error:
        yield problem("schema", str(error), "run `pq migrate`, or install the pq that made these tables")
    else:
        yield ok("schema", f"the tables in {schema} fit this code (revision {CODE_REVISION})")


def dead_rows(connection: Connection, schema: str, *, least: int = 10_000) -> Iterator[Finding]:
    """Look for tables with more dead rows than live ones, and more than ``least``; and for autovacuum kept out."""
    well = True
    for row in ask(connection, schema, "dead_rows", tables=TABLES):
        if not row["autovacuum"]:
            well = False
            yield problem(
                "bloat",
                f"autovacuum is off for {row['name']}",
                f'ALTER TABLE "{schema}".{row["name"]} RESET (autovacuum_enabled); and set autovacuum = on',
            )
        if row["dead"] > max(least, row["live"]):
            well = False
            yield warning(
                "bloat",
                f"{row['name']} has {row['dead']:,} dead rows and {row['live']:,} live ones "
                f"({row['bytes'] // 2**20:,} MiB), last vacuumed {row['vacuumed'] or 'never'}",
                f'VACUUM "{schema}".{row["name"]}; if they stay, look for what holds a snapshot (check transactions); '
                "a size that does not shrink: pg_repack, or VACUUM FULL while nothing works",
            )
    if well:
        yield ok("bloat", "no table is full of dead rows")


@cache
def index_definitions() -> dict[str, str]:
    """Return the statement that creates each index of the migrations, by name, with {schema} in it.

    Those of keys and constraints have none of their own: ''.
    """
    found: dict[str, str] = {}
    folder = files("pq_core").joinpath("migrations", "versions")
    for path in sorted(folder.iterdir(), key=lambda path: (re.sub(r"\D", "", path.name), path.name)):
        text = path.read_text(encoding="utf-8") if path.name.endswith((".sql", ".py")) else ""
        if path.name.endswith(".py"):
            _note_calls(found, text)
        else:
            for match in re.finditer(r"^(?:CREATE|DROP) (?:UNIQUE )?INDEX [^;]*;", text, re.MULTILINE):
                name = re.search(r"INDEX (?:CONCURRENTLY )?(?:IF (?:NOT )?EXISTS )?(?:\{schema\}\.)?(\w+)", match[0])
                assert name is not None
                if match[0].startswith("DROP"):
                    found.pop(name[1], None)
                else:
                    found[name[1]] = " ".join(match[0].split())
    return found


def _note_calls(found: dict[str, str], text: str) -> None:
    """Note the indexes that a revision builds or drops outside of its SQL files."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            given = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            match node.func.id, given:
                case "build_index", [name, definition]:
                    plain = definition.replace("INDEX CONCURRENTLY {name}", f"INDEX {name}")
                    found[name] = f"CREATE {plain};"
                case "drop_index", [name]:
                    found.pop(name, None)


def indexes(connection: Connection, schema: str) -> Iterator[Finding]:
    """Look for indexes that are missing, and for those that a broken-off build left unusable."""
    present = {row["name"]: row["valid"] for row in ask(connection, schema, "indexes", tables=TABLES)}
    well = True
    for name, definition in index_definitions().items():
        if name not in present:
            well = False
            create = definition.replace("{schema}", f'"{schema}"').replace("INDEX ", "INDEX CONCURRENTLY ", 1)
            yield problem("indexes", f"the index {name} is missing", create)
    for name, valid in present.items():
        if not valid:
            well = False
            yield problem("indexes", f"the index {name} is invalid", f'REINDEX INDEX CONCURRENTLY "{schema}".{name}')
    if well:
        yield ok("indexes", f"all {len(present)} indexes are there and valid")


def long_transactions(connection: Connection, schema: str, *, seconds: float = 300.0) -> Iterator[Finding]:
    """Look for transactions, prepared ones and replication slots that keep dead rows alive."""
    rows = ask(connection, schema, "transactions", seconds=seconds)
    for row in rows:
        fix = {
            "transaction": f"end it there, or SELECT pg_terminate_backend({row['name']}); "
            "idle_in_transaction_session_timeout keeps it from happening",
            "prepared transaction": f"COMMIT PREPARED or ROLLBACK PREPARED '{row['name']}'",
            "replication slot": f"SELECT pg_drop_replication_slot('{row['name']}') if nobody needs it",
        }[row["kind"]]
        age = "" if row["age"] is None else f", {row['state']}, open for {row['age']:.0f} s"
        yield warning("transactions", f"{row['kind']} {row['name']} ({row['application'] or 'no name'}){age}", fix)
    if not rows:
        yield ok("transactions", f"no transaction is open for longer than {seconds:g} s")


def connections(server: dict[str, Any], *, workers: int, concurrency: int, share: float = 0.8) -> Iterator[Finding]:
    """Compare the connections in use with what is allowed. ``concurrency``: of all workers together.

    A worker has two, and each task that connects one more.
    """
    need = 2 * workers + concurrency
    limits = {
        "max_connections": (
            server["most"],
            server["used"],
            "raise max_connections, or put PgBouncer before your tasks",
        ),
        "the database's limit": (server["database_most"], server["database_used"], "ALTER DATABASE … CONNECTION LIMIT"),
        "the role's limit": (server["role_most"], server["role_used"], "ALTER ROLE … CONNECTION LIMIT"),
    }
    well = True
    for name, (most, used, fix) in limits.items():
        if most < 0:
            continue  # no limit
        if used > most * share:
            well = False
            yield warning("connections", f"{used} of {most} connections are in use ({name})", fix)
        elif need > most:
            well = False
            yield warning(
                "connections",
                f"{workers} worker(s) with {concurrency} task(s) at once may need {need} connections, {name} is {most}",
                f"{fix}; or lower --concurrency",
            )
    if well:
        yield ok("connections", f"{server['used']} of {server['most']} connections are in use")


def pooler(connection: Connection, notified: Callable[[], bool]) -> Iterator[Finding]:
    """Look whether the way to the database that workers take can LISTEN.

    ``connection``: on that way. ``notified``: tries a notification on it and tells whether it arrived.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    between = row is not None and row[0] != connection.info.backend_pid
    if not notified():
        yield problem(
            "pooler",
            "notifications don't arrive: the way to the database is a pooler in transaction mode",
            "give workers a direct way: PQ(listen_dsn=…); until then they look once in every --poll-interval, and "
            "migrations have no lock",
        )
    elif between:
        yield warning(
            "pooler",
            "there is a pooler between here and the database, in session mode as it seems",
            "give workers a direct way: PQ(listen_dsn=…)",
        )
    else:
        yield ok("pooler", "notifications arrive; no pooler is between")


def worker_versions(workers: list[tuple[int, str, str]]) -> Iterator[Finding]:
    """Compare the versions that live workers run, given as id, name and version, with this one's."""
    older = [(id_, name, version) for id_, name, version in workers if _release(version) < _release(__version__)]
    for id_, name, version in older:
        yield warning(
            "versions",
            f"worker {id_} ({name}) runs pq {version}, this is {__version__}",
            "finish the deploy: restart it with the new version",
        )
    if not workers:
        yield problem("versions", "no worker is alive", "start one: pq worker APP")
    elif not older:
        yield ok("versions", f"{len(workers)} worker(s), none older than this pq ({__version__})")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def names(connection: Connection, schema: str, registry: Registry | None = None) -> Iterator[Finding]:
    """Look for pending tasks that nobody will run: refused by workers, in queues without a worker, unknown to the code.

    ``registry``: of an application whose code is compared.
    """
    well = True
    for row in ask(connection, schema, "waiting", cap=CAP):
        what = f"{row['count']} pending task(s) {row['name']} (version {row['version']}, queue {row['queue']})"
        if row["refused"]:
            well = False
            yield problem(
                "names",
                f"{what}: refused by a worker for {row['since']:.0f} s, no live worker has taken them since",
                "deploy code that has this name (an alias of the task it became) and version, or cancel them: "
                f"pq tasks cancel --name {row['name']}",
            )
        elif row["due"] and not row["served"]:
            well = False
            yield problem("names", f"{what}: no live worker serves the queue", f"pq worker APP --queues {row['queue']}")
        elif registry is not None and (reason := unrunnable(registry, row["name"], row["version"])):
            well = False
            yield problem("names", f"{what}: {reason}", "keep the old name as an alias, or let them run out first")
    if well:
        yield ok("names", "every pending task has a worker for its queue, and none was refused")


def running(connection: Connection, schema: str, *, seconds: float = 10.0) -> Iterator[Finding]:
    """Look for tasks that are on record as running ``seconds`` after the lease of their worker has ended."""
    rows = ask(connection, schema, "running", seconds=seconds)
    for row in rows:
        lease = "has no lease" if row["ended"] is None else f"({row['name']}) lost its lease {row['ended']:.0f} s ago"
        yield problem(
            "running",
            f"{row['count']} task(s) are on record as running, but their worker {row['worker']} {lease}",
            "start a worker: it takes them back within seconds, after an outage of the database when it has lived for "
            "as long as that lease; pq worker APP --until-empty waits for that, up to a minute",
        )
    if not rows:
        yield ok("running", "every running task has a worker with a lease")


def starts(connection: Connection, schema: str) -> Iterator[Finding]:
    """Look for tasks that start again and again, and are always interrupted or lost before their end."""
    rows = ask(connection, schema, "uncounted", cap=CAP)
    for row in rows:
        yield warning(
            "starts",
            f"{row['count']} unfinished task(s) {row['name']}, as {row['id']}, have started up to {row['most']} times "
            "in a row without an end that counts: their workers stop or die before they are done",
            "raise --drain-timeout, deploy less often than they take, or cut them into shorter ones; "
            "max_starts bounds it",
        )
    if not rows:
        yield ok("starts", "no unfinished task has started five times in a row without an end that counts")


def unrunnable(registry: Registry, name: str, version: int) -> str | None:
    """Say why this application's code can't run a stored name and version; None if it can."""
    try:
        found = registry.resolve(name)
    except PQError as error:
        return str(error)
    if version > found.version:
        return f"version {version} is newer than this code's {found.version}"
    return None
