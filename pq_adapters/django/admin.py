"""Pq's tables in the admin: to read, to retry, to cancel."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from pq_adapters.django.admin_buttons import TaskButtons
from pq_adapters.django.client import pq
from pq_adapters.django.models import Attempt, Schedule, Task, Worker
from pq_core.filters import FINISHED
from pq_core.types import HIDDEN


class ReadOnly:
    """Nobody adds, changes or deletes rows by hand."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Tasks are enqueued by code."""
        return False

    def has_change_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Rows are changed by workers."""
        return False

    def has_delete_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Rows go by ``pq_prune``."""
        return False


def _sensitive(task: Task) -> bool:
    return isinstance(task.options, dict) and bool(task.options.get("sensitive"))


def _block(text: str | None) -> SafeString | str:
    return format_html('<pre style="white-space: pre-wrap; margin: 0">{}</pre>', text) if text else "-"


def _json(value: Any) -> SafeString | str:
    return _block(None if value is None else json.dumps(value, indent=2, ensure_ascii=False))


class QueueFilter(admin.SimpleListFilter):
    """The queues that have unfinished tasks or declared ones: to read all finished rows for it would take long."""

    title = _("queue")
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the queues."""
        return [(name, name) for name in sorted({*pq.stats().queues, *pq.registry.queues(pq.defaults)})]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the tasks of the chosen queue."""
        return queryset.filter(queue=self.value()) if self.value() else queryset


class OutcomeFilter(admin.SimpleListFilter):
    """How the last attempt ended."""

    title = _("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the outcomes."""
        from pq_core.types import Outcome

        return [(outcome.value, outcome.value.replace("_", " ")) for outcome in Outcome]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the tasks whose last attempt ended so."""
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class AttemptInline(ReadOnly, admin.StackedInline):
    """The attempts of a task, with what each died of."""

    model = Attempt
    extra = 0
    fields = readonly_fields = ("outcome", "started_at", "finished_at", "worker_id", "error_text", "output_text")
    ordering = ("fence",)

    @admin.display(description=_("error"))
    def error_text(self, attempt: Attempt) -> SafeString | str:
        """Return the error with its lines."""
        return _block(attempt.error)

    @admin.display(description=_("output"))
    def output_text(self, attempt: Attempt) -> SafeString | str:
        """Return the end of what it printed."""
        return _block(attempt.output)


@admin.register(Task)
class TaskAdmin(TaskButtons, ReadOnly, admin.ModelAdmin):
    """Tasks, the newest first."""

    list_display = ("id", "name", "status", "queue", "priority", "attempts", "run_at", "completed_at", "last_line")
    list_filter = ("status", QueueFilter, OutcomeFilter)
    search_fields = ("name__startswith", "client_id__exact")
    search_help_text = _("An id, a client_id, or how a name begins")
    ordering = ("-id",)
    show_full_result_count = False
    list_per_page = 50
    actions = ("retry_tasks", "cancel_tasks")
    inlines = (AttemptInline,)
    fields = (
        ("name", "status", "outcome"),
        ("queue", "priority", "client_id"),
        ("attempts", "max_attempts", "losses", "snoozes"),
        ("created_at", "run_at", "started_at", "completed_at"),
        ("progress", "progress_message", "max_runtime_seconds"),
        "error_text",
        "arguments",
        "result_text",
        "output_text",
        ("headers", "ledger"),
    )
    readonly_fields = ("error_text", "arguments", "result_text", "output_text")

    @admin.display(description=_("error"))
    def last_line(self, task: Task) -> str:
        """Return the last line of the error, which names the exception."""
        return ((task.error or "").strip().splitlines() or ["-"])[-1][:120]

    @admin.display(description=_("error"))
    def error_text(self, task: Task) -> SafeString | str:
        """Return the error with its lines."""
        return _block(task.error)

    @admin.display(description=_("arguments"))
    def arguments(self, task: Task) -> SafeString | str:
        """Return the payload."""
        return HIDDEN if _sensitive(task) else _json(task.payload)

    @admin.display(description=_("result"))
    def result_text(self, task: Task) -> SafeString | str:
        """Return the stored result."""
        return HIDDEN if _sensitive(task) and task.result is not None else _json(task.result)

    @admin.display(description=_("output"))
    def output_text(self, task: Task) -> SafeString | str:
        """Return the end of what the last attempt printed."""
        return _block(task.output)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Look for an id, a client_id, or the beginning of a name, which indexes or one scan answer."""
        term = search_term.strip()
        if not term:
            return queryset, False
        meant = Q(client_id=term) | Q(name__startswith=term)
        if term.isdecimal() and len(term) < 19:
            meant |= Q(pk=int(term))
        return queryset.filter(meant), False

    @admin.action(description=_("Run the selected tasks again"), permissions=["retry"])
    def retry_tasks(self, request: HttpRequest, queryset: Any) -> None:
        """Put finished tasks back; others stay as they are."""
        ids = list(queryset.filter(status__in=[status.value for status in FINISHED]).values_list("pk", flat=True))
        count = pq.retry_many(ids=ids) if ids else 0
        self._told(request, ngettext("%d task runs again.", "%d tasks run again.", count) % count, count)

    @admin.action(description=_("Cancel the selected tasks"), permissions=["cancel"])
    def cancel_tasks(self, request: HttpRequest, queryset: Any) -> None:
        """Cancel what has not finished; running ones are told to stop."""
        ids = list(queryset.values_list("pk", flat=True))
        count = pq.cancel_many(ids=ids, reason=f"by {request.user.get_username()} in the admin") if ids else 0
        self._told(request, ngettext("%d task is cancelled.", "%d tasks are cancelled.", count) % count, count)

    def _told(self, request: HttpRequest, words: str, count: int) -> None:
        self.message_user(request, words, messages.SUCCESS if count else messages.WARNING)

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run tasks again."""
        return bool(request.user.has_perm("pq.retry_task"))

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may cancel tasks."""
        return bool(request.user.has_perm("pq.cancel_task"))


@admin.register(Schedule)
class ScheduleAdmin(ReadOnly, admin.ModelAdmin):
    """Schedules."""

    list_display = ("id", "name", "key", "cron", "run_every", "timezone", "next_run", "last_run", "active")
    list_filter = ("active",)
    search_fields = ("name__startswith", "key__exact", "client_id__exact")
    ordering = ("next_run",)


@admin.register(Worker)
class WorkerAdmin(ReadOnly, admin.ModelAdmin):
    """Workers with a lease, or with one that ran out and was not cleared away yet."""

    list_display = ("id", "name", "app", "concurrency", "draining", "started_at", "heartbeat_at", "expires_at")
    ordering = ("name",)
