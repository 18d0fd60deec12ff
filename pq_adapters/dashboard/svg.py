"""Charts as SVG, drawn on the server: shapes only, so that they stretch; the words stand around them in HTML.

No style attributes and no scripts: the Content-Security-Policy allows neither. Colours come from classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

from markupsafe import Markup

WIDTH = 720.0
"""Units of a chart's own; the page stretches them."""


@dataclass(frozen=True, slots=True)
class Series:
    """One row of values. ``kind`` is the class that gives it its colour; None is a gap."""

    name: str
    kind: str
    values: Sequence[float | None]


def ceiling(value: float) -> float:
    """Return a round number that is at least ``value``, for the top of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def bars(series: Sequence[Series], titles: Sequence[str], *, top: float, height: float = 150.0, label: str) -> Markup:
    """Return stacked bars, the first series at the bottom; each column tells its ``title`` when pointed at."""
    count = max(len(titles), 1)
    step = WIDTH / count
    gap = min(step * 0.22, 3.0)
    parts = []
    for column, title in enumerate(titles):
        at, drawn = height, []
        for one in series:
            value = one.values[column] or 0.0
            if value <= 0:
                continue
            # What is there is seen: never less than a hair.
            tall = max(value / top * (height - 4), 1.5)
            at -= tall
            drawn.append(
                f'<rect class="c-{one.kind}" x="{_n(column * step + gap / 2)}" y="{_n(at)}" '
                f'width="{_n(step - gap)}" height="{_n(tall)}"/>'
            )
        parts.append(
            f'<g class="column"><title>{escape(title)}</title><rect class="hit" x="{_n(column * step)}" y="0" '
            f'width="{_n(step)}" height="{_n(height)}"/>{"".join(drawn)}</g>'
        )
    return _svg("chart bars", height, _grid(height) + "".join(parts), label)


def lines(series: Sequence[Series], titles: Sequence[str], *, top: float, height: float = 150.0, label: str) -> Markup:
    """Return one line per series; a gap in the values is a gap in the line, a lonely value a dot."""
    count = max(len(titles), 1)
    step = WIDTH / count
    parts = []
    for one in series:
        for run in _runs(one.values):
            points = [(i * step + step / 2, height - 2 - (value / top) * (height - 6)) for i, value in run]
            if len(points) == 1:
                x, y = points[0]
                points = [(x - step / 2, y), (x + step / 2, y)]
            path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(points))
            parts.append(f'<path class="line l-{one.kind}" d="{path}" vector-effect="non-scaling-stroke"/>')
    for column, title in enumerate(titles):
        parts.append(
            f'<g class="column"><title>{escape(title)}</title><rect class="hit" x="{_n(column * step)}" y="0" '
            f'width="{_n(step)}" height="{_n(height)}"/></g>'
        )
    return _svg("chart lines", height, _grid(height) + "".join(parts), label)


def spark(values: Sequence[float | None], *, kind: str = "ok", label: str, height: float = 32.0) -> Markup:
    """Return a small area without axes."""
    numbers = [value or 0.0 for value in values]
    if not numbers:
        return Markup("")
    top = max(*numbers, 1e-9) if len(numbers) > 1 else max(numbers[0], 1e-9)
    step = WIDTH / max(len(numbers) - 1, 1)
    points = [(i * step, height - 1 - value / top * (height - 3)) for i, value in enumerate(numbers)]
    outline = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(points))
    area = f"{outline} L{_n(WIDTH)} {_n(height)} L0 {_n(height)} Z"
    body = (
        f'<path class="area a-{kind}" d="{area}"/>'
        f'<path class="line l-{kind}" d="{outline}" vector-effect="non-scaling-stroke"/>'
    )
    return _svg("spark", height, body, label)


def columns(values: Sequence[float], *, kind: str = "bad", label: str, height: float = 24.0) -> Markup:
    """Return small bars on a line without axes, for a trend in a table."""
    top = max([*values, 1e-9])
    step = WIDTH / max(len(values), 1)
    base = f'<path class="grid" d="M0 {_n(height - 1)}H{_n(WIDTH)}" vector-effect="non-scaling-stroke"/>'
    body = "".join(
        f'<rect class="c-{kind}" x="{_n(i * step + step * 0.12)}" y="{_n(height - max(value / top * height, 2.0))}" '
        f'width="{_n(step * 0.76)}" height="{_n(max(value / top * height, 2.0))}"/>'
        for i, value in enumerate(values)
        if value
    )
    return _svg("spark columns", height, base + body, label)


def strip(ticks: Sequence[tuple[str, str]], *, places: int = 50, label: str) -> Markup:
    """Return the history of a schedule, newest at the right: (kind, title) each.

    The kinds differ by height as well as by colour: whoever sees no red sees a failure all the same.
    """
    height, step = 24.0, WIDTH / places
    tall = {"completed": 14.0, "failed": 24.0, "cancelled": 8.0, "running": 18.0, "pending": 11.0, "skipped": 4.0}
    first = places - len(ticks)
    parts = [
        f'<rect class="t-none" x="{_n(i * step + step * 0.2)}" y="{_n(height - 2)}" '
        f'width="{_n(step * 0.6)}" height="2"/>'
        for i in range(first)
    ]
    for place, (kind, title) in enumerate(ticks, first):
        h = tall.get(kind, 10.0)
        parts.append(
            f'<g><title>{escape(title)}</title><rect class="hit" x="{_n(place * step)}" y="0" width="{_n(step)}" '
            f'height="{_n(height)}"/><rect class="t-{escape(kind)}" x="{_n(place * step + step * 0.14)}" '
            f'y="{_n(height - h)}" width="{_n(step * 0.72)}" height="{_n(h)}" rx="1"/></g>'
        )
    return _svg("strip", height, "".join(parts), label)


def meter(parts: Sequence[tuple[str, float]], *, whole: float, label: str) -> Markup:
    """Return one bar of shares, (kind, value) each."""
    at, body = 0.0, []
    for kind, value in parts:
        wide = 0.0 if whole <= 0 else min(max(value / whole, 0.0) * WIDTH, WIDTH - at)
        if wide > 0:
            body.append(f'<rect class="c-{kind}" x="{_n(at)}" y="0" width="{_n(max(wide, 4.0))}" height="8"/>')
        at += wide
    return _svg("meter", 8.0, "".join(body), label)


def axis(titles: Sequence[str], *, wanted: int = 6) -> list[str]:
    """Return some of the labels of the columns for the line below a chart: the first, the last, and evenly between."""
    if len(titles) <= wanted:
        return list(titles)
    return [titles[round(i * (len(titles) - 1) / (wanted - 1))] for i in range(wanted)]


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    runs: list[list[tuple[int, float]]] = [[]]
    for i, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((i, value))
    return [run for run in runs if run]


def _grid(height: float) -> str:
    return "".join(
        f'<path class="grid" d="M0 {_n(y)}H{_n(WIDTH)}" vector-effect="non-scaling-stroke"/>'
        for y in (0.5, height / 2, height - 0.5)
    )


def _svg(kind: str, height: float, body: str, label: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {_n(WIDTH)} {_n(height)}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{body}</svg>'
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
