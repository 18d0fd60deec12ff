"""Finding tasks: what somebody filters by, the order in which an index gives them, and a bound on what is looked at.

A filter that no index serves would read the whole table for a page of nothing. So each search walks along one index and
looks at a budget of rows at most; what it found until then is shown, and from where it stopped one can search on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from psycopg import sql

from pq_adapters.dashboard import holding
from pq_adapters.dashboard.holding import BadFilter as BadFilter
from pq_adapters.dashboard.reading import ask, text_of
from pq_adapters.dashboard.words import CAP

if TYPE_CHECKING:
    from pq_core.client import PQ

PAGE = 50
BUDGETS: Mapping[str, int] = {"newest": 20_000, "tried": 10_000, "waiting": 2_000}
"""Rows that one search looks at: many in the order in which they lie, fewer where several queues have to be merged."""
BUDGET = 5_000
"""The same for walks that jump through the table: in the worst case each row comes from the disk."""

ENDED = ("completed", "failed", "cancelled")
STATES = ("waiting", "held", "scheduled", "running", *ENDED)
WITHIN: Mapping[str, tuple[str, timedelta]] = {
    "15m": ("last 15 minutes", timedelta(minutes=15)),
    "1h": ("last hour", timedelta(hours=1)),
    "24h": ("last 24 hours", timedelta(days=1)),
    "7d": ("last 7 days", timedelta(days=7)),
    "30d": ("last 30 days", timedelta(days=30)),
}

COLUMNS = """t.id, t.name, t.queue, t.status, t.due, t.outcome, t.priority, t.run_at, t.created_at, t.started_at,
    t.completed_at, t.attempts, t.max_attempts, t.progress, t.progress_message, t.worker_id, t.schedule_id, t.client_id,
    t.cancel_requested_at, t.ledger, coalesce(t.options -> 'sensitive' = 'true', false) AS sensitive,
    CASE WHEN t.options -> 'sensitive' = 'true' OR pg_column_size(t.payload) > 2000 THEN NULL ELSE t.payload END
        AS payload,
    cast(t.options ->> 'memory_limit' AS double precision) AS memory_limit,
    CASE WHEN t.options -> 'sensitive' = 'true' THEN NULL WHEN length(t.error) <= 2000 THEN t.error
        ELSE left(t.error, 500) || E'\\n' || right(t.error, 1500) END AS error"""

_ITS_WORKER = "t.worker_id = (SELECT cast(p ->> 'worker' AS bigint) FROM input)"
"""It runs there, or its last attempt did."""
_CONDITIONS: Mapping[str, str] = {
    "queue": "t.queue = (SELECT p ->> 'queue' FROM input)",
    "name": "t.name = (SELECT p ->> 'name' FROM input)",
    "priority": "t.priority = (SELECT cast(p ->> 'priority' AS integer) FROM input)",
    "worker": f"({_ITS_WORKER} OR EXISTS (SELECT FROM {{schema}}.pq_attempts a WHERE a.task_id = t.id"
    " AND a.worker_id = (SELECT cast(p ->> 'worker' AS bigint) FROM input)))",
    "schedule": "t.schedule_id = (SELECT cast(p ->> 'schedule' AS bigint) FROM input)",
    "client_id": "t.client_id = (SELECT p ->> 'client_id' FROM input)",
    "key": "t.concurrency_key = (SELECT p ->> 'key' FROM input)",
    "fingerprint": "t.error_fingerprint = (SELECT p ->> 'fingerprint' FROM input)",
    # What must not be shown can't be searched either: an answer is a hint.
    "error": "position(lower((SELECT p ->> 'error' FROM input)) IN lower(t.error)) > 0"
    " AND t.options -> 'sensitive' IS DISTINCT FROM 'true'",
    **holding.CONDITIONS,
    "found": "t.id IS NOT NULL",  # a walk may give rows of nothing, which count against its budget
}
LANES_OF_KEY = "t.lane >= md5((SELECT p ->> 'key' FROM input)) AND t.lane < md5((SELECT p ->> 'key' FROM input)) || 'g'"
"""What has the same key begins with the same digest of it: see ``pq_lane`` in the schema."""
_STATE_CONDITIONS: Mapping[str, str] = {
    "waiting": "t.status = 'pending' AND t.due",
    "held": "t.status = 'blocked'",
    "scheduled": "t.status = 'pending' AND NOT t.due",
    **{state: f"t.status = '{state}'" for state in ("running", *ENDED)},
}
_PLACES: Mapping[str, tuple[str, ...]] = {
    "newest": ("bigint",),
    "client_id": ("bigint",),
    "ended": ("timestamptz", "bigint"),
    "finished": ("timestamptz", "bigint"),
    "held": ("text", "text", "integer", "timestamptz", "bigint"),
    "running": ("timestamptz", "bigint"),
    "tried": ("bigint",),
    "schedule": ("timestamptz", "bigint"),
    "scheduled": ("timestamptz", "bigint"),
    "waiting": ("integer", "timestamptz", "bigint"),
    "waiting_in_queue": ("integer", "timestamptz", "bigint"),
}
_AFTER: Mapping[str, str] = {
    "newest": "t.id < {0}",
    "client_id": "t.id < {0}",
    "ended": "(t.completed_at, t.id) < ({0}, {1})",
    "finished": "(t.completed_at, t.id) < ({0}, {1})",
    "held": "(t.queue, t.lane, -t.priority::integer, t.run_at, t.id) > ({0}, {1}, -{2}, {3}, {4})",
    "running": "(t.started_at, t.id) < ({0}, {1})",
    "tried": "a.id < {0}",
    "schedule": "(t.tick_at, t.id) < ({0}, {1})",
    "scheduled": "(t.run_at, t.id) > ({0}, {1})",
    "waiting": "(-t.priority::integer, t.run_at, t.id) > (-{0}, {1}, {2})",
    "waiting_in_queue": "(-t.priority::integer, t.run_at, t.id) > (-{0}, {1}, {2})",
}

_UNORDERED: Mapping[str, str] = {
    "waiting": "waiting_unordered",
    "finished": "finished_unordered",
    "ended": "finished_unordered",
}
"""For counting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What somebody looks for: all that is said must hold. ``within``: a key of ``WITHIN``, instead of ``since``.

    Times are those of the end for finished states, of the creation for all others. ``worker``: who runs it, ended
    it, or ran an attempt of it before. ``key``: of its limit. ``holds``: ``args.order=7`` or ``headers.tenant=acme``.
    """

    state: str = ""
    queue: str = ""
    name: str = ""
    priority: int | None = None
    worker: int | None = None
    schedule: int | None = None
    client_id: str = ""
    error: str = ""
    holds: str = ""
    fingerprint: str = ""
    key: str = ""
    within: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return what the parameters of an address or a form say. Raises BadFilter for what can't be meant."""
        said: dict[str, Any] = {}
        for field in fields(cls):
            text = given.get(field.name)
            if not isinstance(text, str) or not (text := text.strip()):
                continue
            if "\x00" in text or len(text) > 1000:
                raise BadFilter(f"{field.name}: give up to 1,000 characters of text")
            match field.name:
                case "priority" | "worker" | "schedule":
                    said[field.name] = _integer(field.name, text)
                case "since" | "until":
                    said[field.name] = _moment(field.name, text)
                case _:
                    said[field.name] = text
        if said.get("holds"):
            holding.parts_of(said["holds"])
        if said.get("state") and said["state"] not in STATES:
            raise BadFilter(f"state: {said['state']!r} is none; give one of {', '.join(STATES)}")
        if said.get("within") and said["within"] not in WITHIN:
            raise BadFilter(f"within: {said['within']!r} is none; give one of {', '.join(WITHIN)}")
        return cls(**said)

    def parameters(self) -> dict[str, str]:
        """Return what was said, as the parameters of an address."""
        said = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, datetime):
                said[field.name] = f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
            elif value not in ("", None):
                said[field.name] = str(value)
        return said

    def query(self, **changes: Any) -> str:
        """Return the parameters as text, with some changed; None or empty leaves one out."""
        merged = {**self.parameters(), **changes}
        return urlencode({name: value for name, value in merged.items() if value not in ("", None)})

    @property
    def narrow(self) -> bool:
        """True when something besides the state was said."""
        return bool(replace(self, state="").parameters())

    def since_moment(self, now: datetime) -> datetime | None:
        """Return from when on, with ``within`` counted back from now."""
        return now - WITHIN[self.within][1] if self.within else self.since

    @property
    def walks(self) -> tuple[str, ...]:
        """Return the names of the walks that serve this best, one after the other."""
        if self.client_id:
            return ("client_id",)
        if self.worker is not None and self.state != "running":
            last = {"": ("running", "ended"), **dict.fromkeys(ENDED, ("finished",))}
            return (*last.get(self.state, ()), "tried")
        if self.schedule is not None and self.worker is None:
            return ("schedule",)
        match self.state:
            case "completed" | "failed" | "cancelled":
                return ("finished",)
            case "running" | "scheduled" | "held":
                return (self.state,)
            case "waiting":
                return ("waiting_in_queue" if self.queue else "waiting",)
        return ("newest",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page. ``after``: where the next one begins, as text. ``exhausted``: False when the budget ended the search."""

    rows: list[dict[str, Any]]
    after: str | None
    exhausted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many match, up to ``CAP + 1``. ``exact``: False when the budget ended the counting."""

    number: int
    exact: bool

    def __str__(self) -> str:
        if self.number > CAP:
            return f"{CAP:,}+"
        return f"{self.number:,}" if self.exact else f"at least {self.number:,}"


async def find(pq: PQ, search: Search, *, after: str = "", limit: int = PAGE, columns: str = COLUMNS) -> Found:
    """Return the tasks that match from a place on."""
    walks = search.walks
    begin, place = _place(walks, after) if after else (0, None)
    rows: list[dict[str, Any]] = []
    for number in range(begin, len(walks)):
        leading = [number] if len(walks) > 1 else []
        wanted = limit + 1 - len(rows)
        words, parameters = await _prepare(pq, search, walks[number], place, wanted)
        more = await ask(pq, "find_rows", parameters, **words, columns=columns, limit=wanted)
        rows += [{**row, "place": [*leading, *row["place"]]} for row in more]
        if len(rows) > limit:
            return Found(rows=rows[:limit], after=json.dumps(rows[limit - 1]["place"]), exhausted=True)
        if (edge := await _edge(pq, words, parameters)) is not None:
            return Found(rows=rows, after=json.dumps([*leading, *edge]), exhausted=False)
        place = None
    return Found(rows=rows, after=None, exhausted=True)


async def count(pq: PQ, search: Search, *, cap: int = CAP) -> Count:
    """Count the tasks that match, up to one more than ``cap``."""
    number, exact = 0, True
    for walk in search.walks:
        wanted = cap + 1 - number
        words, parameters = await _prepare(pq, search, walk, None, wanted, ordered=False)
        [found] = await ask(pq, "find_count", parameters, **words, limit=wanted)
        number += found
        if number > cap:
            return Count(number=number, exact=True)
        exact = exact and await _edge(pq, words, parameters) is None
    return Count(number=number, exact=exact)


async def _edge(pq: PQ, words: Mapping[str, str], parameters: Mapping[str, Any]) -> list[Any] | None:
    """Return where a walk that gave fewer than wanted has used up its budget; None when it came to its end."""
    if words["conditions"] == "true":
        return None  # all that it looked at was given
    edge = await ask(pq, "find_edge", parameters, window=words["window"], budget=words["budget"])
    return list(edge[0]) if edge else None


async def _prepare(
    pq: PQ, search: Search, walk: str, place: list[Any] | None, wanted: int, *, ordered: bool = True
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the words and the parameters of a walk's statements."""
    now = datetime.now(tz=UTC)
    parameters: dict[str, Any] = {
        name: value for name in _CONDITIONS if (value := getattr(search, name, None)) not in ("", None)
    }
    if search.holds:
        parameters |= await asyncio.to_thread(holding.parameters_of, search.holds, pq)
    bounds, rest = [], dict.fromkeys(name for name in parameters if name in _CONDITIONS)
    if walk == "finished":
        bounds.append(f"t.status = '{search.state}'")
    if search.worker is not None and "tried" in search.walks:
        del rest["worker"]
        if walk == "tried":
            rest["found"] = None
        else:
            bounds.append(_ITS_WORKER)
    elif walk == "finished" and search.name:
        bounds.append(_CONDITIONS["name"])
        del rest["name"]
    if walk == "held" and search.queue:
        bounds.append(_CONDITIONS["queue"])
        del rest["queue"]
    if walk == "held" and search.key:
        bounds.append(LANES_OF_KEY)
        del rest["key"]
    schema = sql.Identifier(pq.schema).as_string(None)
    conditions = [_CONDITIONS[name].replace("{schema}", schema) for name in rest]
    if walk in ("newest", "client_id", "running", "tried", "schedule") and search.state:
        conditions.append(_STATE_CONDITIONS[search.state])
    moments = {"since": search.since_moment(now), "until": search.until}
    for name, sign in (("since", ">="), ("until", "<")):
        if (at := moments[name]) is None:
            continue
        parameters[name] = at.isoformat()
        value = f"(SELECT cast(p ->> '{name}' AS timestamptz) FROM input)"
        if walk == "finished":
            bounds.append(f"t.completed_at {sign} {value}")
            continue
        conditions.append(f"t.{'completed_at' if search.state in ENDED else 'created_at'} {sign} {value}")
        if walk == "newest":
            # Where to begin and to end, with a minute's room: ids are drawn a little before or after the clock is read.
            room = timedelta(minutes=-1 if name == "since" else 1)
            [edge] = await ask(pq, "id_at", {"at": (at + room).isoformat()})
            parameters[f"{name}_id"] = edge
            bounds.append(f"t.id {sign} (SELECT cast(p ->> '{name}_id' AS bigint) FROM input)")
    if place is not None:
        parameters["after"] = place
        values = [f"(SELECT cast(p -> 'after' ->> {i} AS {kind}) FROM input)" for i, kind in enumerate(_PLACES[walk])]
        bounds.append(_AFTER[walk].format(*values))
    budget = max(BUDGETS.get(walk, BUDGET), wanted) if conditions else wanted
    if not ordered and (walk == "waiting" or not conditions or search.name):
        walk = _UNORDERED.get(walk, walk)
    window = text_of(f"walks/{walk}")
    for word, value in (
        ("schema", schema),
        ("bounds", " AND ".join(bounds) or "true"),
        ("budget", str(budget)),
    ):
        window = window.replace(f"{{{word}}}", value)
    return {"window": window, "conditions": " AND ".join(conditions) or "true", "budget": str(budget)}, parameters


def _place(walks: Sequence[str], after: str) -> tuple[int, list[Any]]:
    """Return with which of the walks to go on, and where in it."""
    nowhere = BadFilter("after: this is no place of this list; begin at its first page")
    try:
        place = json.loads(after)
    except ValueError:
        raise nowhere from None
    number = 0
    if len(walks) > 1:
        if not isinstance(place, list) or not place or place[0] not in range(len(walks)):
            raise nowhere
        number, place = int(place[0]), place[1:]
    kinds = _PLACES[walks[number]]
    if not isinstance(place, list) or len(place) != len(kinds):
        raise nowhere
    for value, kind in zip(place, kinds, strict=True):
        match kind:
            case "timestamptz" if isinstance(value, str):
                if value not in ("infinity", "-infinity"):
                    _moment("after", value)
            case "text" if isinstance(value, str) and "\x00" not in value:
                pass
            case "bigint" | "integer" if type(value) is int and abs(value) < 2**63:
                pass
            case _:
                raise nowhere
    return number, place


def _integer(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise BadFilter(f"{name}: {text!r} is no whole number") from None
    limit = 2**15 if name == "priority" else 2**63
    if not -limit <= value < limit:
        raise BadFilter(f"{name}: {text!r} is too large")
    return value


def _moment(name: str, text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadFilter(f"{name}: {text!r} is no time; give one like 2030-01-31T08:00, in UTC") from None
