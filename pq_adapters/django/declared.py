"""The tasks of ``django.tasks`` that a pq backend has seen, as tasks of pq. Imports nothing of Django.

A leaf, so that the client can have them without ``django.tasks``, which Django 5.2 lacks.
"""

from __future__ import annotations

from typing import Any

from pq_core.task_groups import TaskGroup
from pq_core.tasks import Task

declared = TaskGroup()
"""Filled when a task is declared, by its backend."""

by_name: dict[str, Task[..., Any]] = {}
"""The same, to look up."""


def take(task: Task[..., Any]) -> None:
    """Take a task in."""
    declared.add(task)
    by_name[task.name] = task
