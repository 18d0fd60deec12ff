"""The kinds of connections that the contract is held against: each opens one and speaks to it in one sync voice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg

from pq_core import PQ


class Voice(Protocol):
    """What an exercise does with a connection, whatever it is underneath."""

    connection: Any

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``pq.using(connection).<method>``, the async twin where there is one."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


class PsycopgVoice:
    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn)

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(pq.using(self.connection), method)(*args, **kwargs)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


class AsyncPsycopgVoice:
    def __init__(self, dsn: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.connection = runner.run(_aconnect(dsn))

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._runner.run(getattr(pq.using(self.connection), f"a{method}")(*args, **kwargs))

    def commit(self) -> None:
        self._runner.run(self.connection.commit())

    def rollback(self) -> None:
        self._runner.run(self.connection.rollback())


async def _aconnect(dsn: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(dsn)


@contextmanager
def psycopg_sync(dsn: str) -> Iterator[Voice]:
    voice = PsycopgVoice(dsn)
    with voice.connection:
        yield voice


@contextmanager
def psycopg_async(dsn: str) -> Iterator[Voice]:
    with asyncio.Runner() as runner:
        voice = AsyncPsycopgVoice(dsn, runner)
        try:
            yield voice
        finally:
            runner.run(voice.connection.close())


KINDS = {"psycopg": psycopg_sync, "psycopg-async": psycopg_async}
"""Add a kind here and it must pass everything in ``test_executors``."""
