"""Pq's fourth revision: an index that finds what a worker ended, and workers that are told to stop."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

from pq_adapters.django.schema_operations import MigrateSchema


class Migration(migrations.Migration):
    """Bring pq's schema to its fourth revision; not in a transaction of Django's, as in the first."""

    atomic = False
    dependencies: ClassVar[list[Any]] = [("pq", "0003_history")]
    operations: ClassVar[list[Any]] = [MigrateSchema("0004")]
