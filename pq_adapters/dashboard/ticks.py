"""What a schedule's rhythm is in words, when it comes next, and which of its ticks became nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from pq_adapters.dashboard import words
from pq_core.cron import find_zone
from pq_core.errors import InvalidOption
from pq_core.schedule_options import build_schedule
from pq_core.schedules import Every, Rhythm, ticks_after

SHOWN = 50
_LOOKED_AT = 400
"""Ticks that are gone through to find those that became nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One due time. ``kind``: the state of its task, or ``skipped`` when it has none."""

    at: datetime
    kind: str
    task_id: int | None = None
    wall: float | None = None

    def told(self) -> str:
        """Return it in words, for whoever points at it."""
        if self.kind == "skipped":
            return f"{words.absolute(self.at)}: skipped, no task was made"
        took = f", took {words.duration(self.wall)}" if self.wall is not None else ""
        return f"{words.absolute(self.at)}: {self.kind}{took}"


def rhythm_of(schedule: Mapping[str, Any], now: datetime) -> Rhythm:
    """Return when a schedule is due. Raises InvalidOption for a row that can't be read here."""
    run_every = None if schedule["run_every"] is None else timedelta(seconds=schedule["run_every"])
    if run_every is not None and (at := words.moment(schedule["next_run"])) is not None:
        return Every(run_every, at)
    said = {"cron": schedule["cron"], "run_every": run_every, "timezone": schedule["timezone"]}
    options = build_schedule({**said, "start_at": words.moment(schedule["start_at"])}, what="schedule")
    return options.rhythm(now)


def coming(rhythm: Rhythm, *, after: datetime, end: datetime | None = None, count: int = 10) -> list[datetime]:
    """Return the next times, in UTC."""
    return [tick for tick in islice(ticks_after(rhythm, after), count) if end is None or tick <= end]


def history(schedule: Mapping[str, Any], *, now: datetime) -> list[Tick]:
    """Return the last ticks, the oldest first: those that became tasks, and those between them that did not."""
    made = [
        Tick(at=at, kind=kind if kind != "blocked" else "pending", task_id=task_id, wall=wall)
        for text, task_id, kind, wall in reversed(schedule["ticks"])
        if (at := words.moment(text)) is not None
    ]
    if not made or not (schedule["skipped"] or schedule["missed"]):
        return made[-SHOWN:]
    known = {tick.at for tick in made}
    until = max(made[-1].at, words.moment(schedule["last_skipped_at"]) or made[-1].at)
    try:
        expected = list(islice(ticks_after(rhythm_of(schedule, now), made[0].at), _LOOKED_AT))
    except InvalidOption:
        return made[-SHOWN:]  # the row says itself what is wrong with it
    gaps = [Tick(at=at, kind="skipped") for at in expected if at <= until and at not in known]
    return sorted([*made, *gaps], key=lambda tick: tick.at)[-SHOWN:]


def in_words(schedule: Mapping[str, Any]) -> str:
    """Return a rhythm as one says it."""
    if schedule["cron"] is not None:
        return f"{schedule['cron']}"
    return f"every {words.duration(schedule['run_every'])}"


def in_zone(moment: datetime | str | None, zone: str | None) -> str:
    """Return a time as the clock of a schedule's own zone shows it."""
    at = words.moment(moment)
    if at is None:
        return ""
    try:
        there = at.astimezone(find_zone(zone))
    except InvalidOption:
        there = at.astimezone(UTC)
    return f"{there:%a %Y-%m-%d %H:%M}" + (f":{there:%S}" if there.second else "")
