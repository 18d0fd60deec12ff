"""A call of a URL, once or on a schedule: a form for the task ``pq.webhook`` that knows what it takes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import schedule_forms as forms
from pq_adapters.dashboard import words
from pq_adapters.dashboard.pages.task import changes_in
from pq_adapters.dashboard.pages.tasks import PRIORITIES
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core.errors import PayloadDecodeError, PQError, UnknownTask
from pq_core.payload import loads

if TYPE_CHECKING:
    from pq_core.client import PQ

NAME = "pq.webhook"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OWN = {
    "url": "", "method": "POST", "headers": "", "body": "", "secret": "", "wait": "30", "redirects": "0",
    "idempotency_key": "", "run_in": "0", "run_at": "",
}  # fmt: skip
"""The form's fields beside those of a schedule. ``wait``: the call's own timeout."""


async def new(request: Request) -> Response:
    """Show the form for a call that is not there yet."""
    return await form(request, {**forms.empty(), **_OWN, "name": NAME, "rhythm": "now"})


async def save(request: Request) -> Response:
    """Enqueue or schedule what the form says; show it again with what is wrong."""
    given = await request.form(max_files=0, max_fields=50)
    said = {**forms.said(given), **{name: str(given.get(name, default)) for name, default in _OWN.items()}}
    if said["rhythm"] not in ("cron", "every"):
        said["rhythm"] = "now"
    try:
        return await _save(request, said)
    except Problem as problem:
        return await form(request, said, problem=problem.detail, status=422)
    except (PQError, ValueError, TypeError) as error:
        return await form(request, said, problem=str(error), status=422)


async def _save(request: Request, said: dict[str, str]) -> Response:
    dashboard = dashboard_of(request)
    arguments = _arguments(said)
    url = arguments["url"]
    await asyncio.to_thread(_check, dashboard.pq, arguments)
    values = {
        **said,
        "name": NAME,
        "args": json.dumps([arguments.pop("url")]),
        "kwargs": json.dumps(arguments),
        "key": said["key"].strip() or _key(url),
    }
    call, options = await asyncio.to_thread(forms.meant, dashboard.pq, values)
    if said["rhythm"] == "now":
        when = changes_in(said["run_at"], said["run_in"] if said["run_in"] != "0" else "", "")
        call = call.options(**when) if when else call
        async with dashboard.changing(request, "task.enqueue", task=NAME, url=_shown(url)) as pq:
            task_id = int(await pq.aenqueue(call))
            request.state.audit["id"] = task_id
        return back(request, "task", done="call-enqueued", task_id=task_id)
    if not said["id"] and await dashboard.pq.aget_schedule(call.task, key=values["key"]) is not None:
        raise ValueError(
            f"There is a call with the key {values['key']!r} already: change that one, or give another key."
        )
    before = await forms.stored(dashboard.pq, values)
    async with dashboard.changing(
        request, "schedule.save", f"{NAME} {values['key']}", rhythm=forms.rhythm_words(said), url=_shown(url)
    ) as pq:
        schedule_id = await forms.store(pq, dashboard.pq.schema, call, options, before)
    return back(request, "schedule", done="schedule-saved", schedule_id=schedule_id)


async def form(
    request: Request, values: Mapping[str, str], *, problem: str | None = None, status: int = 200
) -> Response:
    """Show the form, or how to switch the task on where the application does not have it."""
    known = True
    try:
        await asyncio.to_thread(dashboard_of(request).pq.registry.resolve, NAME)
    except UnknownTask:
        known = False
    except Exception as error:  # an application's module may raise anything when it is imported
        problem = problem or f"the application's tasks can't be loaded: {error}"
    return await page(
        request,
        "call_form.html",
        status=status,
        here="schedules",
        values=values,
        problem=problem,
        known=known,
        example="https://api.example.com/orders",
        zones=forms.zones(),
        priorities=PRIORITIES,
        methods=METHODS,
    )


def filled(row: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the form's values for a stored schedule, None when it was made with other arguments than this form's."""
    held = row["payload"] if isinstance(row["payload"], dict) else {}
    args, kwargs = held.get("args") or [], dict(held.get("kwargs") or {})
    if len(args) == 1 and "url" not in kwargs:
        kwargs["url"] = args[0]
    elif args:
        return None
    body, headers = kwargs.pop("json", None), kwargs.pop("headers", None) or {}
    wait = kwargs.pop("timeout", 30)
    if not isinstance(headers, dict) or not set(kwargs) <= set(_OWN) or isinstance(kwargs.get("url"), dict | None):
        return None
    return {
        **forms.filled(dict(row)),
        **_OWN,
        **{name: str(value) for name, value in kwargs.items() if value is not None},
        "headers": "\n".join(f"{name}: {value}" for name, value in headers.items()),
        "body": "" if body is None else words.pretty(body),
        "wait": f"{wait:g}" if isinstance(wait, int | float) else str(wait),
    }


def _arguments(said: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of the call, those alone that differ from the task's own. Raises ValueError."""
    url = said["url"].strip()
    if not url:
        raise ValueError("Say which URL is called.")
    arguments: dict[str, Any] = {"url": url, "method": said["method"] if said["method"] in METHODS else "POST"}
    headers = _headers(said["headers"])
    if headers:
        arguments["headers"] = headers
    if said["body"].strip():
        try:
            arguments["json"] = loads(said["body"])
        except PayloadDecodeError as error:
            raise ValueError(f"The body is not JSON: {error}") from None
    for name in ("secret", "idempotency_key"):
        if value := said[name].strip():
            arguments[name] = value
    if said["wait"].strip() not in ("", "30"):
        arguments["timeout"] = forms.seconds("timeout", said["wait"])
    if said["redirects"].strip() not in ("", "0"):
        arguments["redirects"] = forms.whole("redirects", said["redirects"])
    return arguments


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"headers: {name.strip()[:40]!r} has no colon: write one per line, as X-Region: eu")
        headers[name.strip()] = value.strip()
    return headers


def _check(pq: PQ, arguments: Mapping[str, Any]) -> None:
    """Let the task refuse what it would refuse in any case, before it is stored. Raises ValueError."""
    task = pq.registry.resolve(NAME)
    # Adapters don't import each other: whoever has the task has loaded the module that knows.
    check = getattr(sys.modules.get(task.function.__module__), "check", None)
    if check is None:
        return
    try:
        check(**arguments)
    except Exception as error:
        raise ValueError(str(error)) from error


def _key(url: str) -> str:
    """Return what tells the schedules of calls apart when nobody gave a key: where it goes."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{parts.path.rstrip('/')}"[:200]


def _shown(url: str) -> str:
    """Return a URL for the audit log, without its query."""
    return url.partition("?")[0][:500]


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/calls/new", new, role="operator", name="call_new"),
        route("/calls", save, role="operator", methods=["POST"], name="call_save"),
    ]
