"""Three roles for those who enqueue, those who work and those who look on, as SQL to be read and run by an owner."""

from __future__ import annotations

import re
from importlib.resources import files

from pq_core.errors import InvalidOption
from pq_core.schema import TABLES, VERSION_TABLE
from pq_core.sql_names import check_schema_name, identifier, literal

ROLES = ("producer", "worker", "viewer")
LONGEST_ROLE = 63
"""Bytes of a role's name: Postgres cuts longer ones."""
_NOT_WORKED = ("pq_schema", "pq_keys", "pq_audit")


def roles_sql(schema: str = "public", *, prefix: str = "pq_") -> str:
    """Return the script that creates the roles ``<prefix>producer``, ``…worker`` and ``…viewer`` and their rights.

    It can be run again and again. Raises InvalidOption for a name that Postgres can't have.
    """
    check_schema_name(schema)
    if "$" in schema or "\n" in schema or "\r" in schema:
        raise InvalidOption(f"schema={schema!r}: the script can't be written for a name with $ or a line's end in it")
    from pq_core.migrations import runner

    names = {role: _checked(f"{prefix}{role}", prefix) for role in ROLES}
    words = {
        "schema": identifier(schema),
        "schema_text": literal(schema),
        **{role: identifier(name) for role, name in names.items()},
        **{f"{role}_text": literal(name) for role, name in names.items()},
        "tables": ", ".join(identifier(schema, table) for table in (*TABLES, VERSION_TABLE)),
        "worked": ", ".join(identifier(schema, table) for table in TABLES if table not in _NOT_WORKED),
        "functions": ", ".join(literal(name) for name in sorted(runner.function_names())),
    }
    template = files("pq_core").joinpath("sql", "roles.sql").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda found: words[found[1]], template)


def _checked(name: str, prefix: str) -> str:
    problem = None
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        problem = "Postgres can't have it in a name"
    elif "\n" in name or "\r" in name:
        problem = "give one line: the names stand in comments, too"
    elif "$" in name:
        problem = "give a prefix without $"  # it could end the quoted block that the name stands in
    elif name.startswith("pg_"):
        problem = "Postgres keeps names that begin with pg_ for itself"
    elif len(name.encode()) > LONGEST_ROLE:
        problem = f"Postgres cuts names to {LONGEST_ROLE} bytes"
    if problem is not None:
        raise InvalidOption(f"role prefix {prefix[:80]!r}: {problem}")
    return name
