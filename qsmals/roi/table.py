"""The region table as text: its columns, how a number is written, and how it is read back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsmals.roi.columns import ADJACENT_MM, COLUMN_NAMES, MINIMUM_ADJACENT_VOXELS, MINIMUM_COVERAGE

MISSING = "n/a"
WHOLE_NUMBERS = ("index", "n_voxels")
TEXTS = ("name", "hemisphere")
MAP_UNIT = "{map}"


@dataclass(frozen=True)
class Column:
    """What a column holds; ``unit`` is ``{map}`` where it is the map's, empty where there is none."""

    description: str
    unit: str = MAP_UNIT


COLUMNS: dict[str, Column] = {
    "index": Column("Number of the region", ""),
    "name": Column("Name of the region, without the hemisphere", ""),
    "hemisphere": Column("L left, R right, B both together or a midline structure", ""),
    "n_voxels": Column("Voxels that the statistics count: in the region, inside the mask, with a finite value", "1"),
    "volume_mm3": Column("Volume of the whole region, measured or not, outside the field of view as well", "mm^3"),
    "coverage": Column(
        "Volume of the voxels counted over that of the whole region, what lies outside the field of view included; "
        f"below {MINIMUM_COVERAGE:g} the statistics are {MISSING}",
        "1",
    ),
    "mean": Column("Arithmetic mean"),
    "sd": Column("Standard deviation over voxels, divisor n - 1"),
    "median": Column("Median"),
    "mad": Column("Median absolute deviation from the median, not rescaled"),
    "skewness": Column("Skewness m3 / m2^1.5 of the central moments with divisor n", "1"),
    "kurtosis": Column("Excess kurtosis m4 / m2^2 - 3 of the central moments with divisor n", "1"),
    "p05": Column("5th percentile, linear interpolation"),
    "p10": Column("10th percentile, linear interpolation"),
    "p25": Column("25th percentile, linear interpolation"),
    "p75": Column("75th percentile, linear interpolation"),
    "p90": Column("90th percentile, linear interpolation"),
    "p95": Column("95th percentile, linear interpolation"),
    "min": Column("Smallest value"),
    "max": Column("Largest value"),
    "positive_mean": Column("Mean of the values above zero"),
    "positive_fraction": Column("Share of the counted voxels above zero", "1"),
    "negative_mean": Column("Mean of the values below zero"),
    "top10_mean": Column("Mean of the values at or above the 90th percentile"),
    "eroded_mean": Column("Mean of the counted voxels whose six face neighbours all lie in the region"),
    "wm_contrast": Column(
        "Mean minus the mean of adjacent white matter: measured white-matter voxels outside the region and within "
        f"{ADJACENT_MM:g} mm of it, at least {MINIMUM_ADJACENT_VOXELS} of them"
    ),
}
assert tuple(COLUMNS) == COLUMN_NAMES


WEIGHTED = {
    "n_voxels": "Voxels with a membership above zero, inside the mask, with a finite value",
    "volume_mm3": "Sum of the memberships times a voxel's volume, outside the field of view as well",
    "coverage": "Membership of the voxels counted over that of all, what lies outside the field of view included; "
    f"below {MINIMUM_COVERAGE:g} the statistics are n/a",
    "mean": "Mean, each voxel weighted by its membership",
    "sd": "Root of the weighted mean of squared deviations",
    "eroded_mean": "Not defined for a probabilistic atlas",
    "wm_contrast": "Not defined for a probabilistic atlas",
}
"""What some columns mean for a probabilistic atlas; in all others voxels weigh as much as they belong to the region."""


def column_dictionary(map_unit: str, *, weighted: bool = False) -> dict[str, dict[str, str]]:
    """Content of the JSON beside a table.

    Parameters
    ----------
    map_unit : str
        Unit of the map that was measured, e.g. ``ppm``; it takes the place of the map's unit in every column.
    weighted : bool
        For a probabilistic atlas.

    Examples
    --------
    >>> column_dictionary("ppm")["mean"]
    {'Description': 'Arithmetic mean', 'Units': 'ppm'}
    """
    words = {name: column.description for name, column in COLUMNS.items()}
    if weighted:
        of_values = [name for name in COLUMNS if COLUMNS[name].unit and name not in WEIGHTED]
        words |= WEIGHTED | {name: f"{words[name]}; voxels weighted by their membership" for name in of_values}
    return {
        name: {"Description": words[name]} | ({"Units": _unit(column, map_unit)} if column.unit else {})
        for name, column in COLUMNS.items()
    }


def _unit(column: Column, map_unit: str) -> str:
    return map_unit if column.unit == MAP_UNIT else column.unit


def table_text(table: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]) -> str:
    """A table as tab-separated text with a header line, NaN written ``n/a``.

    Numbers keep eight significant digits: more than a float32 map holds, and equal tables give equal text.

    Parameters
    ----------
    table : mapping of column name to (n,) sequence
        Columns in the order in which they are written.

    Raises
    ------
    ValueError
        If the columns differ in length or a text holds a tab or a line break.

    Examples
    --------
    >>> table_text({"name": ["caudate"], "mean": [0.0394], "sd": [float("nan")]})
    'name\\tmean\\tsd\\ncaudate\\t0.0394\\tn/a\\n'
    """
    if len({len(column) for column in table.values()}) > 1:
        raise ValueError(f"columns of a table have one length, not { {k: len(v) for k, v in table.items()} }")
    rows = zip(*([_cell(value) for value in column] for column in table.values()), strict=True)
    return "".join("\t".join(row) + "\n" for row in [tuple(table), *rows])


def _cell(value: Any) -> str:
    if isinstance(value, str):
        if "\t" in value or "\n" in value:
            raise ValueError(f"a cell holds no tab and no line break: {value!r}")
        return value
    if isinstance(value, int | np.integer):
        return str(int(value))
    return f"{float(value):.8g}" if np.isfinite(value) else MISSING


def read_table(text: str) -> dict[str, np.ndarray[Any, Any]]:
    """Columns of a table that :func:`table_text` wrote, ``n/a`` as NaN.

    Returns
    -------
    dict of str to (n,) ndarray
        int64 for ``index`` and ``n_voxels``, text for ``name`` and ``hemisphere``, float64 for the others.

    Raises
    ------
    ValueError
        If a line has another number of cells than the header, or a cell is not what its column holds.

    Examples
    --------
    >>> read_table("name\\tmean\\ncaudate\\tn/a\\n")["mean"]
    array([nan])
    """
    header, *rows = [line.split("\t") for line in text.splitlines()]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {number} of the table has {len(row)} cells, its header {len(header)}")
    return {name: _column(name, [row[at] for row in rows]) for at, name in enumerate(header)}


def _column(name: str, cells: list[str]) -> np.ndarray[Any, Any]:
    if name in TEXTS:
        return np.array(cells, dtype=object)
    try:
        if name in WHOLE_NUMBERS:
            return np.array([int(cell) for cell in cells], dtype=np.int64)
        return np.array([np.nan if cell == MISSING else float(cell) for cell in cells])
    except ValueError as error:
        raise ValueError(f"column {name} of the table: {error}") from None
