"""What the forms of schedules hold, and what is meant by it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.datastructures import FormData

from pq_adapters.dashboard import words
from pq_adapters.dashboard.reading import ask, question
from pq_core import payload
from pq_core.cron import find_zone
from pq_core.errors import PayloadDecodeError

if TYPE_CHECKING:
    from pq_core.bound import AsyncBoundPQ
    from pq_core.client import PQ
    from pq_core.tasks import Call

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def empty() -> dict[str, str]:
    """Return the values of a form that nobody has filled in."""
    return {
        "id": "", "name": "", "key": "", "rhythm": "cron", "cron": "0 9 * * *", "timezone": "", "every": "15",
        "unit": "min", "args": "[]", "kwargs": "{}", "queue": "", "priority": "", "max_attempts": "", "timeout": "",
        "max_concurrent": "1", "catch_up": "latest", "jitter": "",
    }  # fmt: skip


def filled(row: dict[str, Any]) -> dict[str, str]:
    """Return the form's values for what is stored."""
    every, unit = row["run_every"] or 900.0, "s"
    for name, length in UNITS.items():
        if every % length == 0:
            unit = name
    held = row["payload"] or {}
    return {
        **empty(),
        "id": str(row["id"]), "name": row["name"], "key": row["key"],
        "rhythm": "cron" if row["cron"] is not None else "every", "cron": row["cron"] or "",
        "timezone": row["timezone"] or "", "every": f"{every / UNITS[unit]:g}", "unit": unit,
        "args": words.pretty(held.get("args") or []), "kwargs": words.pretty(held.get("kwargs") or {}),
        "queue": row["queue"], "priority": str(row["priority"]), "max_attempts": str(row["max_attempts"]),
        "timeout": "" if row["max_runtime_seconds"] is None else f"{row['max_runtime_seconds']:g}",
        "max_concurrent": "" if row["max_concurrent"] is None else str(row["max_concurrent"]),
        "catch_up": row["catch_up"], "jitter": "" if row["jitter"] is None else f"{row['jitter']:g}",
    }  # fmt: skip


def said(form: FormData) -> dict[str, str]:
    """Return what a form says, its fields alone."""
    return {name: str(form.get(name, default)) for name, default in empty().items()}


def meant(pq: PQ, said: Mapping[str, str]) -> tuple[Any, dict[str, Any]]:
    """Return the call and the schedule's options that a form means: none of these when it says ``now``.

    Raises PQError, TypeError or ValueError, whose text is shown.
    """
    values = {name: value.strip() for name, value in said.items()}
    if not values["name"]:
        raise ValueError("Say which task function it runs.")
    task = pq.registry.resolve(values["name"])
    args, kwargs = json_of("args", values["args"] or "[]", list), json_of("kwargs", values["kwargs"] or "{}", dict)
    read = payload.decode({"args": args, "kwargs": kwargs}, signature=task.typed_signature)
    call = task.call(*read[0], **read[1])
    own: dict[str, Any] = {}
    if values["queue"]:
        own["queue"] = values["queue"]
    for name in ("priority", "max_attempts"):
        if values[name]:
            own[name] = whole(name, values[name])
    if values["timeout"]:
        own["timeout"] = seconds("timeout", values["timeout"])
    call = call.options(**own) if own else call
    if values["rhythm"] == "now":
        return call, {}
    options = rhythm(values)
    options["key"] = values["key"]
    options["max_concurrent"] = whole("max_concurrent", values["max_concurrent"]) if values["max_concurrent"] else None
    options["catch_up"] = values["catch_up"]
    if values["jitter"]:
        options["jitter"] = timedelta(seconds=seconds("jitter", values["jitter"]))
    return call, options


async def stored(pq: PQ, said: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the row that a form is about to change; None when it is to make one."""
    if not said["id"].isdecimal() or len(said["id"]) > 18:
        return None
    found = await ask(pq, "schedules", {"id": int(said["id"]), "limit": 1})
    return found[0] if found and (found[0]["name"], found[0]["key"]) == (said["name"], said["key"]) else None


async def store(
    bound: AsyncBoundPQ, schema: str, call: Call[Any], options: Mapping[str, Any], before: Mapping[str, Any] | None
) -> int:
    """Store what a form means and return the schedule's id. What the form does not show stays as it was ``before``."""
    kept: dict[str, Any] = {}
    if before is not None:
        kept = {name: words.moment(before[name]) for name in ("start_at", "end_at")}
        kept["catch_up_limit"] = before["catch_up_limit"]
    schedule_id: int = await bound.aschedule(call, **{**options, **kept})
    if before is None:
        return schedule_id
    unseen = {"id": schedule_id, "headers": before["headers"], "options": before["options"]}
    await bound._arun(question(schema, "schedule_keep", unseen))
    return schedule_id


def rhythm(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a schedule that say when. Raises PQError or ValueError."""
    zone = str(given.get("timezone") or "").strip() or None
    if str(given.get("rhythm")) == "every":
        unit = UNITS.get(str(given.get("unit")), 1.0)
        return {"run_every": timedelta(seconds=seconds("every", str(given.get("every") or "")) * unit)}
    expression = str(given.get("cron") or "").strip()
    if not expression:
        raise ValueError("Give a cron expression: minute hour day month weekday.")
    find_zone(zone)
    return {"cron": expression, "timezone": zone}


def rhythm_words(said: Mapping[str, str]) -> str:
    """Return when, for the audit log."""
    if said["rhythm"] == "every":
        return f"every {said['every']} {said['unit']}"
    return f"{said['cron']} {said['timezone'] or 'UTC'}"


def zones() -> list[str]:
    """Return names of timezones to suggest."""
    from zoneinfo import available_timezones

    return sorted(zone for zone in available_timezones() if "/" in zone and not zone.startswith(("Etc/", "posix")))


def json_of(name: str, text: str, kind: type) -> Any:
    """Return the JSON of a field. Raises ValueError unless it is of a kind."""
    try:
        value = payload.loads(text)
    except PayloadDecodeError as error:
        raise ValueError(f"{name}: {text!r} is not JSON: {error}") from None
    if not isinstance(value, kind):
        example = "a list, as [1, 2]" if kind is list else 'an object, as {"region": "eu"}'
        raise ValueError(f"{name}: give {example}")
    return value


def whole(name: str, text: str) -> int:
    """Return the whole number in a field. Raises ValueError."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no whole number") from None


def seconds(name: str, text: str) -> float:
    """Return the seconds in a field. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no number") from None
    if not 0 <= value <= 3.2e9:
        raise ValueError(f"{name}: {text!r} is out of bounds")
    return value
