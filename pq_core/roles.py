"""What this process is to pq: a leaf, so that an application's settings can ask before anything else is loaded."""

from __future__ import annotations

import os

from pq_core.types import Role

VARIABLE = "PQ_ROLE"
"""Set by ``pq worker`` before the application is imported, so that the very first line of it knows."""


def role() -> Role:
    """Return the role of this process: ``client`` until something else was said."""
    return _role


def set_role(new: Role) -> None:
    """Say what this process is from now on, also to the programs that it starts through ``PQ_ROLE``.

    A child of a worker that starts a program hands on ``client``: what it starts is no task of ours.
    """
    global _role
    _role = Role(new)
    _hand_on(Role.CLIENT if _role is Role.CHILD else _role)


def ready_to_fork() -> None:
    """Have programs that a worker starts be clients, as those of its children: these need not say so any more."""
    _hand_on(Role.CLIENT)


def become_child() -> None:
    """Say that this process is a child that has just been forked. Does little: each page it writes to is copied."""
    global _role
    _role = Role.CHILD
    if _handed_on is not Role.CLIENT:
        _hand_on(Role.CLIENT)


def _hand_on(role: Role) -> None:
    global _handed_on
    _handed_on = role
    os.environ[VARIABLE] = role.value


def _initial() -> Role:
    text = os.environ.get(VARIABLE, "").strip().lower()
    try:
        return Role(text) if text else Role.CLIENT
    except ValueError:
        return Role.CLIENT


_role = _initial()
_handed_on: Role | None = None
"""What ``PQ_ROLE`` says since this process has set it."""
