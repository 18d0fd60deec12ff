"""Keys and the audit log: who may come in, and who did what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core.errors import InvalidOption
from pq_core.keys import ROLES, NewKey, warning

PAGE = 50
LASTS = {"": "for ever", "1": "1 day", "30": "30 days", "90": "90 days", "365": "a year"}


async def keys(request: Request) -> Response:
    """Show all keys and what was done last."""
    return await _show(request)


async def create(request: Request) -> Response:
    """Make a key and show it, this once."""
    form = await request.form(max_files=0, max_fields=10)
    name, role, lasts = (str(form.get(field) or "") for field in ("name", "role", "lasts"))
    if lasts not in LASTS:
        raise Problem(422, "this can't be done", f"lasts={lasts!r}: give one of {', '.join(LASTS)} days")
    until = datetime.now(tz=UTC) + timedelta(days=int(lasts)) if lasts else None
    try:
        async with dashboard_of(request).changing(request, "key.create", name, role=role) as pq:
            made = await pq.acreate_key(name, role=role, expires_at=until, created_by=request.state.principal.name)
    except InvalidOption as error:
        return await _show(request, problem=str(error), status=422)
    dashboard_of(request).access.keyring.forget()
    return await _show(request, made=made)


async def revoke(request: Request) -> Response:
    """End a key."""
    key_id = request.path_params["key_id"]
    async with dashboard_of(request).changing(request, "key.revoke", key_id) as pq:
        request.state.audit["done"] = await pq.arevoke_key(key_id)
    dashboard_of(request).access.keyring.forget()
    return back(request, "keys", done="key-revoked")


async def _show(
    request: Request, *, made: NewKey | None = None, problem: str | None = None, status: int = 200
) -> Response:
    pq = dashboard_of(request).pq
    before = request.query_params.get("before", "")
    before_id = int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None
    listed, log = await asyncio.gather(pq.alist_keys(), pq.aaudit_log(limit=PAGE + 1, before_id=before_id))
    return await page(
        request,
        "keys.html",
        status=status,
        here="keys",
        keys=sorted(listed, key=lambda key: (not key.active, key.name)),
        log=log[:PAGE],
        following=log[PAGE - 1].id if len(log) > PAGE else None,
        first=before_id is None,
        made=made,
        problem=problem,
        warning=warning(listed, datetime.now(tz=UTC)),
        roles=ROLES,
        lasts=LASTS,
    )


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/keys", keys, role="admin"),
        route("/keys/create", create, role="admin", methods=["POST"], name="key_create"),
        route("/keys/{key_id:int}/revoke", revoke, role="admin", methods=["POST"], name="key_revoke"),
    ]
