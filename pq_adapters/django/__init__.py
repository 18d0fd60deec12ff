"""pq in a Django project: add ``"pq_adapters.django"`` to INSTALLED_APPS and import ``pq`` from here.

Light: Django loads this module before its settings are known, so each name loads what it needs when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_adapters.django.addresses import database
    from pq_adapters.django.client import DjangoPQ, pq
    from pq_adapters.django.executor import DjangoExecutor
    from pq_adapters.django.task_backend import PQBackend, PQTask

__all__ = ["DjangoExecutor", "DjangoPQ", "PQBackend", "PQTask", "database", "executor_for", "pq"]

_HOMES = {
    "DjangoExecutor": "executor",
    "DjangoPQ": "client",
    "PQBackend": "task_backend",
    "PQTask": "task_backend",
    "database": "addresses",
    "pq": "client",
}


def executor_for(connection: Any) -> DjangoExecutor | None:
    """Return an executor for ``connections[alias]`` or ``django.db.connection``, None for anything else."""
    from pq_adapters.django import executor

    return executor.executor_for(connection)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    _require_django()
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def _require_django() -> None:
    try:
        import django  # noqa: F401
    except ImportError as error:
        raise ImportError("pq_adapters.django needs Django: pip install 'pq-toolkit[django]'") from error
