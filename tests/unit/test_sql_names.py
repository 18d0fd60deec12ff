from __future__ import annotations

import pytest
from psycopg import sql

from pq_core.sql_names import identifier, literal

NAMES = [
    "public",
    "",
    'a"b',
    "it's",
    "100%: \"a\" 'b' %s :name {x} \\ ü",
    "\\",
    "\\'\\\\",
    "''",
    '""',
    "a.b",
    "漢\n\U0001f418",
    "$$",
    "?",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_and_texts_are_written_as_the_driver_does(name: str) -> None:
    assert identifier(name) == sql.Identifier(name).as_string(None)
    assert identifier("a", name) == sql.Identifier("a", name).as_string(None)
    assert literal(name) == sql.Literal(name).as_string(None)
