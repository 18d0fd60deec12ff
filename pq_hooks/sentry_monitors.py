"""Cron monitors: a check-in at the start and at the end of every task that a schedule has made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from sentry_sdk.crons import MonitorStatus, capture_checkin

if TYPE_CHECKING:
    from types import TracebackType

    from pq_core.types import ClaimedTask

MonitorConfig = Mapping[str, Any]
"""Sentry's ``monitor_config``: ``schedule``, ``timezone``, ``checkin_margin`` and ``max_runtime`` in minutes, …"""

SLUG_LIMIT = 50
"""Characters of a monitor's slug."""

# What every reader of crontabs understands alike: five fields of numbers, names, lists, ranges and steps.
_CRONTAB = re.compile(r"@(hourly|daily|weekly|monthly|yearly)|([\w*,/-]+ ){4}[\w*,/-]+")
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


class Monitored:
    """A context manager around one run: check-ins ``in_progress``, then ``ok`` or ``error``; nothing without a slug."""

    def __init__(self, slug: str | None, id_: str, config: MonitorConfig | None) -> None:
        self.slug = slug
        self.id = id_
        self.config = config
        self.failed = False
        self._started = 0.0

    def __enter__(self) -> Monitored:
        self._started = monotonic()
        self._send(MonitorStatus.IN_PROGRESS)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.end(ok=kind is None and not self.failed, seconds=monotonic() - self._started)

    def end(self, *, ok: bool, seconds: float) -> None:
        """Check in for the last time."""
        self._send(MonitorStatus.OK if ok else MonitorStatus.ERROR, seconds)

    def _send(self, status: str, seconds: float | None = None) -> None:
        if self.slug is not None:
            config: Any = self.config
            capture_checkin(self.slug, self.id, status, seconds, config)


def monitor_of(task: ClaimedTask, settings: bool | Mapping[str, MonitorConfig | None]) -> Monitored:
    """Return the monitor of a task's schedule, one that says nothing if there is none."""
    none = Monitored(None, "", None)
    if task.schedule_id is None or settings is False:
        return none
    config = schedule_of(task.headers)
    if isinstance(settings, Mapping) and task.name in settings:
        given = settings[task.name]
        if given is None:
            return none
        config = {**(config or {}), **given}
    return Monitored(slug_of(task), check_in_id(task), config)


def check_in_id(task: ClaimedTask) -> str:
    """Return the id that all check-ins of one attempt have: the child's, and those made for a dead child."""
    words = f"{task.id} {task.fence} {task.created_at.isoformat()}"
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def slug_of(task: ClaimedTask) -> str:
    """Return the monitor's slug: the task's name, and the schedule's key if it has one, in letters that slugs have."""
    words = [task.name, task.headers.get("pq-schedule-key", "")]
    slug = re.sub(r"[^a-z0-9_-]+", "-", "-".join(filter(None, words)).lower()).strip("-")
    if len(slug) <= SLUG_LIMIT:
        return slug or f"pq-{task.schedule_id}"
    mark = hashlib.blake2b(slug.encode(), digest_size=4).hexdigest()
    return f"{slug[: SLUG_LIMIT - 9]}-{mark}"


def schedule_of(headers: Mapping[str, str]) -> MonitorConfig | None:
    """Return what a schedule's tasks say of it in their headers, as far as Sentry can express it.

    ``pq-schedule-cron`` or ``pq-schedule-every`` (seconds), ``pq-schedule-timezone``.
    """
    config: dict[str, Any] = {}
    cron = " ".join(headers.get("pq-schedule-cron", "").split())
    if _CRONTAB.fullmatch(cron):
        config["schedule"] = {"type": "crontab", "value": cron}
        config["timezone"] = headers.get("pq-schedule-timezone") or "UTC"
    else:
        try:
            seconds = float(headers.get("pq-schedule-every", ""))
        except ValueError:
            return None
        found = next(((unit, size) for unit, size in _UNITS if seconds >= size and seconds % size == 0), None)
        if found is None:
            return None
        config["schedule"] = {"type": "interval", "value": int(seconds // found[1]), "unit": found[0]}
    return config
