"""Names in SQL: what a schema may be called, and how names and texts are written in a statement that needs no driver.

Statements are composed in the image that a worker forks from, which holds no driver. What is written here is what
``psycopg.sql`` writes without a connection, in UTF-8; a test compares the two.
"""

from __future__ import annotations

from pq_core.errors import InvalidOption


def identifier(*names: str) -> str:
    """Return a name, or several as one qualified name, quoted."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: str) -> str:
    """Return a text as a literal that means the same with any ``standard_conforming_strings``."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def check_schema_name(schema: str) -> None:
    """Raise InvalidOption unless Postgres can have a schema of this name, unshortened."""
    problem = None
    if not isinstance(schema, str) or not schema:
        problem = "give the name of a schema"
    elif "\0" in schema:
        problem = "Postgres has no names with a NUL character"
    elif any("\ud800" <= character <= "\udfff" for character in schema):
        problem = "it holds half of a surrogate pair"
    elif len(schema.encode()) > 63:
        problem = "Postgres cuts names to 63 bytes"
    elif schema.startswith("pg_"):
        problem = "Postgres keeps names that begin with pg_ for itself"
    if problem:
        raise InvalidOption(f"schema={schema!r}: {problem}")
