"""What Django's fixtures may hold: no rows of pq's tables, which are changed by pq alone."""

from __future__ import annotations

from typing import Any

from django.db import router

LABEL = "pq"


class WithoutFixtures:
    """A router that keeps pq's models out of ``dumpdata`` and ``loaddata``, for every database.

    A fixture writes rows as they were, past ``save()``: a finished task would be pending again and run once more, and
    in a database with other tasks the whole fixture would break off. Models are asked about there alone: pq's tables
    are no models to Django's migrations.
    """

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        """Say no of a model of pq; nothing of anything else."""
        return False if app_label == LABEL and hints.get("model") is not None else None


def install() -> None:
    """Put the router before those of ``settings.DATABASE_ROUTERS``, once."""
    if not any(isinstance(one, WithoutFixtures) for one in router.routers):
        router.routers.insert(0, WithoutFixtures())
