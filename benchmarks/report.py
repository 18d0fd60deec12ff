"""Series of measured values: medians, spreads and ratios, printed, written as JSON, drawn as SVG."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, describe_versions
from benchmarks.plot import Bar, draw

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True, kw_only=True)
class Series:
    """The values of one variant, one a round. ``unit``: of each value."""

    variant: str
    figure: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


class Report:
    """What one benchmark measured: ``add`` in each round, ``ratio`` for what is compared, ``finish`` at the end."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.settings = settings
        self.machine = describe_machine()
        self.versions = describe_versions()
        self.server: dict[str, str] = {}
        self.series: dict[tuple[str, str], Series] = {}
        self.ratios: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def add(self, variant: str, figure: str, value: float, unit: str) -> None:
        """Add one round's value."""
        series = self.series.setdefault((variant, figure), Series(variant=variant, figure=figure, unit=unit))
        series.values.append(value)
        print(f"    {variant:38s} {figure:26s} {_number(value):>10s} {unit}", file=sys.stderr, flush=True)

    def ratio(self, figure: str, variant: str, to: str, *, of: str | None = None, goal: str = "") -> None:
        """Compare two variants round by round: both were measured in each, so that a busy machine slows both."""
        one, other = self.series.get((variant, figure)), self.series.get((to, of or figure))
        if one is None or other is None:
            return
        each = [a / b for a, b in zip(one.values, other.values, strict=False) if b]
        if each:
            found = {"figure": figure, "of": variant, "to": to, "values": each, "median": statistics.median(each)}
            self.ratios.append(found | {"goal": goal})

    def note(self, text: str) -> None:
        """Keep a sentence that belongs to the figures."""
        self.notes.append(text)

    def finish(self, folder: Path = RESULTS) -> None:
        """Print everything; write ``<name>.json`` and ``<name>.svg``."""
        print(self.text())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(self.data(), indent=1, ensure_ascii=False) + "\n")
        figures: dict[str, list[Bar]] = {}
        for series in self.series.values():
            bar = Bar(series.variant, series.median, *series.spread)
            figures.setdefault(f"{series.figure}, {series.unit}", []).append(bar)
        (folder / f"{self.name}.svg").write_text(draw(f"{self.name}: {self.machine['cpu']}", figures))
        print(f"written: {folder / self.name}.json and .svg")

    def text(self) -> str:
        """Return the tables as text."""
        lines = [f"== {self.name}"]
        for title, found in (("machine", self.machine), ("versions", self.versions), ("server", self.server)):
            lines.append(f"{title}: " + ", ".join(f"{name} {value}" for name, value in found.items()))
        lines.append("settings: " + ", ".join(f"{name}={value}" for name, value in self.settings.items()))
        for series in self.series.values():
            low, high = series.spread
            lines.append(
                f"{series.variant:38s} {series.figure:26s} {_number(series.median):>10s} {series.unit:8s}"
                f" ({_number(low)} to {_number(high)}, {len(series.values)} rounds)"
            )
        for ratio in self.ratios:
            low, high = min(ratio["values"]), max(ratio["values"])
            goal = f"; goal: {ratio['goal']}" if ratio["goal"] else ""
            lines.append(
                f"ratio of {ratio['figure']}: {ratio['of']} / {ratio['to']} = {ratio['median']:.2f}"
                f" ({low:.2f} to {high:.2f}{goal})"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def data(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "benchmark": self.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.machine,
            "versions": self.versions,
            "server": self.server,
            "settings": self.settings,
            "series": [
                {"variant": s.variant, "figure": s.figure, "unit": s.unit, "median": s.median, "values": s.values}
                for s in self.series.values()
            ],
            "ratios": self.ratios,
            "notes": self.notes,
        }


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
