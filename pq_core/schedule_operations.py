"""What the public methods about schedules mean, apart from connections: their arguments in, a request out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pq_core import payload, rows
from pq_core.errors import DuplicateClientId, InvalidOption, InvalidTask, ScheduleNotFound
from pq_core.filters import bigint
from pq_core.operations import Operations, Planned
from pq_core.options import changed, split_schedule_options
from pq_core.schedule_options import SCHEDULE_OPTIONS, Declaration, Origin, build_schedule, write
from pq_core.store import Request, statement
from pq_core.tasks import BoundOptions, Call
from pq_core.types import JSON, CallOptions, ScheduleRecord, TaskId, TaskRecord

if TYPE_CHECKING:
    from pq_core.client import PQ

_WHERE: Mapping[str, str] = {
    "id": "s.id = (SELECT cast(p ->> 'id' AS bigint) FROM input)",
    "name": "s.name = (SELECT p ->> 'name' FROM input)",
    "key": "s.key = (SELECT p ->> 'key' FROM input)",
    "client_id": "s.client_id = (SELECT p ->> 'client_id' FROM input)",
    "app": "s.app = (SELECT p ->> 'app' FROM input)",
    "active": "s.active = (SELECT cast(p ->> 'active' AS boolean) FROM input)",
}


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one declaration.

    ``action``: ``added``, ``changed``, ``unchanged``; ``foreign``: another application, or no code at all, has
    declared the one that is there; ``older``: newer code has taken the place of this definition; ``taken``: the
    schedule ``other`` has its ``client_id``. Nothing was written for the last three.
    """

    name: str
    key: str
    id: int | None
    action: str
    other: int | None = None


@dataclass(frozen=True, slots=True)
class ScheduleOperations:
    """The vocabulary of schedules for one ``PQ``."""

    operations: Operations

    def declaration(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Declaration:
        """Return what ``pq.schedule(target, …)`` declares, in either form."""
        match target:
            case Call():
                if args:
                    raise InvalidTask(f"schedule({target!r}, …): the arguments of a call are in it: task.call(…)")
                said = {name: value for name, value in kwargs.items() if name in SCHEDULE_OPTIONS}
                rest = {
                    ("timeout" if name == "max_runtime_seconds" else name): value
                    for name, value in kwargs.items()
                    if name not in SCHEDULE_OPTIONS
                }
                return declare(target.options(**rest) if rest else target, said)
            case BoundOptions():
                task, before = target.task, target.settings
            case _ if callable(target):
                task, before = self.operations.registry.task_for(target), CallOptions()
            case _:
                raise InvalidTask(f"schedule({target!r}): give a call, task.call(…), or a task and its arguments")
        said, flat, own = split_schedule_options(task, kwargs)
        flat_said = {f.name: value for f in fields(flat) if (value := getattr(flat, f.name)) is not None}
        settings = changed(before, flat_said, what=f"schedule({task.name})")
        return declare(replace(task.call(*args, **own), settings=settings), said)

    def put(self, declaration: Declaration, *, origin: Origin = "call") -> Planned[int]:
        """Plan one schedule: its id. A ``client_id`` that is taken raises when the rows are read."""
        request = self.sync([declaration], origin=origin)

        def parse(found: list[str]) -> int:
            one = request.parse(found)[0]
            if one.action == "taken":
                raise _taken(str(declaration.options.client_id or declaration.call.settings.client_id), one.other)
            assert one.id is not None
            return one.id

        insists = declaration.call.task.name if declaration.call.settings.require_transaction else None
        return Planned(request.statement, request.parameters, parse, insists)

    def sync(
        self, declarations: Sequence[Declaration], *, origin: Origin = "code", force: bool = False
    ) -> Request[list[Synced]]:
        """Plan what an application declares. ``force``: also what newer code has taken the place of."""
        operations, now = self.operations, datetime.now(tz=UTC)
        items = [
            write(
                one,
                registry=operations.registry,
                defaults=operations.defaults,
                payload_limit=operations.payload_limit,
                now=now,
            )
            for one in declarations
        ]
        names = [(item["name"], item["key"]) for item in items]
        for name, key in names:
            if names.count((name, key)) > 1:
                raise InvalidOption(f"two schedules of {name} have the key {key!r}: give each a key= of its own")

        def parse(found: list[str]) -> list[Synced]:
            answers = (json.loads(row) for row in found)
            return [Synced(items[n]["name"], items[n]["key"], id, action, other) for n, id, action, other in answers]

        parameters = {"app": operations.app, "origin": origin, "force": force, "items": items}
        return self._request("schedule_put", parameters, parse)

    def prune(self, declarations: Sequence[Declaration], *, remove: bool) -> Request[list[Synced]]:
        """Plan the removal of what the application's code no longer declares; with ``remove`` False, only a look."""
        registry = self.operations.registry
        declared = [(registry.name_of(one.call.task), one.options.key) for one in declarations]

        def parse(found: list[str]) -> list[Synced]:
            return [Synced(name, key, id, "removed") for id, name, key in map(json.loads, found)]

        parameters = {"app": self.operations.app, "declared": declared, "remove": remove}
        return self._request("schedule_prune", parameters, parse)

    def remove(self, target: Any, key: str) -> Request[bool]:
        """Plan the deletion of one schedule; False when it is not there."""
        return self._on_one("schedule_remove", target, key, bool)

    def activate(self, target: Any, key: str, *, active: bool) -> Request[bool]:
        """Plan a pause or its end; False when there is no such schedule."""
        return self._on_one("schedule_activate", target, key, bool, {"active": active})

    def run_now(self, target: Any, key: str) -> Request[TaskId[Any]]:
        """Plan a run beside the rhythm; raises ScheduleNotFound when the rows are read."""

        def parse(found: list[str]) -> TaskId[Any]:
            if not found:
                raise ScheduleNotFound(f"there is no schedule {_words(target, key)}")
            return TaskId(int(found[0]))

        return self._on_one("schedule_run", target, key, parse)

    def get(self, target: Any, key: str) -> Request[ScheduleRecord | None]:
        """Plan the reading of one schedule."""
        return self._on_one("schedule_list", target, key, _maybe_schedule, {"limit": 1})

    def get_by_client_id(self, client_id: str) -> Request[ScheduleRecord | None]:
        """Plan the reading of the schedule with a ``client_id``."""
        chosen = {"client_id": client_id}
        return self._request("schedule_list", {**chosen, "limit": 1}, _maybe_schedule, where=_where(chosen))

    def matching(self, *, limit: int | None, **chosen: Any) -> Request[list[ScheduleRecord]]:
        """Plan the reading of the schedules that match."""
        said = {name: value for name, value in chosen.items() if value is not None}
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidOption(f"limit={limit!r}: give an integer of 0 or more, or None for all")
        return self._request("schedule_list", {**said, "limit": limit}, _schedules, where=_where(said))

    def count(self) -> Request[int]:
        """Plan the number of all schedules."""
        return self._request("schedule_count", {}, rows.number)

    def runs(self, schedule_id: int, *, limit: int) -> Request[list[TaskRecord]]:
        """Plan the reading of a schedule's tasks, the latest tick first."""
        return self._request("schedule_runs", {"id": bigint(schedule_id), "limit": limit}, rows.tasks)

    def _on_one(
        self, name: str, target: Any, key: str, parse: Any, more: Mapping[str, Any] | None = None
    ) -> Request[Any]:
        chosen = self._chosen(target, key)
        return self._request(name, {**chosen, **(more or {})}, parse, where=_where(chosen))

    def _chosen(self, target: Any, key: str) -> dict[str, Any]:
        match target:
            case ScheduleRecord():
                return {"id": bigint(target.id)}
            case bool():
                pass
            case int():
                return {"id": bigint(target)}
            case str():
                return {"name": target, "key": key}
            case Call() | BoundOptions():
                return {"name": self.operations.registry.name_of(target.task), "key": key}
            case _ if callable(target):
                return {"name": self.operations.registry.name_of(target), "key": key}
        raise InvalidOption(f"{target!r} is no schedule: give its task, the name of its task, or its id")

    def _request(self, name: str, parameters: JSON, parse: Any, *, where: str = "true") -> Request[Any]:
        return Request(statement(self.operations.store.schema, name, where), payload.dumps(parameters), parse)


def declared_schedules(pq: PQ) -> Request[list[Synced]] | None:
    """Return the request by which a starting worker stores what its application declares; None without any."""
    declarations = pq.registry.schedules()
    return ScheduleOperations(pq._operations).sync(declarations) if declarations else None


def declare(call: Call[Any], said: Mapping[str, Any]) -> Declaration:
    """Return a checked declaration."""
    return Declaration(call, build_schedule(said, what=f"schedule({call.task.name})"))


def _where(chosen: Mapping[str, Any]) -> str:
    return " AND ".join(_WHERE[name] for name in chosen) or "true"


def _words(target: Any, key: str) -> str:
    if isinstance(target, int):
        return str(target)
    name = target if isinstance(target, str) else getattr(getattr(target, "task", target), "name", repr(target))
    return f"of {name}" + (f" with the key {key!r}" if key else "")


def _taken(client_id: str, other: int | None) -> DuplicateClientId:
    error = DuplicateClientId(client_id, other or 0)
    error.args = (f"client_id {client_id!r} already names schedule {other}; nothing was written",)
    return error


_TIMES = ("next_run", "last_run", "start_at", "end_at", "ended_at", "last_skipped_at", "created_at", "updated_at")


def _schedule(row: str) -> ScheduleRecord:
    values = json.loads(row)
    for name in _TIMES:
        values[name] = rows.time(values[name])
    for name in ("run_every", "jitter"):
        values[name] = None if values[name] is None else timedelta(seconds=values[name])
    return ScheduleRecord(**values)


def _schedules(found: list[str]) -> list[ScheduleRecord]:
    return [_schedule(row) for row in found]


def _maybe_schedule(found: list[str]) -> ScheduleRecord | None:
    return _schedule(found[0]) if found else None
