"""What the demo shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Screen(Protocol):
    """Shows progress inside a ``with`` block, and lines in between."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, done: int) -> None:
        """Say how many are done."""

    def say(self, text: str) -> None:
        """Print a line above the progress."""


class Lines:
    """Progress as a line for every tenth, and every few seconds. ``quiet``: seconds without a line at most."""

    def __init__(self, total: int, *, quiet: float = 5.0) -> None:
        self._total = total
        self._quiet = quiet
        self._said = 0
        self._at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, done: int) -> None:
        """Print a line if enough has happened since the last one."""
        waited = time.monotonic() - self._at
        if done == self._said or (done < self._total and done - self._said < self._total / 10 and waited < self._quiet):
            return
        self._said, self._at = done, time.monotonic()
        self.say(f"  {done} of {self._total} done")

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text)


class Bar:
    """Progress as a bar, drawn by rich."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress: Progress = Progress(
            TextColumn("  tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True
        )
        self._task: TaskID = self._progress.add_task("tasks", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


def screen(total: int) -> Screen:
    """Return the screen that fits where stdout goes."""
    return Bar(total) if sys.stdout.isatty() else Lines(total)
