"""Pq's first revision, and the models that read its tables."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models

from pq_adapters.django.configuration import db_table
from pq_adapters.django.schema_operations import MigrateSchema


class Migration(migrations.Migration):
    """Create the tables; not in a transaction of Django's, since pq's migrations have their own."""

    atomic = False
    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        MigrateSchema("0001"),
        migrations.CreateModel(
            name="Attempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("fence", models.BigIntegerField()),
                ("number", models.IntegerField()),
                ("worker_id", models.BigIntegerField(null=True)),
                ("outcome", models.TextField()),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField()),
                ("error", models.TextField(null=True)),
                ("fingerprint", models.TextField(null=True)),
                ("ledger", models.JSONField(null=True)),
                ("output", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "attempt",
                "verbose_name_plural": "attempts",
                "db_table": db_table("pq_attempts"),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Schedule",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("key", models.TextField()),
                ("client_id", models.TextField(null=True)),
                ("queue", models.TextField()),
                ("priority", models.SmallIntegerField()),
                ("payload", models.JSONField()),
                ("run_every", models.DurationField(null=True)),
                ("cron", models.TextField(null=True)),
                ("timezone", models.TextField(null=True)),
                ("next_run", models.DateTimeField(null=True)),
                ("last_run", models.DateTimeField(null=True)),
                ("active", models.BooleanField()),
                ("error", models.TextField(null=True)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "schedule",
                "verbose_name_plural": "schedules",
                "db_table": db_table("pq_periodic"),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                (
                    "status",
                    models.TextField(
                        choices=[
                            ("pending", "pending"),
                            ("running", "running"),
                            ("completed", "completed"),
                            ("failed", "failed"),
                            ("cancelled", "cancelled"),
                        ]
                    ),
                ),
                ("queue", models.TextField()),
                ("priority", models.SmallIntegerField()),
                ("run_at", models.DateTimeField()),
                ("created_at", models.DateTimeField()),
                ("started_at", models.DateTimeField(null=True)),
                ("completed_at", models.DateTimeField(null=True)),
                ("client_id", models.TextField(null=True)),
                ("attempts", models.IntegerField()),
                ("max_attempts", models.IntegerField()),
                ("losses", models.IntegerField()),
                ("snoozes", models.IntegerField()),
                ("outcome", models.TextField(null=True)),
                ("error", models.TextField(null=True)),
                ("output", models.TextField(null=True)),
                ("payload", models.JSONField()),
                ("result", models.JSONField(null=True)),
                ("headers", models.JSONField(null=True)),
                ("options", models.JSONField(null=True)),
                ("ledger", models.JSONField(null=True)),
                ("max_runtime_seconds", models.FloatField(null=True)),
                ("progress", models.FloatField(null=True)),
                ("progress_message", models.TextField(null=True)),
                ("version", models.IntegerField()),
                ("worker_id", models.BigIntegerField(null=True)),
                ("fence", models.BigIntegerField()),
                ("cancel_requested_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "task",
                "verbose_name_plural": "tasks",
                "db_table": db_table("pq_tasks"),
                "permissions": (("retry_task", "Can run a task again"), ("cancel_task", "Can cancel a task")),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("host", models.TextField()),
                ("pid", models.IntegerField()),
                ("app", models.TextField()),
                ("concurrency", models.IntegerField()),
                ("draining", models.BooleanField()),
                ("pq_version", models.TextField()),
                ("started_at", models.DateTimeField()),
                ("heartbeat_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
                "db_table": db_table("pq_workers"),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
