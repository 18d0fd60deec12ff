"""The kinds of connections that the contract is held against: each opens one and speaks to it in one sync voice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import psycopg
import sqlalchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pq_adapters.sqlalchemy import engine_url
from pq_core import PQ


class Voice(Protocol):
    """What an exercise does with a connection, whatever it is underneath."""

    connection: Any

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``pq.using(connection).<method>``, the async twin where there is one."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def savepoint(self) -> Callable[[], object]:
        """Set a savepoint and return what rolls back to it."""


class PsycopgVoice:
    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn)

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(pq.using(self.connection), method)(*args, **kwargs)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def savepoint(self) -> Callable[[], object]:
        self.connection.execute("SAVEPOINT a")
        return lambda: self.connection.execute("ROLLBACK TO SAVEPOINT a")


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

    def savepoint(self) -> Callable[[], object]:
        self._runner.run(self.connection.execute("SAVEPOINT a"))
        return lambda: self._runner.run(self.connection.execute("ROLLBACK TO SAVEPOINT a"))


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


class SQLAlchemyVoice:
    """A session or connection of SQLAlchemy; an async one when there is a ``runner``."""

    def __init__(self, connection: Any, runner: asyncio.Runner | None = None) -> None:
        self.connection = connection
        self._runner = runner

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        prefix = "" if self._runner is None else "a"
        return self._ended(lambda: getattr(pq.using(self.connection), prefix + method)(*args, **kwargs))

    def commit(self) -> None:
        self._ended(self.connection.commit)

    def rollback(self) -> None:
        self._ended(self.connection.rollback)

    def savepoint(self) -> Callable[[], object]:
        nested = self._ended(self.connection.begin_nested)
        return lambda: self._ended(nested.rollback)

    def _ended(self, begin: Callable[[], Any]) -> Any:
        if self._runner is None:
            return begin()

        async def run() -> Any:
            begun = begin()
            return await begun if isinstance(begun, Awaitable) else begun

        return self._runner.run(run())


class DjangoVoice:
    """Django's connection without autocommit; what ``atomic()`` does is tested in a project of its own."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def call(self, pq: PQ, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(pq.using(self.connection), method)(*args, **kwargs)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def savepoint(self) -> Callable[[], object]:
        name = self.connection.savepoint()
        return lambda: self.connection.savepoint_rollback(name)


@contextmanager
def django(dsn: str) -> Iterator[Voice]:
    from django import setup
    from django.conf import settings
    from django.db.utils import ConnectionHandler

    if not settings.configured:
        settings.configure(USE_TZ=True, LOGGING_CONFIG=None)
        setup()
    said = psycopg.conninfo.conninfo_to_dict(dsn)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    database = {"ENGINE": "django.db.backends.postgresql"} | {names[name]: value for name, value in said.items()}
    connection = ConnectionHandler({"default": database})["default"]
    connection.set_autocommit(False)
    try:
        yield DjangoVoice(connection)
    finally:
        connection.close()


Open = Callable[[Any], Any]


@contextmanager
def sqlalchemy_sync(dsn: str, *, driver: str, open_: Open) -> Iterator[Voice]:
    engine = sqlalchemy.create_engine(engine_url(dsn, driver=driver))
    connection = open_(engine)
    try:
        yield SQLAlchemyVoice(connection)
    finally:
        connection.close()
        engine.dispose()


@contextmanager
def sqlalchemy_async(dsn: str, *, driver: str, open_: Open) -> Iterator[Voice]:
    async def opened() -> Any:
        connection = open_(engine)
        return await connection if isinstance(connection, Awaitable) else connection

    with asyncio.Runner() as runner:
        engine = _async().create_async_engine(engine_url(dsn, driver=driver))
        connection = runner.run(opened())
        try:
            yield SQLAlchemyVoice(connection, runner)
        finally:
            runner.run(connection.close())
            runner.run(engine.dispose())


SYNC: dict[str, Open] = {
    "session": Session,
    "connection": lambda engine: engine.connect(),
    "scoped-session": lambda engine: scoped_session(sessionmaker(engine)),
    "sqlmodel": lambda engine: import_module("sqlmodel").Session(engine),
}
ASYNC: dict[str, Open] = {
    "session": lambda engine: _async().AsyncSession(engine),
    "connection": lambda engine: engine.connect(),
    "scoped-session": lambda engine: _async().async_scoped_session(
        _async().async_sessionmaker(engine), scopefunc=lambda: "the test's"
    ),
    "sqlmodel": lambda engine: import_module("sqlmodel.ext.asyncio.session").AsyncSession(engine),
}
NEEDS = {
    **{"django": ("django",), "psycopg2": ("psycopg2",), "asyncpg": ("asyncpg", "greenlet")},
    **{"psycopg_async": ("greenlet",), "sqlmodel": ("sqlmodel",)},
}
"""Modules that a kind needs which has this word in its name."""


def _async() -> Any:
    # Its import fails without greenlet, which SQLAlchemy alone does not bring.
    return import_module("sqlalchemy.ext.asyncio")


def _sqlalchemy(
    voice: Callable[..., AbstractContextManager[Voice]], driver: str, kinds: dict[str, Open], *names: str
) -> dict[str, Callable[[str], AbstractContextManager[Voice]]]:
    return {f"sqlalchemy-{driver}-{name}": partial(voice, driver=driver, open_=kinds[name]) for name in names}


KINDS: dict[str, Callable[[str], AbstractContextManager[Voice]]] = {
    "psycopg": psycopg_sync,
    "psycopg-async": psycopg_async,
    "django": django,
    **_sqlalchemy(sqlalchemy_sync, "psycopg", SYNC, "session", "connection", "sqlmodel"),
    **_sqlalchemy(sqlalchemy_sync, "psycopg2", SYNC, "session", "connection", "scoped-session"),
    **_sqlalchemy(sqlalchemy_async, "psycopg_async", ASYNC, "session", "connection"),
    **_sqlalchemy(sqlalchemy_async, "asyncpg", ASYNC, "session", "connection", "scoped-session", "sqlmodel"),
}
"""Add a kind here and it must pass everything in ``test_executors``."""


def modules_for(kind: str) -> tuple[str, ...]:
    """Return the optional modules without which this kind can't be had."""
    return tuple(module for word, modules in NEEDS.items() if word in kind.split("-") for module in modules)
