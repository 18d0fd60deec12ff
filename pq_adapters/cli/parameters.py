"""What options take: durations, times, priorities, sizes, lists of names. Each is a function of what was typed."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Literal

import click

from pq_core.errors import PQError
from pq_core.types import Priority
from pq_core.worker.options import parse_size

_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """Return the time that ``90``, ``90s``, ``30m``, ``12h``, ``7d`` or ``2w`` is."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        pass  # more than 999,999,999 days: told like any other
    raise click.BadParameter(
        f"{text!r} is not a duration: give seconds, or a number with s, m, h, d or w, like 90, 30m or 7d"
    )


def moment(text: str) -> datetime:
    """Return the point in time that ISO 8601 with an offset says."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time: write it like 2026-01-31T18:00:00+01:00") from None
    if found.utcoffset() is None:
        raise click.BadParameter(f"{text!r} has no offset from UTC: write it like {found.isoformat()}+00:00")
    return found


def priority(text: str) -> int:
    """Return the integer that is given, or that the name of a priority stands for."""
    try:
        return int(text) if text.lstrip("-").isdecimal() else int(Priority[text.strip().upper()])
    except (KeyError, ValueError):
        names = ", ".join(known.name.lower() for known in Priority)
        raise click.BadParameter(f"{text!r} is not a priority: give an integer or one of {names}") from None


def size_or_auto(text: str) -> int | Literal["auto"]:
    """Return bytes from ``1048576``, ``512M`` or ``2G``; ``auto`` as it is."""
    if text == "auto":
        return "auto"
    try:
        return parse_size(text)
    except PQError as error:
        raise click.BadParameter(f"{error}, or auto") from None


def size(text: str) -> int:
    """Return bytes from ``1048576``, ``512M`` or ``2G``."""
    try:
        return parse_size(text)
    except PQError as error:
        raise click.BadParameter(str(error)) from None


def names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names between commas."""
    if isinstance(text, tuple):
        return text
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise click.BadParameter(f"{text!r}: write names with commas between them, like a,b")
    return found
