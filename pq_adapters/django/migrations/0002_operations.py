"""Pq's second revision: keys, an audit log, schedules that say their rhythm."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

from pq_adapters.django.schema_operations import MigrateSchema


class Migration(migrations.Migration):
    """Bring pq's schema to its second revision; not in a transaction of Django's, as in the first."""

    atomic = False
    dependencies: ClassVar[list[Any]] = [("pq", "0001_initial")]
    operations: ClassVar[list[Any]] = [MigrateSchema("0002")]
