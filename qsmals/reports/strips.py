"""Strip plots of a study: one point a scan, on one line, as SVG inside a page."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT, MARGIN = 360, 88, 12
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


def strip(
    points: Sequence[Point],
    *,
    title: str = "Values",
    kept: Sequence[float] = (),
    bounds: Sequence[float] = (),
    possible: tuple[float | None, float | None] = (None, None),
    least_width: float = 0.0,
    digits: int | None = None,
) -> Markup:
    """The points on a horizontal scale; each leads to its subject's page, outliers carry their name.

    The tab key stops at outliers only: a study has thousands of points, and the table has the same links.

    Parameters
    ----------
    points : sequence of Point
    title : str
        What they are values of, for screen readers.
    kept : sequence of float
        Limits to check, dashed, which the scale holds; one that lies far from all values is an arrow at its end.
    bounds : sequence of float
        Limits to fail, drawn through where they fall near, else an arrow too.
    possible : tuple of float or None
        Least and largest value that there can be; the scale ends there.
    least_width : float
        The scale is at least so wide, so that values which hardly differ do not look as if they did.
    digits : int or None
        Digits after the point of the numbers; three significant ones without.
    """
    if not points:
        return Markup("")
    values = np.array([p.value for p in points])
    low, high = _axis(values, kept, bounds, possible, least_width)
    scale = (WIDTH - 2 * MARGIN) / (high - low)
    label = escape(f"{title}: {len(points)} scan{'s' if len(points) != 1 else ''}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{label}">']
    parts.append(f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{SWARM + 8}" y2="{SWARM + 8}"/>')
    limits = sorted([*((b, "check") for b in dict.fromkeys(kept)), *((b, "fail") for b in dict.fromkeys(bounds))])
    for bound, kind in limits:
        if low <= bound <= high:
            x = MARGIN + (bound - low) * scale
            parts.append(f'<line class="bound{WORST[kind]}" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{SWARM + 12}"/>')
    heights = _swarm(MARGIN + (values - low) * scale)
    for point, y in zip(points, heights, strict=True):
        x = MARGIN + (point.value - low) * scale
        parts.append(_mark(point, x, y, digits))
    parts += [
        *_limit_numbers(low, high, limits, scale, digits),
        *_ends(low, high, [bound for bound, _ in limits], digits),
    ]
    middle = float(np.median(values))
    x = MARGIN + (middle - low) * scale
    parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{SWARM + 4}" y2="{SWARM + 12}"/></svg>')
    return Markup("".join(parts))


FAR = 12.0
"""A limit farther from the values than so many times their range is an arrow."""


def _axis(
    values: np.ndarray,
    kept: Sequence[float],
    bounds: Sequence[float],
    possible: tuple[float | None, float | None],
    least_width: float,
) -> tuple[float, float]:
    """Ends of the scale, which some limits may lie too far away to be on."""
    low, high = float(values.min()), float(values.max())
    least = -np.inf if possible[0] is None else min(possible[0], low)
    largest = np.inf if possible[1] is None else max(possible[1], high)
    low, high = _widened(low, high, least_width, least, largest)
    reach = FAR * (high - low)
    far = [k for k in kept if not low - reach <= k <= high + reach]
    low, high = min([low, *(k for k in kept if k not in far)]), max([high, *(k for k in kept if k not in far)])
    reach = 0.5 * (high - low)
    near = [b for b in bounds if low - reach <= b <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    if high - low < 1e-9 * max(abs(high), 1.0):
        low, high = _widened(low, high, max(abs(high), 1.0), least, largest)
    return low, high


def _widened(low: float, high: float, width: float, least: float, largest: float) -> tuple[float, float]:
    """Ends that are at least ``width`` apart, moved back to what is possible."""
    more = max(width - (high - low), 0.0) / 2
    low, high = low - more, high + more
    if low < least:
        low, high = least, high + least - low
    if high > largest:
        low, high = max(low - (high - largest), least), largest
    return low, high


def _ends(low: float, high: float, limits: Container[float], digits: int | None) -> list[str]:
    """Values at the ends of the scale that are not limits, which have their numbers."""
    ends = ((low, MARGIN, "start"), (high, WIDTH - MARGIN, "end"))
    return [
        f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{side}">{_words(end, digits)}</text>'
        for end, x, side in ends
        if end not in limits
    ]


WORST = {"check": "", "fail": " worst"}
"""What a limit of each kind is called in the style sheet, after its common name."""


def _limit_numbers(
    low: float, high: float, limits: Sequence[tuple[float, str]], scale: float, digits: int | None
) -> list[str]:
    """The value of every limit, from left to right and moved apart; an arrow where one lies beyond the scale."""
    words, places = [], []
    for bound, kind in limits:
        number = _words(bound, digits)
        words.append(f"← {kind} {number}" if bound < low else f"{kind} {number} →" if bound > high else number)
        places.append(MARGIN + (min(max(bound, low), high) - low) * scale)
    xs = _apart(places, [LETTER * len(w) / 2 for w in words])
    return [
        f'<text class="limit{WORST[kind]}" x="{x:.1f}" y="{SWARM + 24}" text-anchor="middle">{w}</text>'
        for x, w, (_, kind) in zip(xs, words, limits, strict=True)
    ]


def _apart(places: Sequence[float], halves: Sequence[float]) -> list[float]:
    """Middles of words near to their places in ascending order, which neither overlap nor leave the strip.

    Examples
    --------
    >>> _apart([0.0, 100.0, 101.0], [10.0, 10.0, 10.0])
    [10.0, 100.0, 126.5]
    """
    xs, end = [], 0.0
    for place, half in zip(places, halves, strict=True):
        xs.append(max(place, end + half))
        end = xs[-1] + half + LETTER
    end = float(WIDTH)
    for at in reversed(range(len(xs))):
        xs[at] = min(xs[at], end - halves[at])
        end = xs[at] - halves[at] - LETTER
    return xs


LETTER = 6.5
"""Width that a digit of a number takes, pixels, generously."""


def _mark(point: Point, x: float, y: float, digits: int | None) -> str:
    shape = SHAPES[point.verdict].format(x=x, y=y, top=y - 3.8, left=x - 3.8)
    words = f"<title>{escape(point.name)}: {_words(point.value, digits)} ({point.verdict})</title>"
    kind = f"{point.verdict}{' far' if point.outlier else ''}"
    label = ""
    if point.outlier:
        side = ("end", x - 6) if x > WIDTH / 2 else ("start", x + 6)
        label = f'<text x="{side[1]:.1f}" y="{y + 3:.1f}" text-anchor="{side[0]}">{escape(point.name)}</text>'
    if not point.page:
        return f'<g class="{kind}" data-row="{point.row}">{words}{shape}{label}</g>'
    skipped = "" if point.outlier else ' tabindex="-1"'
    link = f'<a href="{escape(point.page)}" class="{kind}" data-row="{point.row}"{skipped}>'
    return f"{link}{words}{shape}{label}</a>"


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


def _words(value: float, digits: int | None) -> str:
    words = f"{value:.3g}" if digits is None else f"{value:.{digits}f}"
    return (words.lstrip("-") if float(words) == 0 else words).replace("-", "−")
