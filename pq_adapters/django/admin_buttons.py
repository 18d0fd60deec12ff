"""Buttons on the page of one task in the admin: run it again, cancel it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import gettext_lazy as _

from pq_adapters.django.client import pq
from pq_core.filters import FINISHED

LABELS = {"retry": _("Run again"), "cancel": _("Cancel")}


def applies(action: str, task: Any) -> bool:
    """Return whether a task stands where the action means something: finished to run again, unfinished to cancel."""
    return (task.status in FINISHED) is (action == "retry")


class TaskButtons:
    """Adds the buttons to a ``ModelAdmin`` that has ``has_retry_permission`` and ``has_cancel_permission``."""

    change_form_template = "admin/pq/task/change_form.html"

    def get_urls(self) -> list[Any]:
        """Return the admin's addresses, those of the buttons before them: its own take every address."""
        admin: Any = self
        own = [
            path(
                f"<path:object_id>/{action}/",
                admin.admin_site.admin_view(getattr(self, f"{action}_view")),
                name=f"pq_task_{action}",
            )
            for action in LABELS
        ]
        return [*own, *super().get_urls()]  # type: ignore[misc]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show the task, with a button for each action that applies and that the user may take."""
        admin: Any = self
        task = admin.get_object(request, unquote(object_id))
        buttons = [
            {"label": label, "url": reverse(f"{admin.admin_site.name}:pq_task_{action}", args=[object_id])}
            for action, label in LABELS.items()
            if task is not None and applies(action, task) and self._may(request, action)
        ]
        context = {**(extra_context or {}), "pq_buttons": buttons}
        return super().change_view(request, object_id, form_url, context)  # type: ignore[misc]

    def retry_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Run a finished task again."""
        return self._act(request, object_id, "retry")

    def cancel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Cancel what has not finished; a running task is told to stop."""
        return self._act(request, object_id, "cancel")

    def _may(self, request: HttpRequest, action: str) -> bool:
        return bool(getattr(self, f"has_{action}_permission")(request))

    def _act(self, request: HttpRequest, object_id: str, action: str) -> HttpResponse:
        admin: Any = self
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not admin.has_view_permission(request) or not self._may(request, action):
            raise PermissionDenied
        task = admin.get_object(request, unquote(object_id))
        if task is None:
            raise Http404(f"there is no task {object_id}")
        if action == "retry":
            # By its id alone this may fail with DuplicateClientId; a page says so rather than break.
            done = pq.retry_many(ids=[task.pk]) == 1
            told = _("Task %d runs again.") if done else _("Task %d can't run again: see its state and its client_id.")
        else:
            done = pq.cancel(task.pk, reason=f"by {request.user.get_username()} in the admin")
            told = _("Task %d is cancelled.") if done else _("Task %d has finished already.")
        admin.message_user(request, told % task.pk, messages.SUCCESS if done else messages.WARNING)
        return HttpResponseRedirect(reverse(f"{admin.admin_site.name}:pq_task_change", args=[object_id]))
