"""Pq's third revision: an index for the history of each task function."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

from pq_adapters.django.schema_operations import MigrateSchema


class Migration(migrations.Migration):
    """Bring pq's schema to its third revision; not in a transaction of Django's, as in the first."""

    atomic = False
    dependencies: ClassVar[list[Any]] = [("pq", "0002_operations")]
    operations: ClassVar[list[Any]] = [MigrateSchema("0003")]
