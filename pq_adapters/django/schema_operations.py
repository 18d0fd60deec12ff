"""The migration operation that lets pq's own migrations run: the same SQL files, the same version row."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations.base import Operation

from pq_adapters.django.addresses import conninfo_of
from pq_adapters.django.configuration import database_alias, schema_name
from pq_core import schema as tables


class MigrateSchema(Operation):
    """Bring pq's schema to ``revision``, on the alias that ``settings.PQ`` names; on others it does nothing.

    On a connection of its own, under the lock that ``pq migrate`` takes too: whichever comes second finds it done.
    """

    reduces_to_sql = True
    reversible = True
    atomic = False

    def __init__(self, revision: str) -> None:
        self.revision = revision

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing: the models are not managed."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Apply the revisions that are missing."""
        if not _applies(app_label, schema_editor):
            return
        if schema_editor.collect_sql:
            # Of this revision alone: each has a migration of its own.
            before = None if self.revision == "0001" else f"{int(self.revision) - 1:04}"
            script = tables.migration_sql(schema_name(), revision=self.revision, since=before)
            schema_editor.collected_sql.append(script)
            return
        tables.migrate(conninfo_of(schema_editor.connection), schema_name(), revision=self.revision)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop pq's tables when the first revision is taken back; later ones have no way back."""
        if not _applies(app_label, schema_editor) or self.revision != "0001":
            return
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append("-- drops the tables and functions of pq")
            return
        tables.drop(conninfo_of(schema_editor.connection), schema_name())

    def describe(self) -> str:
        """Return a line for ``migrate --plan``."""
        return f"Bring the tables of pq to revision {self.revision}"


def _applies(app_label: str, schema_editor: Any) -> bool:
    from django.db import router

    alias = schema_editor.connection.alias
    return bool(alias == database_alias() and router.allow_migrate(alias, app_label))
