"""What the templates know besides what a page gives them, and how a page becomes a response."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jinja2 import Environment, pass_context
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pq_adapters.dashboard import svg, words
from pq_adapters.dashboard.routes import dashboard_of, path_for

if TYPE_CHECKING:
    from jinja2.runtime import Context

_STATIC = Path(__file__).parent / "static"

PLACES = (
    ("overview", "Overview", "o", "viewer"),
    ("tasks", "Tasks", "t", "viewer"),
    ("failures", "Failures", "f", "viewer"),
    ("schedules", "Schedules", "s", "viewer"),
    ("queues", "Queues", "q", "viewer"),
    ("workers", "Workers", "w", "viewer"),
    ("functions", "Functions", "u", "viewer"),
    ("keys", "Keys & audit", "k", "admin"),
)
"""The pages of the menu: route and icon, title, the key that follows ``g``, the least role."""

DONE = {
    "retried": ("ok", "It runs again: the task is back in its queue."),
    "cancelled": ("ok", "Cancelled. A running task is told to stop; this may take a moment."),
    "not-cancelled": ("warn", "Nothing to cancel: the task has already ended."),
    "not-retried": ("warn", "Not retried: the task has not ended, or is gone."),
    "rescheduled": ("ok", "Changed."),
    "not-rescheduled": ("warn", "Not changed: only pending tasks can be moved or get another priority."),
    "deleted": ("ok", "Deleted."),
    "bulk-retried": ("ok", "{n} put back into their queues."),
    "bulk-cancelled": ("ok", "{n} cancelled; running ones are told to stop."),
    "bulk-deleted": ("ok", "{n} deleted."),
    "queue-paused": ("ok", "Paused: no worker starts tasks of this queue. What runs goes on."),
    "queue-resumed": ("ok", "Resumed."),
    "queue-limited": ("ok", "Limits saved: they hold from the next claim on."),
    "draining": ("ok", "Told to drain: the worker ends what it runs, then stops."),
    "stopping": ("ok", "Told to stop: the worker interrupts what it runs, puts it back, and leaves."),
    "not-draining": ("warn", "This worker is not alive any more."),
    "enqueued": ("ok", "Enqueued: this is the task."),
    "call-enqueued": ("ok", "Enqueued: this is the task that calls the URL."),
    "schedule-saved": ("ok", "Schedule saved."),
    "schedule-paused": ("ok", "Schedule paused: no tick becomes a task until it is resumed."),
    "schedule-resumed": ("ok", "Schedule resumed."),
    "schedule-deleted": ("ok", "Schedule deleted. Its tasks stay."),
    "schedule-run": ("ok", "This is the task that the schedule made just now, beside its rhythm."),
    "schedule-gone": ("warn", "This schedule is gone."),
    "key-revoked": ("ok", "Key revoked: it and its sessions end within seconds."),
}
"""What is said after a change, by the word in the address: an address can't make the page say anything else."""


def prepare(environment: Environment) -> None:
    """Teach the templates our words."""
    environment.filters.update(
        duration=words.duration,
        size=words.size,
        number=words.number,
        capped=words.capped,
        percent=words.percent,
        rough=words.rough,
        pretty=words.pretty,
        short=words.short,
        arguments=words.call,
        exception=words.exception,
        when=when,
        local=local,
        elapsed=elapsed,
        limits=words.limits,
        exact=words.absolute,
        plural=plural,
    )
    environment.globals.update(icon=icon, asset=asset, places=PLACES, said=said, meter=meter)


async def page(request: Request, template: str, /, *, status: int = 200, **values: Any) -> Response:
    """Return a template as a response."""
    return HTMLResponse(await dashboard_of(request).render(request, template, **values), status)


def back(
    request: Request, name: str, /, *, done: str, query: Mapping[str, str] | None = None, **parameters: Any
) -> Response:
    """Return to a page after a change, which says what was ``done``."""
    assert done in DONE, done
    said = urlencode({**(query or {}), "done": done})
    return RedirectResponse(f"{path_for(request, name, **parameters)}?{said}", 303)


@pass_context
def said(context: Context) -> tuple[str, str] | None:
    """Return the tone and the text of what was just done, or None."""
    request: Request = context["request"]
    done = DONE.get(request.query_params.get("done", ""))
    if done is None:
        return None
    n = request.query_params.get("n", "")
    count = f"{int(n):,} {'task' if n == '1' else 'tasks'}" if n.isascii() and n.isdigit() and len(n) < 10 else "Tasks"
    return done[0], done[1].replace("{n}", count)


@pass_context
def asset(context: Context, name: str) -> str:
    """Return the address of a static file; it changes with the file, so that no stale one is used."""
    return str(context["request"].scope.get("root_path", "")) + _asset(name)


@lru_cache
def _asset(name: str) -> str:
    return f"/static/{name}?v={hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:10]}"


@pass_context
def icon(context: Context, name: str, label: str = "") -> Markup:
    """Return an icon; without a label it is an ornament beside words."""
    told = f' role="img" aria-label="{escape(label)}"' if label else ' aria-hidden="true"'
    return Markup(f'<svg class="icon"{told}><use href="{asset(context, "icons.svg")}#{escape(name)}"/></svg>')


def when(value: datetime | str | None, *, none: str = "–") -> Markup | str:
    """Return a time as how long ago it was; pointed at it says when."""
    return _time(value, words.relative(value), "relative", none)


def local(value: datetime | str | None, *, none: str = "–") -> Markup | str:
    """Return a time as the visitor's clock shows it; without scripts in UTC."""
    at = words.moment(value)
    return _time(value, "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", "local", none)


def elapsed(value: datetime | str | None, *, none: str = "–") -> Markup | str:
    """Return how long ago a time was as a duration that goes on."""
    at = words.moment(value)
    text = "" if at is None else words.rough(max((datetime.now(tz=UTC) - at).total_seconds(), 0))
    return _time(value, text, "elapsed", none)


def _time(value: datetime | str | None, text: str, kind: str, none: str) -> Markup | str:
    at = words.moment(value)
    if at is None:
        return none if value is None else str(value)
    iso = at.astimezone(UTC).isoformat(timespec="seconds")
    return Markup(f'<time datetime="{iso}" title="{words.absolute(at)}" data-as="{kind}">{escape(text)}</time>')


def meter(parts: list[tuple[str, float]], whole: float, label: str) -> Markup:
    """Return one bar of shares."""
    return svg.meter(parts, whole=whole, label=label)


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count and its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
