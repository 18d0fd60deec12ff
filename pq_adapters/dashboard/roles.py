"""Who may do what: three roles, each of which may do all that the one before may."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    """What a route asks for, and what somebody has. ``PUBLIC`` is nobody's: what is served to anyone."""

    PUBLIC = "public"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        """Tell whether somebody with this role may use what asks for ``needed``."""
        return _RANK[self] >= _RANK[needed]


_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever a request comes from. ``name`` stands in the audit log. ``key_id``: of the key that was used, if any.

    ``ambient``: the browser sends by itself what proves it (a cookie), so that another site's page could use it.
    """

    name: str
    role: Role
    key_id: int | None = None
    ambient: bool = False

    def may(self, needed: Role | str) -> bool:
        """Tell whether this one may use what asks for ``needed``; templates hide what they may not."""
        return self.role.allows(Role(needed))
