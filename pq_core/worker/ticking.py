"""Schedules in the worker: what is due becomes tasks, in the declared rhythm. Every worker does it, none leads.

A round reads what is due, decides in Python, and writes tasks and advance in one transaction that holds only for rows
which nobody has changed in between: of several workers that wake for one tick the first one wins.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.cron import cron
from pq_core.errors import InvalidOption
from pq_core.schedules import Decision, Every, Rhythm, decide, first_run
from pq_core.worker.claiming import Statements, integer, number
from pq_core.worker.connection import Query, Results, StatementError
from pq_core.worker.rows import Row, moment

if TYPE_CHECKING:
    from pq_core.schedule_operations import Synced
    from pq_core.store import Request
    from pq_core.worker.link import Link

logger = logging.getLogger("pq.worker")

AT_ONCE = 100
"""Schedules that are decided about in one round."""
HOLD = 5.0
"""Seconds after which a schedule that waits for a place is looked at again, should nobody have heard of a free one."""
PAUSE = 1.0
"""Seconds after a failed statement."""
ASIDE = 300.0
"""Seconds after which a schedule that can't be worked out is looked at again."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Ticking:
    """The ticks that one worker makes. Times are of the monotonic clock.

    ``pause``: the seconds between two looks, told the time. ``declared``: what its application declares, stored at the
    start. ``on_made``: called when there are new tasks. ``started``: the first look is done. ``held``: schedules that
    wait for a place, and until when they are left alone.
    """

    statements: Statements
    pause: Callable[[float], float]
    on_made: Callable[[], None]
    declared: Request[list[Synced]] | None = None
    started: bool = False
    held: dict[int, float] = field(default_factory=dict)
    _check_at: float | None = 0.0
    _asked: float = 0.0
    _told: bool = False
    _under_way: bool = False
    _batches: list[list[dict[str, Any]]] = field(default_factory=list)
    _broken: list[dict[str, Any]] = field(default_factory=list)
    _complained: dict[int, str] = field(default_factory=dict)

    # --- what others tell -----------------------------------------------------------------------------------------

    def told(self) -> None:
        """Somebody has created or changed a schedule, or a place may have become free."""
        self._told = True
        self._check_at = 0.0

    def heard(self, next_tick: bytes | None, is_cron: bytes | None) -> None:
        """Take in what a look has found: seconds until the next schedule is due, and whether it is a cron."""
        now = self._asked = monotonic()
        if self._told:
            return  # since the question was asked
        self._check_at = None if next_tick is None else now + float(next_tick)
        if is_cron == b"t":
            import_module("croniter")  # 0.1 s, once: now rather than when it is due

    def run_ended(self, schedule_id: int) -> None:
        """A run has ended: its schedule may wait for the place."""
        if self.held.pop(schedule_id, None) is not None:
            self.told()

    def places_may_be_free(self) -> None:
        """Tasks of dead workers have ended."""
        if self.held:
            self.held.clear()
            self.told()

    # --- what the loop asks ---------------------------------------------------------------------------------------

    @property
    def held_ids(self) -> bytes:
        """The schedules that wait for a place, as a parameter."""
        if self.held:
            now = monotonic()
            self.held = {id_: until for id_, until in self.held.items() if until > now}
        return b"{" + b",".join(integer(id_) for id_ in self.held) + b"}"

    def busy(self, now: float) -> bool:
        """Tell whether there is, or may be, something due."""
        due = self._check_at is not None and self._check_at <= now
        return not self.started or self._under_way or self._pending or due

    @property
    def _pending(self) -> bool:
        return bool(self.declared or self._batches or self._broken)

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do, given an idle connection."""
        if self._under_way:
            return None
        if self._pending:
            return 0.0
        # A worker without a free slot does not look for tasks, and yet has to hear of schedules.
        stale = self._asked + 1.5 * self.pause(self._asked)
        return stale if self._check_at is None else min(self._check_at, stale)

    def advance(self, now: float, link: Link) -> None:
        """Do the next step that is due, if the connection is free for it."""
        due = self.next_event()
        if due is None or now < due or not link.idle:
            return
        self._under_way = True
        if self.declared is not None:
            statement, parameters = self.declared.statement, self.declared.parameters.encode()
            link.send([(Query(f"pq_{statement.name}", statement.render("$1")), [parameters])], self._synced)
        elif self._broken:
            broken = json.dumps(self._broken).encode()
            self._broken = []
            link.send([(self.statements["schedule_break"], [broken, number(ASIDE)])], self._put_aside)
        elif self._batches:
            batch = self._batches.pop(0)
            tick = (self.statements["schedule_tick"], [json.dumps(batch).encode()])
            link.send([tick, self._next()], lambda results, error: self._ticked(batch, results, error))
        else:
            self._told = False
            read = (self.statements["schedule_due"], [integer(AT_ONCE), self.held_ids])
            link.send([read, self._next()], self._read)

    def _next(self) -> tuple[Query, list[bytes | None]]:
        return self.statements["schedule_next"], [self.held_ids]

    # --- answers --------------------------------------------------------------------------------------------------

    def _failed(self, error: StatementError | None) -> None:
        self._batches.clear()
        self._asked = monotonic()
        self._check_at = self._asked + PAUSE
        if error is not None and error.sqlstate:
            self.started = True
            logger.warning("schedules could not be looked at: %s", error)

    def _read(self, results: Results | None, error: StatementError | None) -> None:
        self._under_way = False
        if results is None:
            self._failed(error)
            return
        self.started = True
        decisions = []
        for row in results[0]:
            due = Due.of(row)
            try:
                decisions.append(due.decided())
                self._complained.pop(due.id, None)
            except Exception as problem:  # a row written by hand may hold anything; the others go on
                self._put(due.id, due.words, due.seen, due.updated, str(problem))
        if decisions:
            self._batches.append(decisions)
        self.heard(*results[1][0])

    def _put(self, id_: int, words: str, seen: str | None, updated: str, problem: str) -> None:
        """Have a schedule put aside; say so once."""
        if self._complained.get(id_) != problem:
            self._complained[id_] = problem
            logger.error("schedule %s (%s) can't be worked out and is put aside: %s", id_, words, problem)
        self._broken.append({"id": id_, "seen": seen, "updated": updated, "error": problem})

    def _ticked(self, batch: list[dict[str, Any]], results: Results | None, error: StatementError | None) -> None:
        self._under_way = False
        if results is None:
            assert error is not None
            if error.sqlstate[:2] not in ("22", "23", "42", "P0"):
                self._failed(error)
            elif len(batch) > 1:
                # One of them sinks the others: find out which.
                self._batches += [[one] for one in batch]
            else:
                only = batch[0]
                self._put(only["id"], only["words"], only["seen"], only["updated"], error.message.splitlines()[0])
            return
        words = {one["id"]: one for one in batch}
        made = 0
        for row in results[0]:
            id_, places, unplaced = (int(value or 0) for value in row[:3])
            made += places
            waits = row[3] == b"t"
            if waits:
                self.held[id_] = monotonic() + HOLD
            elif unplaced:
                logger.info(
                    "schedule %s (%s): %d tick(s) skipped, its runs are unfinished", id_, words[id_]["words"], unplaced
                )
            if words[id_]["missed"]:
                _say_missed(words[id_])
        if made:
            self.on_made()
        self.heard(*results[1][0])
        if self.held:
            again = min(self.held.values())
            self._check_at = again if self._check_at is None else min(self._check_at, again)

    def _put_aside(self, results: Results | None, error: StatementError | None) -> None:
        self._under_way = False
        if results is None:
            self._failed(error)
        else:
            self._check_at = 0.0

    def _synced(self, results: Results | None, error: StatementError | None) -> None:
        self._under_way = False
        assert self.declared is not None
        if results is None:
            assert error is not None
            if error.sqlstate == "23505":
                return  # somebody declared the same at the same moment: look again
            if error.sqlstate:
                logger.error("the schedules declared in code could not be stored: %s", error)
                self.declared = None
            return
        found = self.declared.parse([(row[0] or b"").decode() for row in results[0]])
        self.declared = None
        self._check_at = 0.0
        for one in found:
            _say_synced(one)


@dataclass(frozen=True, slots=True)
class Due:
    """One row of schedule_due.sql. ``seen`` and ``updated`` are as the database wrote them, to be compared there."""

    id: int
    words: str
    seen: str | None
    updated: str
    next_run: datetime | None
    run_every: float | None
    cron: str | None
    timezone: str | None
    start_at: datetime | None
    end_at: datetime | None
    catch_up: str
    catch_up_limit: int
    created_at: datetime
    error: str | None
    now: datetime
    sound: bool

    @classmethod
    def of(cls, row: Row) -> Due:
        """Return the schedule of a row."""
        (
            id_, name, key, next_run, updated, run_every, expression, timezone, start_at, end_at, catch_up, limit,
            created_at, error, now, sound,
        ) = row  # fmt: skip
        planned = moment(next_run)
        return cls(
            id=int(id_ or 0),
            words=" ".join(filter(None, [_text(name), _text(key)])),
            seen=None if next_run is None else _text(next_run),
            updated=_text(updated),
            # Somebody's -infinity or year 1 is no tick.
            next_run=None if planned is None or planned < _EPOCH else planned,
            run_every=None if run_every is None else float(run_every),
            cron=None if expression is None else _text(expression),
            timezone=None if timezone is None else _text(timezone),
            start_at=moment(start_at),
            end_at=moment(end_at),
            catch_up=_text(catch_up),
            catch_up_limit=max(1, int(limit or 1)),
            created_at=moment(created_at) or _EPOCH,
            error=None if error is None else _text(error),
            now=moment(now) or _EPOCH,
            sound=sound == b"t",
        )

    def decided(self) -> dict[str, Any]:
        """Return the decision as schedule_tick.sql takes it. Raises whatever the row gives reason for."""
        if not self.sound:
            raise InvalidOption("its name, payload or options are not what a task can have")
        if self.next_run is None or self.error is not None:
            rhythm = self._rhythm(self.start_at or self.created_at)
            following = first_run(rhythm, now=self.now, start=self.start_at, end=self.end_at)
            decision = Decision(ticks=(), next_run=following)
        else:
            decision = decide(
                self._rhythm(self.next_run),
                due=self.next_run,
                now=self.now,
                catch_up=self.catch_up,  # type: ignore[arg-type]
                limit=self.catch_up_limit,
                end=self.end_at,
            )
        return {
            "id": self.id,
            "words": self.words,
            "seen": self.seen,
            "updated": self.updated,
            "ticks": [tick.isoformat() for tick in decision.ticks],
            "next_run": None if decision.next_run is None else decision.next_run.isoformat(),
            "missed": decision.missed,
            "wait": decision.wait,
        }

    def _rhythm(self, anchor: datetime) -> Rhythm:
        if self.run_every is not None:
            if not self.run_every >= 0.001:
                raise InvalidOption(f"run_every is {self.run_every:g} s: give at least a millisecond")
            return Every(timedelta(seconds=self.run_every), anchor)
        return cron(self.cron or "", self.timezone)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _say_missed(decision: Mapping[str, Any]) -> None:
    level = logging.WARNING if decision["wait"] else logging.INFO
    reason = "more were missed than it catches up with" if decision["wait"] else "no worker was there for them"
    logger.log(level, "schedule %s (%s): %d tick(s) or more left out: %s", decision["id"], decision["words"],
               decision["missed"], reason)  # fmt: skip


def _say_synced(one: Synced) -> None:
    words = f"{one.name} {one.key}".strip()
    match one.action:
        case "added" | "changed":
            logger.info("schedule %s (%s) %s as this application's code declares it", one.id, words, one.action)
        case "older":
            logger.warning(
                "schedule %s (%s) is left as it is: newer code has replaced this definition; if this is the newer "
                "code, run `pq schedules sync`",
                one.id,
                words,
            )
        case "foreign":
            logger.warning(
                "schedule %s (%s) is left as it is: this application's code has not declared it", one.id, words
            )
        case "taken":
            logger.error("schedule %s is not stored: schedule %s has its client_id", words, one.other)
