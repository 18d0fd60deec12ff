"""``manage.py pq_migrate``: create or upgrade pq's tables, as ``migrate`` does among the other apps'."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pq_adapters.django import pq
from pq_core import schema as tables
from pq_core.errors import PQError


class Command(BaseCommand):
    """Bring the tables to this version of pq."""

    help = "Create or upgrade the tables of pq in the database and schema that settings.PQ names."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--sql", action="store_true", help="Print the script for an empty schema; touch no database."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["sql"]:
                self.stdout.write(tables.migration_sql(pq.schema))
                return
            result = tables.migrate(pq.dsn, pq.schema)
        except PQError as error:
            raise CommandError(str(error)) from error
        words = f"to revision {result.after:04}" if result.changed else f"at revision {result.after:04} already"
        self.stdout.write(f"schema {pq.schema}: {words}")
