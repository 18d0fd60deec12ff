"""A history that was lost: what the database went on with, as the fault saw it before anybody wrote to it.

A leaf beside ``record``: the faults write it, the checker reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

SWITCHES = "switches.jsonl"
"""One line for each history that was lost."""
TASKS = "SELECT id, name, payload -> 'args' ->> 0, fence, status FROM pq_tasks WHERE name <> 'chaos.probe'"


@dataclass(frozen=True, slots=True)
class Known:
    """One task as the surviving history had it."""

    id: int
    name: str
    key: str | None
    fence: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One switch. ``began``: when the old server was ended; ``ended``: before the new one took its first write;
    ``until``: when nothing of the lost history may run any more; all three by the monotonic clock.
    ``servers``: those on which the lost part was written, by the time at which they started."""

    began: float
    ended: float
    until: float
    servers: list[str]
    orders: list[str]
    tasks: list[Known]


def look(dsn: str) -> tuple[list[str], list[Known]]:
    """Return the keys of the orders and the tasks that are in a database that nobody writes to yet."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        orders = [row[0] for row in connection.execute("SELECT key FROM chaos_orders")]
        return orders, [Known(*row) for row in connection.execute(TASKS)]


def note(folder: Path, switch: Switch) -> None:
    """Write down that a history was lost."""
    with (folder / SWITCHES).open("a") as file:
        file.write(json.dumps(asdict(switch)) + "\n")


def switches(folder: Path) -> list[Switch]:
    """Read what was noted, the earliest first."""
    path = folder / SWITCHES
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        words = json.loads(line)
        found.append(Switch(**{**words, "tasks": [Known(**task) for task in words["tasks"]]}))
    return found
