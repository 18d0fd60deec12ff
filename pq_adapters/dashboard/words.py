"""What people read: durations, sizes, counts, times, and how an attempt ended, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pq_core.policy import describe_memory, describe_signal

CAP = 10_000
"""Counts stop here: nobody needs to know more exactly, and nobody should wait for it."""

FAILURES = frozenset({"raised", "timed_out", "out_of_memory", "crashed", "lost"})
"""Outcomes that are failures of an attempt; interrupted, released, snoozed and cancelled ones are not."""

_UNITS = ((86400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "min"), (60.0, "min", 1.0, "s"))
_PLAIN = {
    "succeeded": "succeeded",
    "raised": "raised an exception",
    "timed_out": "timed out",
    "out_of_memory": "ran out of memory",
    "crashed": "crashed",
    "cancelled": "cancelled",
    "snoozed": "snoozed: it asked to run later",
    "interrupted": "interrupted: its worker stopped, it runs again",
    "lost": "lost: its worker died",
    "released": "released: this worker can't run it",
}


def duration(seconds: float | None) -> str:
    """Return a length of time as people say it: ``340 ms``, ``2.4 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds < 0.0005:
        return "0 ms" if seconds == 0 else "<1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    if seconds < 60:
        return f"{seconds:.0f} s"
    for size, word, smaller, smaller_word in _UNITS:
        if seconds >= size:
            whole, rest = divmod(round(seconds / smaller), round(size / smaller))
            return f"{whole:,} {word}" + (f" {rest} {smaller_word}" if rest and whole < 100 else "")
    return f"{seconds:.0f} s"


def size(count: float | None) -> str:
    """Return bytes with a binary unit: ``31 MiB``."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def number(value: float | None) -> str:
    """Return a count with thousands apart; a broken one with at most one decimal."""
    if value is None:
        return "–"
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def capped(count: int) -> str:
    """Return a count that was taken up to ``CAP + 1``: ``10,000+`` beyond it."""
    return f"{CAP:,}+" if count > CAP else f"{count:,}"


def rate(per_second: float) -> str:
    """Return a rate in the smallest unit that makes it one or more: ``10 per s``, ``90 per min``."""
    for size, word in ((1, "s"), (60, "min"), (3600, "h"), (86400, "d")):
        if per_second * size >= 0.9995 or size == 86400:
            return f"{per_second * size:.4g} per {word}"
    raise AssertionError("unreachable")


def limits(own: Mapping[str, Any]) -> str:
    """Return what a task's own limits say: those of its key, then those of its function."""
    said = []
    if own.get("key") is not None:
        said.append(f"{own.get('at_once') or 1} at once with this key")
    if own.get("concurrency") is not None:
        said.append(f"{own['concurrency']} at once of this function")
    if own.get("rate"):
        said.append(f"{rate(float(own['rate']))} of this function")
    return ", ".join(said)


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 as per cent; small ones are not rounded to nothing."""
    if share is None:
        return "–"
    if share == 0 or share >= 0.1:
        return f"{share:.0%}".replace("%", " %")
    return "<0.1 %" if share < 0.001 else f"{share * 100:.1f} %"


def moment(value: datetime | str | None) -> datetime | None:
    """Return a time that is one, or ISO text of one; None for what Postgres calls infinity."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def relative(value: datetime | str | None, now: datetime | None = None) -> str:
    """Return how far away a time is: ``3 min ago``, ``in 2 h``, ``now``."""
    at = moment(value)
    if at is None:
        return "never" if value is None else str(value)
    seconds = ((now or datetime.now(tz=UTC)) - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    text = rough(abs(seconds))
    return f"{text} ago" if seconds > 0 else f"in {text}"


def rough(seconds: float) -> str:
    """Return a distance in one unit."""
    for size, word in ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {word}"
    return f"{max(int(seconds), 1)} s"


def absolute(value: datetime | str | None) -> str:
    """Return a time to the second in UTC."""
    at = moment(value)
    return "never" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def outcome(
    kind: str | None, error: str | None, ledger: Mapping[str, Any] | None, memory_limit: int | None = None
) -> str:
    """Say how an attempt ended: ``killed by signal 11 (SIGSEGV)``, ``memory limit 512 MiB reached at 511 MiB``."""
    if kind is None:
        return "not ended"
    used = ledger or {}
    first = (error or "").lstrip().partition("\n")[0].strip()
    match kind:
        case "crashed" if used.get("signal"):
            return f"killed by {describe_signal(int(used['signal']))}"
        case "out_of_memory" if memory_limit is not None:
            return describe_memory(limit=memory_limit, peak=used.get("peak_memory"))
        case "raised":
            return brief(exception(error) or _PLAIN[kind])
        case "succeeded" | "cancelled":
            return _PLAIN[kind]
        case "snoozed" if first:
            return f"snoozed: {first}"
    return first if first and not first.startswith("Traceback") else _PLAIN.get(kind, kind)


def brief(said: str) -> str:
    """Return an exception without the modules of its class: ``CardDeclined: no answer``."""
    kind, colon, message = said.partition(":")
    return said if " " in kind else f"{kind.rpartition('.')[2]}{colon}{message}"


_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w+)(?::|$)")


def exception(error: str | None, *, limit: int = 240) -> str | None:
    """Return the exception of a traceback, the line that says it; of other text its first line."""
    lines = [line for line in (error or "").splitlines() if line.strip()]
    if not lines:
        return None
    if not lines[0].startswith("Traceback"):
        line = lines[0].strip()
    else:
        # The last line that is not indented and begins as the name of an exception does.
        plain = [line for line in lines[1:] if not line[:1].isspace() and not line.startswith(("|", "+", "Traceback"))]
        named = [line for line in plain if _EXCEPTION.match(line)]
        line = (named or plain or lines)[-1].strip()
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def pretty(value: Any) -> str:
    """Return JSON as one reads it."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def short(value: Any, *, limit: int = 120) -> str:
    """Return JSON in one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def call(payload: Any, *, limit: int = 160) -> str:
    """Return stored arguments as a call would have them: ``7, copy=true``."""
    if not isinstance(payload, Mapping):
        return ""
    args, kwargs = payload.get("args"), payload.get("kwargs")
    words = [short(one, limit=limit) for one in args] if isinstance(args, list) else []
    words += [f"{name}={short(one, limit=limit)}" for name, one in kwargs.items()] if isinstance(kwargs, dict) else []
    text = ", ".join(words)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


_TURNING = r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_SHOWN = re.compile(rf'(value="[^"]*"|<textarea\b[^>]*>[^<]*)|({_TURNING})')
_TURNS = re.compile(_TURNING)


def unturned(page: str) -> str:
    """Return HTML with the characters that turn the direction of text written out, as ``\\u202e``.

    Unseen, they make a name or a message look like another. What a form sends back keeps them: the values of its
    fields. Neither quotes nor ``<`` can stand in a value, as everything is escaped.
    """
    if _TURNS.search(page) is None:
        return page
    return _SHOWN.sub(lambda found: found[1] or f"\\u{ord(found[2]):04x}", page)


def sensitive(options: Any) -> bool:
    """Tell whether a task's stored options say that its arguments and its errors' texts are nobody's business."""
    return isinstance(options, Mapping) and options.get("sensitive") is True
