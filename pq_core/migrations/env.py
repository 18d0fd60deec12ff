"""What Alembic executes to run revisions; pq_core.migrations.runner calls it, users have no alembic.ini."""

from __future__ import annotations

from alembic import context
from sqlalchemy import quoted_name

attributes = context.config.attributes
schema = attributes["schema"]
options = {
    "version_table": attributes["version_table"],
    "version_table_schema": quoted_name(schema, quote=True),
    "pq_schema": schema,
    "pq_empty": attributes.get("empty", False),
}

if context.is_offline_mode():
    # "named": with other parameter styles, SQLAlchemy doubles the % in a schema's name.
    context.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, **options)
    with context.begin_transaction():
        if "create_schema" in attributes:
            context.get_context().impl.static_output(attributes["create_schema"])
        context.run_migrations()
else:
    # A transaction for each revision: a retry after a lock timeout goes on where the last one stopped.
    context.configure(connection=attributes["connection"], transaction_per_migration=True, **options)
    with context.begin_transaction():
        context.run_migrations()
