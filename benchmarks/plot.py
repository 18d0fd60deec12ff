"""Bars with their spread, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

LABEL, WIDTH, ROW, GAP = 300, 460, 22, 38
"""Pixels: for names, for the longest bar, for one bar, above each figure."""
COLOUR, LINE = "#3b6ea5", "#1d2b3a"


class Bar(NamedTuple):
    """One variant: the median as a bar, the spread as a line over its end."""

    label: str
    median: float
    low: float
    high: float


def draw(title: str, figures: Mapping[str, Sequence[Bar]]) -> str:
    """Return an SVG image: a group of bars for each figure, each group to a scale of its own."""
    parts: list[str] = []
    y = 34
    for figure, bars in figures.items():
        y += GAP
        parts.append(f'<text x="10" y="{y - 10}" font-weight="bold">{escape(figure)}</text>')
        longest = max((bar.high for bar in bars), default=0) or 1
        for bar in bars:
            parts += _row(bar, y, WIDTH / longest)
            y += ROW
    height, width = y + 16, LABEL + WIDTH + 110
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' font-family="sans-serif" font-size="12"><rect width="{width}" height="{height}" fill="#fff"/>'
        f'<text x="10" y="24" font-size="15">{escape(title)}</text>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _row(bar: Bar, y: float, scale: float) -> list[str]:
    middle = y + ROW / 2
    low, median, high = (LABEL + scale * value for value in (bar.low, bar.median, bar.high))
    number = f"{bar.median:,.0f}" if abs(bar.median) >= 100 else f"{bar.median:.3g}"
    return [
        f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LABEL}" y="{y + 3}" width="{max(median - LABEL, 1):.1f}" height="{ROW - 6}" fill="{COLOUR}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{LINE}" stroke-width="2"/>',
        f'<text x="{high + 8:.1f}" y="{middle + 4}">{number}</text>',
    ]
