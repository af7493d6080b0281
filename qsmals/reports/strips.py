"""Strip plots of a study: one point a scan, on one line, as SVG inside a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT, MARGIN = 360, 74, 12
SWARM = 44
"""Height over which points of like values are spread, pixels."""

FEWEST = 5
ROBUST_Z = 3.5
"""Iglewicz B, Hoaglin D. How to detect and handle outliers (1993): modified z-score."""

SHAPES = {
    "pass": '<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>',
    "check": '<path d="M{x:.1f} {top:.1f}l4.4 7.6h-8.8z"/>',
    "fail": '<path d="M{left:.1f} {top:.1f}l7.6 7.6m0 -7.6l-7.6 7.6"/>',
}
"""Verdicts differ in shape as well as in colour."""


@dataclass(frozen=True)
class Point:
    """One scan in a strip: its row in the table, value, name, page, verdict, and whether it is an outlier."""

    row: int
    value: float
    name: str
    page: str
    verdict: str
    outlier: bool


def outliers(values: Sequence[float]) -> list[bool]:
    """Which values lie far from the others: a modified z-score beyond 3.5, with five values or more.

    Examples
    --------
    >>> outliers([1.0, 1.1, 0.9, 1.0, 1.05, 4.0])
    [False, False, False, False, False, True]
    """
    array = np.asarray(values, dtype=float)
    known = array[np.isfinite(array)]
    if known.size < FEWEST:
        return [False] * array.size
    median = float(np.median(known))
    spread = float(np.median(np.abs(known - median)))
    if spread == 0:
        spread = float(np.mean(np.abs(known - median))) * 0.8  # more than half are equal
    if spread == 0:
        return [False] * array.size
    return [bool(np.isfinite(v) and abs(0.6745 * (v - median) / spread) > ROBUST_Z) for v in array]


def strip(points: Sequence[Point], *, bounds: Sequence[float] = ()) -> Markup:
    """The points on a horizontal scale; each leads to its subject's page, outliers carry their name.

    Parameters
    ----------
    points : sequence of Point
    bounds : sequence of float
        Limits, drawn as dashed lines where they fall near the values.
    """
    if not points:
        return Markup("")
    values = np.array([p.value for p in points])
    low, high = float(values.min()), float(values.max())
    near = [b for b in bounds if low - 0.5 * (high - low) <= b <= high + 0.5 * (high - low)]
    low, high = min([low, *near]), max([high, *near])
    if high - low < 1e-9 * max(abs(high), 1.0):
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    scale = (WIDTH - 2 * MARGIN) / (high - low)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    parts.append(f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{SWARM + 8}" y2="{SWARM + 8}"/>')
    for bound in near:
        x = MARGIN + (bound - low) * scale
        parts.append(f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{SWARM + 12}"/>')
    heights = _swarm(MARGIN + (values - low) * scale)
    for point, y in zip(points, heights, strict=True):
        x = MARGIN + (point.value - low) * scale
        parts.append(_mark(point, x, y))
    for value, anchor, x in ((low, "start", MARGIN), (high, "end", WIDTH - MARGIN)):
        parts.append(f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_words(value)}</text>')
    middle = float(np.median(values))
    x = MARGIN + (middle - low) * scale
    parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{SWARM + 4}" y2="{SWARM + 12}"/></svg>')
    return Markup("".join(parts))


def _mark(point: Point, x: float, y: float) -> str:
    shape = SHAPES[point.verdict].format(x=x, y=y, top=y - 3.8, left=x - 3.8)
    words = f"<title>{escape(point.name)}: {_words(point.value)} ({point.verdict})</title>"
    kind = f"{point.verdict}{' far' if point.outlier else ''}"
    label = ""
    if point.outlier:
        side = ("end", x - 6) if x > WIDTH / 2 else ("start", x + 6)
        label = f'<text x="{side[1]:.1f}" y="{y + 3:.1f}" text-anchor="{side[0]}">{escape(point.name)}</text>'
    if not point.page:
        return f'<g class="{kind}" data-row="{point.row}">{words}{shape}{label}</g>'
    return f'<a href="{escape(point.page)}" class="{kind}" data-row="{point.row}">{words}{shape}{label}</a>'


def _swarm(x: np.ndarray) -> list[float]:
    """Heights that keep points of like position apart: alternating above and below the middle line."""
    bins = np.round(x / 7).astype(int)
    used: dict[int, int] = {}
    heights = []
    for number in bins:
        place = used.get(int(number), 0)
        used[int(number)] = place + 1
        step = (place + 1) // 2 * (1 if place % 2 else -1)
        heights.append(4 + SWARM / 2 + (step * 7 + SWARM / 2) % SWARM - SWARM / 2)
    return heights


def _words(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
