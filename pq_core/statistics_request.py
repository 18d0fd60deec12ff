"""Reading what the workers have counted: one request for every view of it, and what its rows mean."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from pq_core import rows
from pq_core.errors import InvalidOption
from pq_core.executor import Statement
from pq_core.filters import check_text, moment
from pq_core.payload import dumps
from pq_core.statistics import BYTES, HIGHEST, SECONDS, Histogram, percentile
from pq_core.store import Request, load, names_of, text_of

By = Literal["time", "queue", "name", "outcome"]
DIMENSIONS: tuple[By, ...] = ("time", "queue", "name", "outcome")
HOUR = timedelta(hours=1)
MINUTELY = timedelta(hours=6)
"""The longest time that is summed up from minutes; for longer ones the hours are enough."""

_COLUMNS = (
    "{at} AS at, s.queue, s.name, s.outcome, s.count, s.wait_seconds, s.run_seconds, s.cpu_seconds, s.wait_histogram,"
    " s.run_histogram, s.memory_histogram"
)
_MINUTES = (
    f"SELECT {_COLUMNS.format(at='s.minute')} FROM {{schema}}.pq_statistics s, span"
    " WHERE s.minute >= span.since AND s.minute < span.until"
)
# What is merged is in the hours, what is not is a worker's.
_HOURS = (
    f"SELECT {_COLUMNS.format(at='s.hour')} FROM {{schema}}.pq_statistics_hours s, span"
    " WHERE s.hour >= date_trunc('hour', span.since, 'UTC') AND s.hour < span.until"
    f" UNION ALL SELECT {_COLUMNS.format(at='s.minute')} FROM {{schema}}.pq_statistics s, span"
    " WHERE s.worker_id <> 0 AND s.minute >= date_trunc('hour', span.since, 'UTC') AND s.minute < span.until"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsRow:
    """What the attempts of one group came to. What was not grouped by is None.

    ``time``: when the group's span begins. ``count``: attempts. ``wait_seconds``, ``run_seconds``, ``cpu_seconds``:
    sums over them; waiting is from when a task was due until it started. ``waits``, ``runs``, ``memory``: histograms.
    """

    time: datetime | None = None
    queue: str | None = None
    name: str | None = None
    outcome: str | None = None
    count: int = 0
    wait_seconds: float = 0.0
    run_seconds: float = 0.0
    cpu_seconds: float = 0.0
    waits: Histogram = field(default_factory=dict)
    runs: Histogram = field(default_factory=dict)
    memory: Histogram = field(default_factory=dict)

    def wait(self, share: float) -> float | None:
        """Return the seconds that ``share`` (0.95, say) of the attempts waited at most, within 9.1 %."""
        return percentile(self.waits, share, SECONDS)

    def run(self, share: float) -> float | None:
        """Return the seconds that ``share`` of the attempts ran at most, within 9.1 %."""
        return percentile(self.runs, share, SECONDS)

    def peak_memory(self, share: float) -> float | None:
        """Return the bytes that ``share`` of the attempts needed at most, within 9.1 %."""
        return percentile(self.memory, share, BYTES)


def read(
    schema: str,
    *,
    by: Collection[By],
    last: timedelta | None,
    since: datetime | None,
    until: datetime | None,
    step: timedelta | None,
    queue: str | None,
    name: str | None,
    outcome: str | None,
    histograms: bool,
    everything: bool = False,
) -> Request[list[StatisticsRow]]:
    """Plan a look; InvalidOption for a span or a grouping that there is not.

    ``everything``: instead of a span, all that was ever counted, what is too old to be kept included.
    """
    if isinstance(by, str) or any(one not in DIMENSIONS for one in by):
        raise InvalidOption(f"by={by!r}: give a list of {', '.join(DIMENSIONS)}")
    if not everything and (last is None) == (since is None):
        raise InvalidOption("statistics(): give either last=, a timedelta, or since=")
    if last is not None and (not isinstance(last, timedelta) or last <= timedelta(0)):
        raise InvalidOption(f"last={last!r}: give a timedelta above 0")
    _check_step(by, step)
    hourly = step is not None and step % HOUR == timedelta(0)
    if step is None and (last is None or last > MINUTELY):
        hourly = everything or last is not None or _longer(since, until)
    conditions: dict[str, str] = {}
    for option, value in (("queue", queue), ("name", name), ("outcome", outcome)):
        check_text(option, value)
        if value is not None:
            conditions[option] = value
    parameters: dict[str, Any] = {
        "last": None if last is None else last.total_seconds(),
        "since": "-infinity" if everything else None if since is None else moment("since", since),
        "until": None if until is None else moment("until", until),
        "step": None if step is None else step.total_seconds(),
        **conditions,
    }
    text = _statement(schema, tuple(sorted(set(by))), tuple(sorted(conditions)), hourly, histograms)
    return Request(text, dumps(parameters), lambda found: [_row(row, by) for row in found])


def totals(schema: str) -> Request[list[StatisticsRow]]:
    """Plan a look at all that was ever counted, by queue, name and outcome: sums that never shrink."""
    return read(
        schema,
        by=("queue", "name", "outcome"),
        last=None,
        since=None,
        until=None,
        step=None,
        queue=None,
        name=None,
        outcome=None,
        histograms=True,
        everything=True,
    )


def _check_step(by: Collection[By], step: timedelta | None) -> None:
    if ("time" in by) != (step is not None):
        raise InvalidOption("statistics(): by=['time'] and step=, how long each span is, go together")
    if step is not None and (not isinstance(step, timedelta) or step <= timedelta(0) or step % timedelta(minutes=1)):
        raise InvalidOption(f"step={step!r}: give whole minutes")


def _longer(since: datetime | None, until: datetime | None) -> bool:
    return since is not None and (until is None or until - since > MINUTELY)


@lru_cache(maxsize=256)
def _statement(
    schema: str, by: tuple[str, ...], conditions: tuple[str, ...], hourly: bool, histograms: bool
) -> Statement:
    names = names_of(schema)
    words = {
        "source": (_HOURS if hourly else _MINUTES).replace("{schema}", names["schema"]),
        "time": "timestamptz '-infinity'",
        "conditions": " AND ".join(f"s.{one} = (SELECT p ->> '{one}' FROM input)" for one in conditions) or "true",
    }
    if "time" in by:
        words["time"] = (
            "date_bin((SELECT cast(p ->> 'step' AS double precision) FROM input) * interval '1 second', s.at,"
            " timestamptz '1970-01-01 00:00:00+00')"
        )
    for one in ("queue", "name", "outcome"):
        words[one] = f"s.{one}" if one in by else "text ''"
    for one, column in (("waits", "wait"), ("runs", "run"), ("memory", "memory")):
        joined = f"string_agg(nullif(array_to_string(s.{column}_histogram, ','), ''), ',')"
        words[one] = joined if histograms else "cast(NULL AS text)"
    return load("statistics", text_of("statistics"), {**names, **words})


def _row(row: str, by: Collection[str]) -> StatisticsRow:
    values: dict[str, Any] = json.loads(row)
    values["time"] = rows.time(values["time"])
    values |= {one: None for one in DIMENSIONS if one not in by}
    for one in ("waits", "runs", "memory"):
        values[one] = _added(values[one])
    return StatisticsRow(**values)


def _added(several: str | None) -> Histogram:
    """Return the sum of stored histograms, written behind one another."""
    if not several:
        return {}
    numbers = list(map(int, several.split(",")))
    counts = [0] * (HIGHEST + 1)
    for place, count in zip(numbers[::2], numbers[1::2], strict=True):
        counts[place] += count
    return {place: count for place, count in enumerate(counts) if count}
