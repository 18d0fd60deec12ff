"""The application to install: ``INSTALLED_APPS = ["pq_adapters.django", …]``."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from django.apps import AppConfig
from django.core import checks
from django.utils.translation import gettext_lazy as _


class PQConfig(AppConfig):
    """Brings migrations, models, the admin and the commands."""

    name = "pq_adapters.django"
    label = "pq"
    verbose_name = _("Background tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make the project's ``PQ`` known and register the checks; no task module is imported here."""
        from pq_adapters.django import (
            client,  # noqa: F401
            routing,
        )
        from pq_adapters.django.system_checks import check_settings, check_tables

        routing.install()
        if find_spec("django.tasks") is not None:
            import_module("django.tasks")  # registers Django's check of TASKS, which asks each backend for its own
        checks.register(check_settings)
        checks.register(check_tables, checks.Tags.database)
