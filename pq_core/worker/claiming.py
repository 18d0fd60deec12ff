"""Rows into claimed tasks, ends of attempts into one report: what goes over the wire to Postgres each turn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from psycopg import sql

from pq_core.types import ClaimedTask
from pq_core.worker.connection import Query, Row

REPORT_BYTES = 8 * 2**20
"""Bytes of one report at most, unless a single end is larger."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Statements:
    """The worker's statements for one schema."""

    schema: str

    def __getitem__(self, name: str) -> Query:
        return _statement(self.schema, name)


@cache
def _statement(schema: str, name: str) -> Query:
    text = files("pq_core").joinpath("sql", "worker", f"{name}.sql").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    composed = sql.SQL("\n".join(lines)).format(schema=sql.Identifier(schema))
    return Query(f"pq_{name}", composed.as_string(None).rstrip().rstrip(";"))


def text_array(items: Iterable[str]) -> bytes:
    """Return a Postgres array literal of texts."""
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return ("{" + ",".join(quoted) + "}").encode()


def integer(value: int) -> bytes:
    """Return the text form of an integer parameter."""
    return b"%d" % value


def number(value: float) -> bytes:
    """Return the text form of a floating point parameter."""
    return repr(float(value)).encode()


def moment(value: bytes | None) -> datetime | None:
    """Return an aware datetime from Postgres' ISO text form, None for NULL; infinity becomes the outermost date."""
    if value is None:
        return None
    text = value.decode()
    if text.startswith(("infinity", "-infinity")) or text.endswith("BC") or len(text.split("-", 1)[0]) > 4:
        return datetime.min.replace(tzinfo=UTC) if text[0] == "-" or text.endswith("BC") else LAST
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the first or last day of Python's time, in another timezone
        return datetime.min.replace(tzinfo=UTC) if text.startswith("0001") else LAST


LAST = datetime.max.replace(tzinfo=UTC)


def claimed_task(row: Row) -> ClaimedTask:
    """Return the task of one row of a claim; columns in the order of RETURNING in claim_one_queue.sql."""
    (
        id_, name, queue, priority, fence, attempt, max_attempts, payload, headers, version, run_at, created_at,
        started_at, client_id, timeout, options, losses, snoozes, schedule_id, tick_at, on_lost, unroutable,
    ) = row  # fmt: skip
    return ClaimedTask(
        id=_integer(id_),
        name=_text(name),
        queue=_text(queue),
        priority=_integer(priority),
        fence=_integer(fence),
        number=_integer(attempt),
        max_attempts=_integer(max_attempts),
        payload=_text(payload),
        headers=_headers(headers),
        version=_integer(version),
        run_at=moment(run_at) or LAST,
        created_at=moment(created_at) or LAST,
        started_at=moment(started_at) or LAST,
        client_id=None if client_id is None else _text(client_id),
        timeout=None if timeout is None else _timeout(float(timeout)),
        options=_options(options),
        losses=_integer(losses),
        snoozes=_integer(snoozes),
        schedule_id=None if schedule_id is None else int(schedule_id),
        tick_at=moment(tick_at),
        on_lost="fail" if on_lost == b"fail" else "retry",
        unroutable=None if unroutable is None else float(unroutable),
    )


def _integer(value: bytes | None) -> int:
    return int(value or 0)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _timeout(seconds: float) -> float:
    # A row written by hand may hold anything: nothing waits for NaN, and no timer takes an infinity.
    return min(max(seconds, 0.0), 365 * 86400.0) if seconds == seconds else 0.0


def _object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):  # nested deeper, or a number longer, than Python takes
        return {}
    return found if isinstance(found, dict) else {}


def _options(value: bytes | None) -> dict[str, Any]:
    """Return the stored options; those that no code of pq writes so are in ``absurd``, in words."""
    if value is None:
        return {}
    found = _object(value)
    absurd = [name for name in _NUMBERS if name in found and not _is_number(found[name])]
    if not found and value.strip() not in (b"{}", b"null"):
        absurd = ["all of them"]
    for name in absurd:
        found.pop(name, None)
    return {**found, "absurd": ", ".join(absurd)} if absurd else found


_NUMBERS = ("memory_limit", "grace", "result_limit")


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value < 2**62


def _headers(value: bytes | None) -> dict[str, str]:
    return {str(key): item if isinstance(item, str) else _as_text(item) for key, item in _object(value).items()}


def _as_text(item: object) -> str:
    try:
        return json.dumps(item)
    except RecursionError:
        return "…"


def storable(text: str | None, limit: int = 256 * 1024) -> str | None:
    """Return text that Postgres takes: NUL and lone surrogates replaced, cut to ``limit`` characters."""
    if text is None:
        return None
    return _UNSTORABLE.sub("\ufffd", text[:limit])


def one_line(name: str) -> str:
    """Return a name as a log may hold it: whoever writes a row must not write lines of it."""
    return name if name.isprintable() and len(name) <= 255 else ascii(name[:255])


def encode_report(ends: Sequence[dict[str, Any]]) -> bytes:
    """Return the jsonb text of a report."""
    return json.dumps(ends, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()


def take_batch(ends: Sequence[dict[str, Any]], *, most: int = 500) -> list[dict[str, Any]]:
    """Return as many of the first ``ends`` as fit into one report; at least one."""
    batch: list[dict[str, Any]] = []
    size = 0
    for end in ends[:most]:
        size += len(json.dumps(end.get("result"))) + len(end.get("error") or "") + len(end.get("output") or "") + 512
        if batch and size > REPORT_BYTES:
            break
        batch.append(end)
    return batch
