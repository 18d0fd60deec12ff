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
    os.environ[VARIABLE] = (Role.CLIENT if _role is Role.CHILD else _role).value


def _initial() -> Role:
    text = os.environ.get(VARIABLE, "").strip().lower()
    try:
        return Role(text) if text else Role.CLIENT
    except ValueError:
        return Role.CLIENT


_role = _initial()
