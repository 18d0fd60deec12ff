"""The application: everything put together, without a look at the database, the network or the environment."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.staticfiles import StaticFiles

from pq_adapters.dashboard import api, health, login, pages, words
from pq_adapters.dashboard.access import Access
from pq_adapters.dashboard.problems import Problem, on_error
from pq_adapters.dashboard.protection import Protection
from pq_adapters.dashboard.routes import path_for, public_files
from pq_adapters.dashboard.settings import Auth, Settings
from pq_core.client import PQ
from pq_core.errors import InvalidOption, PQError

if TYPE_CHECKING:
    from pq_core.bound import AsyncBoundPQ

_HERE = Path(__file__).parent


class Dashboard:
    """What every request needs: ``request.app.state.dashboard``, or ``dashboard_of(request)``."""

    def __init__(self, pq: PQ, settings: Settings) -> None:
        self.pq = pq
        self.settings = settings
        self.access = Access(pq, settings)
        self.metrics = health.Metrics(pq)

    @cached_property
    def templates(self) -> Environment:
        """The templates, made at first use. What they may call besides: ``pages.prepare``."""
        environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            enable_async=True,
        )
        if (prepare := getattr(pages, "prepare", None)) is not None:
            prepare(environment)
        return environment

    async def render(self, request: Request, template: str, /, **values: Any) -> str:
        """Return a template as text. It gets ``request``, ``principal`` or None, ``settings``, ``path_for(name)``."""

        def path(name: str, /, **parameters: Any) -> str:
            return path_for(request, name, **parameters)

        principal = getattr(request.state, "principal", None)
        text = await self.templates.get_template(template).render_async(
            {"request": request, "principal": principal, "settings": self.settings, "path_for": path, **values}
        )
        return words.unturned(text)

    @asynccontextmanager
    async def changing(
        self, request: Request, action: str, target: object = None, **details: Any
    ) -> AsyncIterator[AsyncBoundPQ]:
        """Lend the client in one transaction, which the audit log's row about the change joins.

        ``action``: ``task.retry``, say. ``target``: what was changed, an id or a name. When the block raises, neither
        the change nor the row is stored. Inside it, ``request.state.audit`` takes further details, as a dict.
        """
        request.state.audit = dict(details)
        async with self.pq.asession() as connection:
            bound = self.pq.using(connection)
            yield bound
            await bound.aaudit(
                request.state.principal.name, action, None if target is None else str(target), request.state.audit
            )


def create_app(
    pq: PQ,
    *,
    auth: Auth | None = None,
    require_login: bool = True,
    open_without_keys: bool = False,
    title: str = "pq",
    allowed_hosts: Iterable[str] | None = None,
    allowed_origins: Iterable[str] = (),
    secret: str | None = None,
    session: dt.timedelta = dt.timedelta(hours=12),
    secure_cookies: bool | None = None,
    body_limit: int = 2**20,
) -> Starlette:
    """Return the dashboard and its API as an ASGI application, to be served alone or mounted in another.

    Nothing is opened or read before the first request, and no lifespan is needed. ``auth``: a function of the request
    that returns a ``Principal``, or None for nobody; sync or async; it takes the place of keys and of our login. The
    other arguments are those of ``Settings``. Raises InvalidOption.
    """
    if not isinstance(pq, PQ):
        raise InvalidOption(f"create_app({pq!r}): give the PQ of your application")
    if auth is not None and not callable(auth):
        raise InvalidOption(f"create_app(auth={auth!r}): give a function that takes the request")
    if isinstance(body_limit, bool) or not isinstance(body_limit, int) or body_limit < 1024:
        raise InvalidOption(f"create_app(body_limit={body_limit!r}): give bytes as an integer of at least 1024")
    if not isinstance(session, dt.timedelta) or session <= dt.timedelta(0):
        raise InvalidOption(f"create_app(session={session!r}): give a timedelta above 0")
    for name, given in (("allowed_hosts", allowed_hosts), ("allowed_origins", allowed_origins)):
        if isinstance(given, str):
            raise InvalidOption(f"create_app({name}={given!r}): give a list of them")
    settings = Settings(
        title=title,
        auth=auth,
        require_login=require_login,
        open_without_keys=open_without_keys,
        allowed_hosts=None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts),
        allowed_origins=frozenset(origin.lower().rstrip("/") for origin in allowed_origins),
        secret=secret,
        session=session,
        secure_cookies=secure_cookies,
        body_limit=body_limit,
    )
    app = Starlette(
        routes=[
            *login.routes(),
            *health.routes(),
            *api.routes(),
            *pages.routes(),
            public_files("/static", StaticFiles(directory=_HERE / "static", check_dir=False), name="static"),
        ],
        middleware=[Middleware(Protection, settings=settings)],
        exception_handlers={HTTPException: on_error, Problem: on_error, PQError: on_error, Exception: on_error},
    )
    app.state.dashboard = Dashboard(pq, settings)
    return app
