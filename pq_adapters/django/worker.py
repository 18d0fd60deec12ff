"""What a worker process loads: ``pq worker pq_adapters.django.worker``, and ``manage.py pq_worker`` likewise."""

from __future__ import annotations

import importlib
import sys

import django

from pq_adapters.django.children import close_in_worker
from pq_core.client import PQ


def create_pq() -> PQ:
    """Set Django up by DJANGO_SETTINGS_MODULE, import every module with tasks, and return the project's ``PQ``."""
    django.setup()
    pq = importlib.import_module("pq_adapters.django.client").pq
    assert isinstance(pq, PQ)
    pq.registry.load()
    if django.VERSION >= (6, 0):
        backend = importlib.import_module("pq_adapters.django.task_backend")
        for name in pq.registry.modules:
            backend.declare_all(sys.modules[name])
    close_in_worker()
    return pq
