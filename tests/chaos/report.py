"""The table of a run, on the terminal and in the documentation."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.stage import Result

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
HEAD = (
    "fault", "injected", "tasks", "ticks", "lost", "duplicated", "alive twice (longest)", "recovery, s", "throughput",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and what came of it, or why it was skipped."""

    title: str
    promise: str
    result: Result | None
    skipped: str = ""

    def cells(self) -> list[str]:
        """Return the row's cells."""
        if self.result is None:
            return [self.title, f"skipped: {self.skipped}", *[""] * (len(HEAD) - 2)]
        result, found = self.result, self.result.findings
        ratio = result.ratio
        twice = "0"
        if found.overlaps:
            allowed = " \\*" if self.promise == "database" else ""
            twice = f"{len(found.overlaps)} ({max(found.overlaps):.2f} s){allowed}"
        return [
            self.title,
            str(result.injected),
            str(found.tasks),
            str(found.ticks),
            f"{len(found.lost) + len(found.stuck)}{f' + {found.gone}' if found.gone else ''}",
            str(len(found.duplicated)),
            twice,
            f"{result.recovery:.1f}",
            "" if ratio is None else f"{ratio:.2f}",
        ]


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [list(HEAD), ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plain(row: Row) -> str:
    """Return one row for a terminal."""
    cells = row.cells()
    if row.result is None:
        return f"{cells[0][:66]:66} {cells[1]}"
    words = "".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], (6, 7, 6, 5, 5, 15, 7, 6), strict=True))
    return f"{cells[0][:66]:66}{words}"


def heading() -> str:
    """Return the first line of the terminal's table."""
    names = ("hits", "tasks", "ticks", "lost", "dup", "alive twice", "rec s", "thr")
    return f"{'':66}" + "".join(f"{n:>{w}}" for n, w in zip(names, (6, 7, 6, 5, 5, 15, 7, 6), strict=True))


def write_docs(rows: list[Row], *, command: str, minutes: float, kills: int, version: str, whole: bool) -> None:
    """Put the table into the page, between its marks; when not ``whole``, the rows of faults that were not run stay."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    earlier = [] if whole else text[begin:end].strip().splitlines()
    tasks = sum(row.result.findings.tasks for row in rows if row.result)
    effects = sum(row.result.findings.effects for row in rows if row.result)
    suspects = sum(row.result.findings.suspects for row in rows if row.result)
    words = (
        f"`{command}`: {minutes:.0f} minutes, {tasks:,} tasks, {effects:,} effects by `complete()`, {kills:,} workers "
        f"killed, {suspects} tasks given up as suspects; Postgres {version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores."
    )
    new = dict(zip((row.title for row in rows), table(rows).splitlines()[2:], strict=True))
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in earlier if line.startswith("| ")}
    heading = table([]).splitlines()
    kept = {title: line for title, line in lines.items() if line not in heading}
    said = [line for line in earlier if line.startswith("`")] + [words]
    body = "\n\n".join(said) + "\n\n" + "\n".join([*heading, *(kept | new).values()])
    PAGE.write_text(f"{text[:begin]}\n{body}\n{text[end:]}", encoding="utf-8")
