"""Printing data: tables for people, JSON for programs. rich draws on a terminal, and is imported there alone."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from pq_core.plain import plain

Cell = str | int | float | None

_TIMES = frozenset({"when", "started", "ended", "heartbeat"})


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """Print rows under their columns, numbers to the right; ``empty`` when there are none."""
    found = [list(row) for row in rows]
    if not found:
        click.echo(empty)
        return
    right = [all(isinstance(row[n], (int, float, type(None))) for row in found) for n in range(len(columns))]
    texts = [[_text(cell) for cell in row] for row in found]
    if sys.stdout.isatty():
        _draw(columns, texts, right)
        return
    widths = [max(len(line[n]) for line in [list(columns), *texts]) for n in range(len(columns))]
    for line in [[column.upper() for column in columns], *texts]:
        cells = [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _draw(columns: Sequence[str], texts: list[list[str]], right: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        width = max(len(line[number]) for line in [list(columns), *texts])
        # Short ones stay whole; long ones share what is left of the line, and fold.
        table.add_column(
            column.upper(),
            justify="right" if right[number] else "left",
            overflow="fold",
            no_wrap=width <= 10,
            min_width=min(width, 10 if column in _TIMES else 14),
        )
    for line in texts:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def _text(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case float():
            return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:.0f}"
        case _:
            return one_line(str(cell))


def one_line(text: str) -> str:
    """Return the text without what would break a line or steer a terminal."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def block(text: str) -> str:
    """Return text of several lines without what would steer a terminal."""
    return "\n".join(one_line(line.replace("\t", "    ")) for line in text.splitlines())


def when(moment: datetime | None) -> str | None:
    """Return a time in UTC as people read it."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(count: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
