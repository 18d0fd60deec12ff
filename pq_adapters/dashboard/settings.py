"""What a dashboard is told when it is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_adapters.dashboard.roles import Principal

Auth = Callable[[Any], "Principal | Awaitable[Principal | None] | None"]
"""Your own way to tell who asks: gets the Starlette request, returns a Principal or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a dashboard behaves.

    ``title``: on every page. ``auth``: takes the place of keys. ``require_login``: False serves everything to
    everybody, as admin. ``open_without_keys``: nobody needs a key as long as none was ever made; for loopback.
    ``allowed_hosts``: names that the Host header may hold, None for any. ``allowed_origins``: origins besides the
    dashboard's own whose pages may change things, for proxies that rewrite Host. ``secret``: mixed into the signatures
    of sessions. ``session``: how long a login lasts. ``secure_cookies``: None follows the request's scheme.
    ``body_limit``: bytes of a request's body.
    """

    title: str = "pq"
    auth: Auth | None = None
    require_login: bool = True
    open_without_keys: bool = False
    allowed_hosts: frozenset[str] | None = None
    allowed_origins: frozenset[str] = frozenset()
    secret: str | None = None
    session: timedelta = timedelta(hours=12)
    secure_cookies: bool | None = None
    body_limit: int = 2**20
