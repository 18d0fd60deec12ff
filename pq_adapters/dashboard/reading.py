"""The dashboard's own statements: one per file below ``sql/``, run on the connections of its ``PQ``."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql

from pq_core.bound import reraise
from pq_core.payload import dumps
from pq_core.psycopg_executor import AsyncPsycopgExecutor
from pq_core.store import Request, load

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.executor import Statement

T = TypeVar("T")

_SETTINGS = "SELECT set_config('jit', 'off', true), set_config('statement_timeout', '10s', true)"
"""For what the dashboard reads. A plan with many LIMITs is estimated far above what it costs: compiling one took 1.8 s,
running it 0.1 s. And whatever somebody looks for, the database has better things to do after ten seconds."""


@lru_cache(maxsize=64)
def text_of(name: str) -> str:
    """Return the text of ``sql/<name>.sql`` without its comments."""
    text = files("pq_adapters.dashboard").joinpath("sql", *f"{name}.sql".split("/")).read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))


@lru_cache(maxsize=1024)
def _statement(schema: str, name: str, words: tuple[tuple[str, str], ...]) -> Statement:
    identifier = sql.Identifier(schema).as_string(None)
    return load(name, text_of(name), {"schema": identifier, **dict(words)})


def question(schema: str, name: str, parameters: Any, **words: str | int) -> Request[list[Any]]:
    """Return a statement as a request whose rows are JSON. ``words``: what ``{word}`` in its text stands for."""
    filled = tuple(sorted((word, str(value)) for word, value in words.items()))
    return Request(_statement(schema, name, filled), dumps(parameters), lambda found: [json.loads(r) for r in found])


async def run(pq: PQ, request: Request[T]) -> T:
    """Run one reading statement in a transaction with settings of its own."""
    async with pq.asession() as connection:
        try:
            async with connection.pipeline():
                await connection.execute(_SETTINGS)
                rows = await AsyncPsycopgExecutor(connection).execute(request.statement, request.parameters)
        except psycopg.Error as error:
            reraise(error, pq.schema)
    return request.parse(rows)


async def ask_text(pq: PQ, name: str, parameters: Any, **words: str | int) -> list[str]:
    """Run a statement of ours and return its rows as they came, JSON text."""
    filled = tuple(sorted((word, str(value)) for word, value in words.items()))
    return await run(pq, Request(_statement(pq.schema, name, filled), dumps(parameters), list))


async def ask(pq: PQ, name: str, parameters: Any = None, **words: str | int) -> list[Any]:
    """Run a statement of ours and return its rows, each read as JSON."""
    return await run(pq, question(pq.schema, name, parameters or {}, **words))
