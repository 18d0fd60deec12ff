"""Who asks: by a key, by a session, by what the application that mounts us says, or by being alone on the machine."""

from __future__ import annotations

import inspect
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request

from pq_adapters.dashboard.keyring import Keyring
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.roles import Principal as Principal
from pq_adapters.dashboard.roles import Role as Role
from pq_adapters.dashboard.sessions import Sessions
from pq_adapters.dashboard.throttle import Throttle

if TYPE_CHECKING:
    from pq_adapters.dashboard.settings import Settings
    from pq_core.client import PQ

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
ANYBODY = Principal(name="anybody", role=Role.ADMIN)
LOCAL = Principal(name="local", role=Role.ADMIN, ambient=True)


class Access:
    """The access of one dashboard."""

    def __init__(self, pq: PQ, settings: Settings) -> None:
        self.settings = settings
        self.keyring = Keyring(pq)
        self.sessions = Sessions(settings)
        self.throttle = Throttle()

    async def identify(self, request: Request) -> Principal | None:
        """Return whoever asks, or None. Raises Problem 401 for a key that is none, 429 after too many of those."""
        settings = self.settings
        if settings.auth is not None:
            found = settings.auth(request)
            if inspect.isawaitable(found):
                found = await found
            if found is not None and not isinstance(found, Principal):
                raise TypeError(f"auth() returned {found!r}: return Principal(name=…, role=…), or None")
            return found
        if not settings.require_login:
            return ANYBODY
        if "authorization" in request.headers:
            return await self._by_bearer(request)
        if (principal := await self._by_session(request)) is not None:
            return principal
        if settings.open_without_keys and _direct(request) and await self.keyring.never_made():
            return LOCAL
        return None

    async def _by_bearer(self, request: Request) -> Principal:
        scheme, _, key = request.headers["authorization"].partition(" ")
        if scheme.lower() != "bearer":
            raise Problem(401, "login needed", "the scheme is Bearer: Authorization: Bearer pq_…")
        return await self.by_key(request, key.strip())

    async def by_key(self, request: Request, key: str) -> Principal:
        """Return whose key it is. Raises Problem 401 for one that is none, 429 after too many of those."""
        address = request.client.host if request.client is not None else ""
        # A key that is one is taken whatever others try: it can't be guessed, and nobody can lock its owner out.
        found = await self.keyring.find(key)
        if found is not None:
            return Principal(name=found.name, role=Role(found.role), key_id=found.id)
        wait = self.throttle.failed(address)
        if wait is not None:
            seconds = str(max(1, round(wait)))
            raise Problem(429, "too many attempts", f"try again in {seconds} s", headers={"Retry-After": seconds})
        raise Problem(401, "unknown key", "no such key, or it was revoked, or it has expired")

    async def _by_session(self, request: Request) -> Principal | None:
        if (cookie := request.cookies.get(self.sessions.cookie)) is None:
            return None
        active = {key.id: key for key in await self.keyring.active()}
        key_id = self.sessions.key_id(cookie)
        if key_id is None or (key := active.get(key_id)) is None or not self.sessions.holds(cookie, key):
            return None
        self.keyring.used(key.id)
        return Principal(name=key.name, role=Role(key.role), key_id=key.id, ambient=True)

    async def still(self, principal: Principal) -> bool:
        """Tell whether somebody may still look on: for answers that go on for long, to ask now and then."""
        if principal.key_id is not None:
            return any(key.id == principal.key_id for key in await self.keyring.active())
        return principal is not LOCAL or await self.keyring.never_made()

    def check_host(self, request: Request) -> None:
        """Raise Problem 400 for a Host that is none of ours: a name that somebody else points at this address."""
        allowed = self.settings.allowed_hosts
        if allowed is None:
            return
        host = host_name(request.headers.get("host", ""))
        if host not in allowed:
            raise Problem(400, "unknown host", f"this dashboard is not served as {host!r}: pq dashboard --allow-host")

    def check_origin(self, request: Request, principal: Principal | None) -> None:
        """Raise Problem 403 for a change that a page of another site asks for."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() in self.settings.allowed_origins:
            return
        if site is not None:
            if site in ("same-origin", "none"):
                return
        elif origin is not None:
            if urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower():
                return
        elif principal is None or not principal.ambient or principal is LOCAL:
            # No browser: every one of them says the origin of what is not a GET.
            return
        raise Problem(403, "another site", "changes are taken from the dashboard's own pages only")


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(address: str) -> bool:
    """Tell whether an address or ``localhost`` is this machine alone."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _direct(request: Request) -> bool:
    """Tell whether the request comes from this machine, and not through a proxy that runs on it."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    host = host_name(request.headers.get("host", ""))
    return request.client is not None and is_loopback(request.client.host) and is_loopback(host)
