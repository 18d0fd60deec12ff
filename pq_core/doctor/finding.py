"""One answer of a check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: ``problem`` keeps tasks from running, or will; ``warning`` may."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check has found. ``fix``: what to do, empty when all is well."""

    check: str
    level: Level
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """Return the answer that all is well."""
    return Finding(check=check, level=Level.OK, text=text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Return the answer that something may go wrong."""
    return Finding(check=check, level=Level.WARNING, text=text, fix=fix)


def problem(check: str, text: str, fix: str) -> Finding:
    """Return the answer that something is wrong."""
    return Finding(check=check, level=Level.PROBLEM, text=text, fix=fix)
