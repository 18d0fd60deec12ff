"""Django's system checks of ``settings.PQ`` and of the tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import DatabaseError, connections

from pq_adapters.django.client import DjangoPQ, pq
from pq_adapters.django.configuration import Configuration
from pq_core.errors import PQError


def check_settings(app_configs: Any = None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Report what can't work in ``settings.PQ``, without touching a database."""
    try:
        configuration = Configuration.read()
    except PQError as error:
        return [Error(str(error), hint="The keys are those of PQ(), and alias, autodiscover.", id="pq.E001")]
    if configuration.alias not in settings.DATABASES:
        known = ", ".join(sorted(settings.DATABASES))
        hint = f"Name one of DATABASES: {known}."
        return [Error(f"settings.PQ['alias'] is {configuration.alias!r}.", hint=hint, id="pq.E002")]
    if connections[configuration.alias].vendor != "postgresql":
        return [
            Error(
                f"DATABASES[{configuration.alias!r}] is not Postgres, which pq needs.",
                hint="Add a Postgres database to DATABASES and name it: PQ = {'alias': …}.",
                id="pq.E003",
            )
        ]
    try:
        _ = pq.registry
    except (PQError, ImportError) as error:
        return [Error(f"settings.PQ: {error}", hint="See docs/adapters/django.md.", id="pq.E001")]
    return []


def check_tables(app_configs: Any = None, databases: Iterable[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Report tables that are missing; only for ``check --database``."""
    if not databases or check_settings() or pq.alias not in databases:
        return []
    if sys.argv[1:2] == ["migrate"]:
        return []  # it asks before it makes them
    hint = f"Run `manage.py migrate{DjangoPQ._database_flag(pq)}`."
    try:
        pq.stats()
    except PQError as error:
        return [Warning(str(error), hint=hint, id="pq.W001")]
    except DatabaseError:
        return []  # Django's own checks say it
    return []
