"""The columns, functions and triggers that this code needs of its schema, and which of them are not there.

A revision's number says what was applied, not what is there: a revision may have been edited after it was applied, a
dump restored in part, a column dropped by hand. What is needed is read from the migrations themselves.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from psycopg import RawCursor
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    import psycopg

GONE = ("42703", "42P01", "42883", "3F000")
"""What a server says of a column, table, function or schema that is not there."""

_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?\{schema\}\.(\w+) \((.*?)^\)", re.M | re.S)
_COLUMN = re.compile(r"^ {4}([a-z_]+)\s", re.MULTILINE)
_ALTER = re.compile(r"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?\{schema\}\.(\w+)\s([^;]*);")
_CHANGE = re.compile(r"\b(ADD|DROP) COLUMN (?:IF (?:NOT )?EXISTS )?(\w+)")
_FUNCTION = re.compile(r"\b(CREATE(?: OR REPLACE)?|DROP) FUNCTION (?:IF EXISTS )?\{schema\}\.(\w+)")
_TRIGGER = re.compile(r"\b(CREATE(?: OR REPLACE)?|DROP) TRIGGER (?:IF EXISTS )?(\w+)\s[^;]*?\sON \{schema\}\.(\w+)")


@dataclass(slots=True)
class Needed:
    """What a schema of this code's revision holds. ``columns``, ``triggers``: (table, name)."""

    columns: set[tuple[str, str]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    triggers: set[tuple[str, str]] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Take in what one file of a revision makes and takes away."""
        for table in _TABLE.finditer(text):
            self.columns.update((table[1], name) for name in _COLUMN.findall(table[2]))
        for alter in _ALTER.finditer(text):
            for verb, name in _CHANGE.findall(alter[2]):
                (self.columns.add if verb == "ADD" else self.columns.discard)((alter[1], name))
        for verb, name in _FUNCTION.findall(text):
            (self.functions.discard if verb == "DROP" else self.functions.add)(name)
        for verb, name, table_name in _TRIGGER.findall(text):
            (self.triggers.discard if verb == "DROP" else self.triggers.add)((table_name, name))


@cache
def needed() -> Needed:
    """Return what the migrations make, all in all."""
    found = Needed()
    folder = files("pq_core").joinpath("migrations", "versions")
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".sql"):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            found.note("".join(line for line in lines if not line.lstrip().startswith("--")))
    return found


def parameters(schema: str) -> tuple[str, list[str], list[str], list[str], list[str], list[str]]:
    """Return the parameters of sql/worker/missing.sql."""
    wants = needed()
    columns, triggers = sorted(wants.columns), sorted(wants.triggers)
    return (
        schema,
        [table for table, _ in columns],
        [name for _, name in columns],
        sorted(wants.functions),
        [table for table, _ in triggers],
        [name for _, name in triggers],
    )


def missing(connection: psycopg.Connection[Any], schema: str) -> list[str]:
    """Return what this code needs and the schema lacks, each in words. Only reads the catalog."""
    from pq_core.store import text_of

    cursor = RawCursor(connection, row_factory=tuple_row)
    return [str(row[0]) for row in cursor.execute(text_of("missing", "worker"), parameters(schema)).fetchall()]


def words(schema: str, lacking: list[str], *, most: int = 5) -> str:
    """Say what a schema lacks, and what mends it."""
    some = ", ".join(lacking[:most]) + (f" and {len(lacking) - most} more" if len(lacking) > most else "")
    flag = "" if schema == "public" else f" --schema {shlex.quote(schema)}"
    return (
        f'schema "{schema}" is up to date by number, but lacks {some}: run `pq migrate{flag}`; if it says the same, '
        "somebody has changed the tables: create what is missing as it stands in "
        f"`pq migrate{flag} --sql`, or restore it"
    )
