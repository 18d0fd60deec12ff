"""What ``failures`` found: a row for each failure and system, printed, and written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Report

HEADINGS = ("failure", "system", "enqueued", "never finished", "ran again", "seconds", "on record", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the tasks of one system under one failure; counts are None where it was not possible.

    ``again``: began once more although a run had finished. ``uncommitted``: ran although rolled back.
    ``seconds``: from the failure to the end of the last task, None if some never finished.
    ``on_record``: how many tasks the system's own table has in which state. ``starts``: of the crashing task.
    """

    failure: str
    system: str
    enqueued: int | None = None
    never_finished: int | None = None
    again: int | None = None
    uncommitted: int | None = None
    starts: int | None = None
    seconds: float | None = None
    on_record: str = ""
    worker: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return what stands in the table under ``HEADINGS``."""
        counts = [_shown(self.enqueued), _shown(self.never_finished), _shown(self.again)]
        extra = f"; {self.uncommitted} ran without its row" if self.uncommitted is not None else ""
        extra += f"; the crashing task started {self.starts} times" if self.starts is not None else ""
        seconds = "–" if self.seconds is None else f"{self.seconds:.1f}"
        return (self.failure, self.system, *counts, seconds, self.on_record + extra, self.worker)


class FailureReport(Report):
    """Outcomes instead of series: there is nothing to plot."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        super().__init__(name, settings)
        self.outcomes: list[Outcome] = []

    def finish(self, folder: Path = RESULTS) -> None:
        """Print everything; write ``<name>.json``."""
        print(self.text())
        print(self.table())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(self.data(), indent=1, ensure_ascii=False) + "\n")
        print(f"written: {folder / self.name}.json")

    def table(self) -> str:
        """Return the outcomes as a Markdown table, as it stands in the documentation."""
        rows = [HEADINGS, tuple("---" for _ in HEADINGS), *(outcome.cells() for outcome in self.outcomes)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def data(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return super().data() | {"outcomes": [asdict(outcome) for outcome in self.outcomes]}


def _shown(count: int | None) -> str:
    return "–" if count is None else str(count)
