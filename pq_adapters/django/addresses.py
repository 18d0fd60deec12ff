"""The DSN of a Django connection: what libpq needs of ``DATABASES[alias]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import connections
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pq_core.dsn import find_dsn
from pq_core.errors import InvalidDSN
from pq_core.types import DSN

_OURS = {"client_encoding"}
"""Parameters that Django sets for its own sessions."""


def dsn_of(alias: str) -> Callable[[], str]:
    """Return a function that returns the DSN, as ``PQ(dsn=…)`` takes it; a test database counts once it is chosen."""
    return lambda: conninfo_of(connections[alias])


def database(dsn: DSN | None = None, **more: Any) -> dict[str, Any]:
    """Return an entry of DATABASES for a DSN: the given one, else PQ_DATABASE_URL, else DATABASE_URL.

    ``more``: further keys, such as ``CONN_MAX_AGE=60``. For settings modules.
    """
    said: dict[str, Any] = dict(conninfo_to_dict(find_dsn(dsn)))
    keys = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    entry = {key: str(said.pop(name, "") or "") for key, name in keys.items()}
    options = {**said, **more.pop("OPTIONS", {})}
    return {"ENGINE": "django.db.backends.postgresql", **entry, "OPTIONS": options, **more}


def conninfo_of(connection: Any) -> str:
    """Return the key/value string of a database wrapper, its ``assume_role`` included.

    Raises InvalidDSN if it is not Postgres.
    """
    if connection.vendor != "postgresql":
        raise InvalidDSN(f"DATABASES[{connection.alias!r}] is {connection.vendor}; pq's tables are in Postgres")
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} - _OURS
    parameters = {
        name: value for name, value in connection.get_connection_params().items() if name in known and value is not None
    }
    if role := connection.settings_dict["OPTIONS"].get("assume_role"):
        escaped = re.sub(r"([\\ ])", r"\\\1", str(role))
        parameters["options"] = f"{parameters.get('options', '')} -c role={escaped}".strip()
    return make_conninfo(**parameters)
