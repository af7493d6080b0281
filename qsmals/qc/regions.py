"""What the regions' means say about a map: contrast, order, symmetry, plausibility and coverage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qsmals.simulate.labels import REGIONS as FREESURFER

Row = Mapping[str, Any]

ORDER = (
    ("pallidum",),
    ("substantia_nigra", "red_nucleus"),
    ("putamen",),
    ("caudate",),
    ("thalamus",),
    ("white_matter",),
)
"""From the most to the least paramagnetic, those of one entry in any order; putamen and caudate may be equal."""

EQUAL_PPB = 5.0
"""Two regions of neighbouring ranks count as ordered when the lower one is not higher by more than this."""

DEEP = ("caudate", "putamen", "pallidum", "thalamus")
MOTOR = ("precentral", "paracentral")
SIDES = {"L": "left", "R": "right"}
WORDS = {"L": "left ", "R": "right ", "B": ""}
CORTEX = ("cortex", "motor_cortex")
"""Tissues of FreeSurfer's cortical labels."""

ALIKE_PPB = 25.0
"""Cortical regions lie within this of their median, by choice; docs/planted_faults.md has how many do not."""


def mean_of(rows: Iterable[Row], name: str, hemisphere: str = "B") -> float:
    """Mean of one region in a table, ppm; NaN where it was not measured."""
    for row in rows:
        if row["name"] == name and row["hemisphere"] == hemisphere:
            return float(row["mean"])
    return float("nan")


def contrast(rows: Sequence[Row], name: str, noise_ppb: float) -> float:
    """Region minus white matter, over the white matter's spread; NaN where either is missing."""
    difference = 1000.0 * (mean_of(rows, name) - mean_of(rows, "white_matter"))
    return difference / noise_ppb if noise_ppb > 0 else float("nan")


def order_share(rows: Sequence[Row]) -> float:
    """Share of the pairs of regions that stand in the order of their iron.

    Examples
    --------
    >>> rows = [{"name": n, "hemisphere": "B", "mean": m} for n, m in (("pallidum", 0.1), ("white_matter", -0.02))]
    >>> order_share(rows)
    1.0
    """
    means = [(rank, 1000.0 * mean_of(rows, name)) for rank, names in enumerate(ORDER) for name in names]
    known = [(rank, mean) for rank, mean in means if np.isfinite(mean)]
    right = [
        upper >= lower - EQUAL_PPB * (below == above + 1)
        for above, upper in known
        for below, lower in known
        if above < below
    ]
    return float(np.mean(right)) if right else float("nan")


def asymmetry(rows: Sequence[Row]) -> tuple[float, str]:
    """Largest difference of left and right among the deep nuclei, ppb, and where."""
    found = {name: 1000.0 * abs(mean_of(rows, name, "L") - mean_of(rows, name, "R")) for name in DEEP}
    known = {name: value for name, value in found.items() if np.isfinite(value)}
    if not known:
        return float("nan"), ""
    name = max(known, key=lambda n: known[n])
    return known[name], name


def far_cortex(rows: Iterable[Row]) -> list[Row]:
    """Rows of cortical regions, but for the motor cortex, that lie far from the median of all (ppm)."""
    rows = list(rows)
    numbers = set(cortical_labels(rows))
    cortex = [row for row in rows if row.get("index") in numbers and np.isfinite(row["mean"])]
    middle = float(np.median([row["mean"] for row in cortex])) if cortex else float("nan")
    return [row for row in cortex if 1000.0 * abs(row["mean"] - middle) > ALIKE_PPB and row["name"] not in MOTOR]


def unlike_cortex(rows: Iterable[Row]) -> list[str]:
    """The same in words: ``left frontal pole −25 ppb``."""
    return [_with_mean(row) for row in far_cortex(rows)]


def _with_mean(row: Row) -> str:
    """A region and its mean in words."""
    shown = f"{round(1000.0 * float(row['mean'])):d}".replace("-", "−")
    return f"{WORDS[row['hemisphere']]}{row['name'].replace('_', ' ')} {shown} ppb"


def implausible(rows: Sequence[Row], ranges_ppb: Mapping[str, tuple[float, float]]) -> list[str]:
    """Regions (left and right) whose mean lies outside what adults have, in words: ``left pallidum 31 ppb``."""
    sided = {row["name"] for row in rows if row["hemisphere"] != "B"}
    found = []
    for row in rows:
        low, high = ranges_ppb.get(row["name"], (-np.inf, np.inf))
        mean = 1000.0 * float(row["mean"])
        if (row["hemisphere"] == "B" and row["name"] in sided) or not np.isfinite(mean) or low <= mean <= high:
            continue
        found.append(_with_mean(row))
    return found


def least_coverage(rows: Iterable[Row], names: Sequence[str] = MOTOR) -> tuple[float, str]:
    """Smallest share of a region that the map measures among some regions' two sides, and where."""
    known = {
        f"{SIDES[row['hemisphere']]} {row['name']}": float(row["coverage"])
        for row in rows
        if row["name"] in names and row["hemisphere"] in SIDES and np.isfinite(row["coverage"])
    }
    if not known:
        return float("nan"), ""
    place = min(known, key=lambda p: known[p])
    return known[place], place


def cortical_labels(rows: Iterable[Row]) -> list[int]:
    """Numbers of the rows that are FreeSurfer's cortex by number and by name; none in an atlas with other names."""
    numbers = {row.get("index"): row["name"] for row in rows}
    return [
        number for number, label in FREESURFER.items() if label.tissue in CORTEX and numbers.get(number) == label.name
    ]


def motor_labels(rows: Iterable[Row]) -> dict[str, int]:
    """Number of each side's motor cortex by its name in the table.

    Examples
    --------
    >>> motor_labels([{"index": 1024, "name": "precentral", "hemisphere": "L"}])
    {'left precentral': 1024}
    """
    return {
        f"{SIDES[row['hemisphere']]} {row['name']}": int(row["index"])
        for row in rows
        if row["name"] in MOTOR and row["hemisphere"] in SIDES and "index" in row
    }


def lost_regions(rows: Iterable[Row], least: float) -> list[str]:
    """Names of single regions with less than ``least`` of their voxels measured, ``left precentral``."""
    rows = list(rows)
    sided = {row["name"] for row in rows if row["hemisphere"] != "B"}
    return [
        WORDS[row["hemisphere"]] + row["name"].replace("_", " ")
        for row in rows
        if not (row["hemisphere"] == "B" and row["name"] in sided)
        and not (np.isfinite(row["coverage"]) and row["coverage"] >= least)
    ]
