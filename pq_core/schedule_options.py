"""What can be said of a schedule: its options, checked, and how a declaration is written for the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypedDict, get_args

from pq_core.close_names import close_names
from pq_core.cron import check_cron, cron, find_zone
from pq_core.errors import InvalidOption
from pq_core.options import CommonFields, check_client_id, check_name, is_integer
from pq_core.schedules import CatchUp, Every, Rhythm, first_run, ticks_after
from pq_core.types import TaskOptions

if TYPE_CHECKING:
    from pq_core.registry import Registry
    from pq_core.sealing import Seals
    from pq_core.tasks import Call

Origin = Literal["code", "call"]
"""Who declares: ``@group.periodic`` in the code, or a call of ``pq.schedule``."""

SHORTEST = timedelta(milliseconds=1)
LONGEST = timedelta(days=36_500)
SKEW = timedelta(seconds=60)
"""How far the client's clock may be from the database's without a first tick being missed or made up."""
CANDIDATES = 1000
_ROW_OPTIONS = (
    "memory_limit",
    "grace",
    "result_limit",
    "max_starts",
    "backoff",
    "on_lost",
    "on_failure",
    "sensitive",
    "concurrency",
    "rate",
    "concurrency_key",
    "concurrency_limit",
)
"""Options of a call that have no column of their own."""


class RhythmFields(TypedDict, total=False):
    """What a schedule takes by name beside the options of its tasks."""

    run_every: timedelta | None
    cron: str | None
    timezone: str | tzinfo | None
    key: str
    max_concurrent: int | None
    active: bool | None
    jitter: timedelta | float | None
    start_at: datetime | None
    end_at: datetime | None
    catch_up: CatchUp
    catch_up_limit: int
    client_id: str | None


class ScheduleFields(CommonFields, RhythmFields, total=False):
    """What ``pq.schedule(task.call(…), …)`` takes by name."""

    max_runtime_seconds: float | None
    headers: Mapping[str, str] | None
    require_transaction: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """When a schedule is due, and what happens when it can't run.

    ``run_every`` or ``cron``: its rhythm. ``timezone``: of the cron expression; UTC without. ``key``: tells schedules
    of one task apart. ``max_concurrent``: a tick is skipped while so many runs are unfinished; None: never.
    ``active``: False declares it paused, None leaves a pause as it is. ``jitter``: each run starts up to so much
    later, by chance. ``start_at``, ``end_at``: no tick before, none after. ``catch_up``: what becomes of ticks that no
    worker was there for: ``latest`` runs the last one, ``all`` each of them up to ``catch_up_limit``, ``skip`` none.
    ``client_id``: the caller's own unique name of the schedule.
    """

    run_every: timedelta | None = None
    cron: str | None = None
    timezone: str | None = None
    key: str = ""
    max_concurrent: int | None = 1
    active: bool | None = None
    jitter: timedelta | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    catch_up: CatchUp = "latest"
    catch_up_limit: int = 1000
    client_id: str | None = None

    def rhythm(self, anchor: datetime) -> Rhythm:
        """Return its rhythm; an interval without ``start_at`` begins at ``anchor``."""
        if self.run_every is not None:
            return Every(self.run_every, self.start_at or anchor)
        assert self.cron is not None
        return cron(self.cron, self.timezone)

    def first_ticks(self, now: datetime) -> list[datetime]:
        """Return the ticks around ``now`` and the first one that is surely to come, for the database to choose from.

        Empty for an interval without ``start_at``, which begins by the database's own clock.
        """
        if self.run_every is not None and self.start_at is None:
            return []
        rhythm = self.rhythm(now)
        first = first_run(rhythm, now=now - SKEW, start=self.start_at, end=self.end_at)
        if first is None:
            return []
        found = [first]
        rest = ticks_after(rhythm, first)
        if first <= now + SKEW:
            found += takewhile(lambda tick: tick <= now + SKEW, rest)
            found += filter(None, [rhythm.next_after(found[-1])])
        return [tick for tick in found[-CANDIDATES:] if self.end_at is None or tick <= self.end_at]


@dataclass(frozen=True, slots=True)
class Declaration:
    """A call and when it is to be made."""

    call: Call[Any]
    options: ScheduleOptions


SCHEDULE_OPTIONS = frozenset(f.name for f in fields(ScheduleOptions))


def build_schedule(given: Mapping[str, Any], *, what: str) -> ScheduleOptions:
    """Return checked options from keyword arguments; ``what`` names the schedule in errors."""
    for name in given:
        if name not in SCHEDULE_OPTIONS:
            near = close_names(name, SCHEDULE_OPTIONS)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(SCHEDULE_OPTIONS))}"
            raise InvalidOption(f"{what}: there is no option {name!r}; {hint}")
    said = dict(given)
    if said.get("cron") is not None:
        said["cron"] = check_cron(said["cron"])
    if isinstance(zone := said.get("timezone"), tzinfo):
        said["timezone"] = getattr(zone, "key", None) or str(zone)
    if (jitter := said.get("jitter")) is not None:
        said["jitter"] = _jitter(what, jitter)
    options = ScheduleOptions(**said)
    _check(options, what)
    return options


def _check(options: ScheduleOptions, what: str) -> None:
    if (options.run_every is None) == (options.cron is None):
        both = (
            f"run_every={options.run_every!r} and cron={options.cron!r} are both given" if options.cron else "neither"
        )
        raise InvalidOption(f"{what}: {both}: give either run_every= or cron=")
    if options.run_every is not None:
        _run_every(what, options.run_every)
    if options.timezone is not None:
        find_zone(options.timezone)
    if options.cron is not None:
        cron(options.cron, options.timezone)
    if options.key != "":
        check_name("key", options.key, error=InvalidOption, what=what)
    if options.max_concurrent is not None and not is_integer(options.max_concurrent, 1, 2**31 - 1):
        _refuse(what, "max_concurrent", options.max_concurrent, "give an integer of at least 1, or None for no limit")
    if options.active is not None and not isinstance(options.active, bool):
        _refuse(what, "active", options.active, "give True, False, or leave it out")
    if options.catch_up not in get_args(CatchUp):
        _refuse(what, "catch_up", options.catch_up, "give 'latest', 'all' or 'skip'")
    if not is_integer(options.catch_up_limit, 1, 100_000):
        _refuse(what, "catch_up_limit", options.catch_up_limit, "give an integer from 1 to 100,000")
    if options.client_id is not None:
        check_client_id(what, "client_id", options.client_id)
    for name in ("start_at", "end_at"):
        moment = getattr(options, name)
        if moment is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
            _refuse(what, name, moment, "give a datetime with a timezone, as datetime.now(tz=UTC) does")
    if options.start_at is not None and options.end_at is not None and options.end_at < options.start_at:
        _refuse(what, "end_at", options.end_at, f"it is before start_at={options.start_at!r}")


def _run_every(what: str, value: object) -> None:
    if not isinstance(value, timedelta):
        seconds = f"run_every=timedelta(seconds={value!r})" if isinstance(value, (int, float)) else "a timedelta"
        _refuse(what, "run_every", value, f"give {seconds}")
    if not SHORTEST <= value <= LONGEST:
        _refuse(what, "run_every", value, "give a timedelta from a millisecond to a hundred years")


def _jitter(what: str, value: object) -> timedelta:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST.total_seconds():
        value = timedelta(seconds=value)
    if not isinstance(value, timedelta) or not timedelta(0) <= value <= LONGEST:
        _refuse(what, "jitter", value, "give seconds or a timedelta of 0 or more")
    return value


def _refuse(what: str, name: str, value: object, fix: str) -> NoReturn:
    raise InvalidOption(f"{what}: {name}={value!r}: {fix}")


def write(
    declaration: Declaration, *, registry: Registry, defaults: TaskOptions, payload_limit: int, now: datetime
) -> dict[str, Any]:
    """Return a declaration as the statement that stores it takes it; ``now`` by the client's clock."""
    call, options = declaration.call, declaration.options
    what = f"schedule({call.task.name})"
    for name in ("run_at", "run_in", "on_duplicate", "unique"):
        if getattr(call.settings, name) is not None:
            _refuse(what, name, getattr(call.settings, name), "a schedule says itself when its tasks run")
    spec = call.spec(defaults, registry, payload_limit=payload_limit)
    item = {
        "name": spec["name"],
        "key": options.key,
        "client_id": options.client_id or spec.get("client_id"),
        "payload": {"args": spec["args"], "kwargs": spec["kwargs"]},
        "priority": spec.get("priority", 50),
        "queue": spec.get("queue", "default"),
        "version": spec.get("version", 1),
        "max_attempts": spec.get("max_attempts", 1),
        "max_runtime_seconds": spec.get("timeout"),
        "headers": spec.get("headers"),
        "options": {name: spec[name] for name in _ROW_OPTIONS if name in spec} or None,
        "run_every": None if options.run_every is None else options.run_every.total_seconds(),
        "cron": options.cron,
        "timezone": options.timezone,
        "start_at": _iso(options.start_at),
        "end_at": _iso(options.end_at),
        "jitter": options.jitter.total_seconds() if options.jitter else None,
        "catch_up": options.catch_up,
        "catch_up_limit": options.catch_up_limit,
        "max_concurrent": options.max_concurrent,
        "active": options.active,
    }
    text = json.dumps(_in_order(item, registry.seals), sort_keys=True, ensure_ascii=True)
    item["definition"] = _digest(text)
    item["ticks"] = [tick.isoformat() for tick in options.first_ticks(now)]
    return item


def _in_order(value: Any, seals: Seals) -> Any:
    """Return encoded arguments as each process has them: sets in one order, what is encrypted as a digest."""
    match value:
        case {"$pq": "encrypted"}:
            return seals.digest(value)
        case {"$pq": "set" | "frozenset", "value": list(members)}:
            ordered = sorted(
                (_in_order(one, seals) for one in members), key=lambda one: json.dumps(one, sort_keys=True)
            )
            return {**value, "value": ordered}
        case dict():
            return {key: _in_order(item, seals) for key, item in value.items()}
        case list():
            return [_in_order(item, seals) for item in value]
        case _:
            return value


def _digest(text: str) -> str:
    import hashlib  # only applications with schedules need it

    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidOption(f"{moment!r}: give a datetime within the years 1 to 9999 in UTC") from None
