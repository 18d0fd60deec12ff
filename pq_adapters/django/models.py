"""Pq's tables as models to read: in the admin, in queries, in joins. What changes tasks is ``pq``."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.utils.translation import gettext_lazy as _

from pq_adapters.django.configuration import database_alias, db_table


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError("pq's tables are changed by pq alone: pq.enqueue(), pq.cancel(), pq.retry_many(), pq.prune()")


class ReadOnlyQuerySet(models.QuerySet):
    """Reads."""

    create = bulk_create = update = bulk_update = delete = get_or_create = update_or_create = _refuse


class ReadOnlyManager(models.Manager.from_queryset(ReadOnlyQuerySet)):  # type: ignore[misc]
    """Reads from the alias that holds pq's tables."""

    use_in_migrations = False

    def get_queryset(self) -> Any:
        return ReadOnlyQuerySet(self.model, using=self._db or database_alias())


class ReadOnlyModel(models.Model):
    """A row of a table that is not Django's."""

    objects = ReadOnlyManager()

    class Meta:
        abstract = True

    save = delete = _refuse


class Task(ReadOnlyModel):
    """A row of ``pq_tasks``."""

    class Status(models.TextChoices):
        """Where a task stands."""

        PENDING = "pending", _("pending")
        RUNNING = "running", _("running")
        COMPLETED = "completed", _("completed")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    id = models.BigAutoField(primary_key=True)
    name = models.TextField()
    status = models.TextField(choices=Status)
    queue = models.TextField()
    priority = models.SmallIntegerField()
    run_at = models.DateTimeField()
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    client_id = models.TextField(null=True)
    attempts = models.IntegerField()
    max_attempts = models.IntegerField()
    losses = models.IntegerField()
    snoozes = models.IntegerField()
    outcome = models.TextField(null=True)
    error = models.TextField(null=True)
    output = models.TextField(null=True)
    payload = models.JSONField()
    result = models.JSONField(null=True)
    headers = models.JSONField(null=True)
    options = models.JSONField(null=True)
    ledger = models.JSONField(null=True)
    max_runtime_seconds = models.FloatField(null=True)
    progress = models.FloatField(null=True)
    progress_message = models.TextField(null=True)
    version = models.IntegerField()
    worker_id = models.BigIntegerField(null=True)
    fence = models.BigIntegerField()
    cancel_requested_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = db_table("pq_tasks")
        default_permissions = ("view",)
        permissions = (("retry_task", _("Can run a task again")), ("cancel_task", _("Can cancel a task")))
        verbose_name = _("task")
        verbose_name_plural = _("tasks")

    def __str__(self) -> str:
        return f"{self.name} {self.pk}"


class Attempt(ReadOnlyModel):
    """A row of ``pq_attempts``: an attempt that was not a success at the first try."""

    id = models.BigAutoField(primary_key=True)
    task = models.ForeignKey(Task, models.DO_NOTHING, db_constraint=False, related_name="history")
    fence = models.BigIntegerField()
    number = models.IntegerField()
    worker_id = models.BigIntegerField(null=True)
    outcome = models.TextField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField()
    error = models.TextField(null=True)
    fingerprint = models.TextField(null=True)
    ledger = models.JSONField(null=True)
    output = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = db_table("pq_attempts")
        default_permissions = ("view",)
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")

    def __str__(self) -> str:
        return f"{self.number}: {self.outcome}"


class Schedule(ReadOnlyModel):
    """A row of ``pq_periodic``."""

    id = models.BigAutoField(primary_key=True)
    name = models.TextField()
    key = models.TextField()
    client_id = models.TextField(null=True)
    queue = models.TextField()
    priority = models.SmallIntegerField()
    payload = models.JSONField()
    run_every = models.DurationField(null=True)
    cron = models.TextField(null=True)
    timezone = models.TextField(null=True)
    next_run = models.DateTimeField(null=True)
    last_run = models.DateTimeField(null=True)
    active = models.BooleanField()
    error = models.TextField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = db_table("pq_periodic")
        default_permissions = ("view",)
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")

    def __str__(self) -> str:
        return f"{self.name} {self.key}".rstrip()


class Worker(ReadOnlyModel):
    """A row of ``pq_workers``: a worker's lease."""

    id = models.BigAutoField(primary_key=True)
    name = models.TextField()
    host = models.TextField()
    pid = models.IntegerField()
    app = models.TextField()
    concurrency = models.IntegerField()
    draining = models.BooleanField()
    pq_version = models.TextField()
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = db_table("pq_workers")
        default_permissions = ("view",)
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return str(self.name)
