"""Statistics of a map in labelled regions, by one label kernel.

What each column means is stated once, in :func:`region_statistics`; :mod:`qsmals.roi.table` repeats it for
the JSON beside the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from qsmals.roi.columns import (
    ADJACENT_MM,
    MINIMUM_ADJACENT_VOXELS,
    MINIMUM_COVERAGE,
    PERCENTILES,
    STATISTICS,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int32]


class RegionLike(Protocol):
    """What the kernel needs to know about a region."""

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def hemisphere(self) -> str: ...
    @property
    def members(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Region:
    """One row of a region table: the union of some labels.

    Attributes
    ----------
    index : int
        Number of the region in the table.
    name : str
        Lower-case name without the hemisphere, e.g. ``precentral``.
    hemisphere : {"L", "R", "B"}
        Left, right, or both together (and structures on the midline).
    members : tuple of int
        Label values, all positive, whose voxels form the region.
    """

    index: int
    name: str
    hemisphere: str
    members: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.hemisphere not in ("L", "R", "B"):
            raise ValueError(f"region {self.name}: the hemisphere is L, R or B, not {self.hemisphere!r}")
        if not self.members or min(self.members) < 1:
            raise ValueError(f"region {self.name}: members are positive label values, not {self.members}")


def region_statistics(
    values: ArrayLike,
    labels: ArrayLike,
    *,
    measured: ArrayLike,
    regions: Sequence[RegionLike],
    voxel_size_mm: Sequence[float],
    white_matter: ArrayLike | None = None,
    beyond_mm3: Mapping[int, float] | None = None,
    minimum_coverage: float = MINIMUM_COVERAGE,
    adjacent_mm: float = ADJACENT_MM,
) -> dict[str, NDArray[Any]]:
    """Describe a map in every region; one row a region, in the order given.

    A voxel counts if it lies in the region, inside ``measured``, and its value is finite. Zeros are values
    like any other. All sums run in float64 over sorted values, so the order of the voxels has no effect.

    Parameters
    ----------
    values : (x, y, z) array-like
        The map, in any unit; the statistics keep it (ppm for a susceptibility map). NaN and infinity are
        "not measured".
    labels : (x, y, z) array-like of int
        Label image on the same grid; values that no region names are ignored.
    measured : (x, y, z) array-like of bool
        Where the map was measured (the mask of the reconstruction).
    regions : sequence of Region
        Each the union of one or more label values; regions may overlap.
    voxel_size_mm : (3,) sequence of float
        Edge lengths of a voxel, mm.
    white_matter : (x, y, z) array-like of bool, optional
        White matter, for ``wm_contrast``; without it that column is NaN.
    beyond_mm3 : mapping of int to float, optional
        Volume of a label that lies outside the arrays, mm^3: it belongs to the region and is not measured.
    minimum_coverage : float, 0..1
        Below this share of measured voxels every statistic of the region is NaN.
    adjacent_mm : float
        How far white matter may be from the region's nearest voxel to count as adjacent, mm.

    Returns
    -------
    dict of str to (n_regions,) ndarray
        ``index name hemisphere``
            As given in ``regions``.
        ``n_voxels``
            Voxels counted in the statistics.
        ``volume_mm3``
            Volume of the whole region, measured or not, inside the arrays or not, mm^3.
        ``coverage``
            Volume of the voxels counted over ``volume_mm3``, 0..1; NaN for a region without volume.
        ``mean sd median mad``
            Arithmetic mean; standard deviation with n - 1 (NaN for one voxel); median; median absolute
            deviation from the median, not rescaled.
        ``skewness kurtosis``
            m3 / m2^1.5 and m4 / m2^2 - 3 of the central moments with divisor n (no small-sample
            correction); NaN where all values are equal.
        ``p05 p10 p25 p75 p90 p95 min max``
            Percentiles by linear interpolation between order statistics, and the extremes.
        ``positive_mean negative_mean``
            Mean of the values above (below) zero; NaN where there are none.
        ``positive_fraction``
            Share of the counted voxels above zero, 0..1.
        ``top10_mean``
            Mean of the values at or above the 90th percentile.
        ``eroded_mean``
            Mean of the counted voxels whose six face neighbours all lie in the region (the edge of the
            array is outside); NaN where none is left.
        ``wm_contrast``
            ``mean`` minus the mean of adjacent white matter: voxels of ``white_matter`` that are measured
            and finite, outside the region, and with their centre within ``adjacent_mm`` of the centre of a
            voxel of the region. NaN with fewer than ten such voxels.

    Raises
    ------
    ValueError
        If the arrays differ in shape or are not three-dimensional, labels are not whole numbers, a region has
        no positive member, or the voxel size is not three positive lengths.

    Examples
    --------
    >>> table = region_statistics([[[1.0, 3.0, 9.0]]], [[[7, 7, 0]]], measured=[[[True] * 3]],
    ...                           regions=[Region(7, "caudate", "L", (7,))], voxel_size_mm=(1, 1, 2))
    >>> float(table["mean"][0]), float(table["volume_mm3"][0])
    (2.0, 4.0)
    """
    if len(voxel_size_mm) != 3 or min(voxel_size_mm) <= 0:
        raise ValueError(f"a voxel has three positive edge lengths in mm, not {tuple(voxel_size_mm)}")
    values, labels, counted, white = _checked(values, labels, measured, white_matter)
    keys, member = _membership(regions)
    compact = _compact(labels, keys)
    sizes, numbers, grouped = _group_by_label(values, compact, counted, len(keys))

    voxel_mm3 = float(np.prod(voxel_size_mm))
    beyond = np.array([(beyond_mm3 or {}).get(int(key), 0.0) for key in keys]) / voxel_mm3
    region_size = member @ (sizes + beyond)
    table = _identity_columns(regions, member @ numbers, region_size, voxel_mm3)
    described = (region_size > 0) & (table["n_voxels"] >= minimum_coverage * region_size) & (table["n_voxels"] > 0)
    rows = np.full((len(regions), len(STATISTICS)), np.nan)
    for row in np.flatnonzero(described):
        rows[row, :-2] = _describe(np.concatenate([grouped[k] for k in np.flatnonzero(member[row])]))

    eroded = _interior_means(values, compact, counted, _with_background(member))
    rows[described, -2] = eroded[described]
    if white is not None:
        adjacent = _adjacent_means(values, compact, white & counted, member, voxel_size_mm, adjacent_mm)
        rows[described, -1] = rows[described, 0] - adjacent[described]
    return table | {name: rows[:, column].copy() for column, name in enumerate(STATISTICS)}


def _checked(
    values: ArrayLike, labels: ArrayLike, measured: ArrayLike, white_matter: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], Bools, Bools | None]:
    """The inputs as contiguous arrays of one shape, and the voxels that count."""
    data = np.ascontiguousarray(values)
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float64)
    label = np.ascontiguousarray(labels)
    mask = np.ascontiguousarray(measured, dtype=bool)
    white = None if white_matter is None else np.ascontiguousarray(white_matter, dtype=bool)
    shapes = {a.shape for a in (data, label, mask, white) if a is not None}
    if len(shapes) != 1 or data.ndim != 3:
        raise ValueError(f"the map, labels and masks need one three-dimensional shape, not {sorted(shapes)}")
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"labels are whole numbers; round them and convert {label.dtype} to an integer type first")
    return data, label.astype(np.int64, copy=False), mask & np.isfinite(data), white


def _membership(regions: Sequence[RegionLike]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted label values in use, (k,), and which of them form each region, (n_regions, k) of 0 and 1."""
    for region in regions:
        if not region.members or min(region.members) < 1:
            raise ValueError(f"region {region.name}: members are positive label values, not {region.members}")
    keys = np.array(sorted({value for region in regions for value in region.members}), dtype=np.int64)
    member = np.zeros((len(regions), len(keys)), dtype=np.int64)
    for row, region in enumerate(regions):
        member[row, np.searchsorted(keys, region.members)] = 1
    return keys, member


def _with_background(member: NDArray[np.int64]) -> Bools:
    """Membership with a first column for voxels that belong to no region."""
    return np.pad(member.astype(bool), ((0, 0), (1, 0)))


def _identity_columns(
    regions: Sequence[RegionLike], counted: NDArray[np.int64], size: Floats, voxel_mm3: float
) -> dict[str, NDArray[Any]]:
    coverage = np.full(len(regions), np.nan)
    np.divide(counted, size, out=coverage, where=size > 0)
    return {
        "index": np.array([r.index for r in regions], dtype=np.int64),
        "name": np.array([r.name for r in regions], dtype=object),
        "hemisphere": np.array([r.hemisphere for r in regions], dtype=object),
        "n_voxels": counted.astype(np.int64),
        "volume_mm3": size * voxel_mm3,
        "coverage": coverage,
    }


def _group_by_label(
    values: NDArray[Any], compact: Indices, counted: Bools, n_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Floats]]:
    """Voxels of each label, counted voxels of each label, and the counted values of each label."""
    sizes, numbers = _count(compact, counted, n_labels)
    ends = np.cumsum(numbers)
    ordered = _scatter(values, compact, counted, ends - numbers, int(numbers.sum()))
    return sizes, numbers, np.split(ordered, ends[:-1])


def _describe(values: Floats) -> Floats:
    """Every statistic but the two that need the region's neighbourhood, in the order of STATISTICS."""
    x = np.sort(values)
    n = x.size
    mean = x.mean()
    m2, skewness, kurtosis = _shape(x - mean, mean)
    sd = np.sqrt(m2 * n / (n - 1)) if n > 1 else np.nan
    median = _quantile(x, 50)
    mad = _quantile(np.sort(np.abs(x - median)), 50)
    percentiles = [_quantile(x, q) for q in PERCENTILES.values()]
    first_zero, past_zero = np.searchsorted(x, 0.0, side="left"), np.searchsorted(x, 0.0, side="right")
    top = x[np.searchsorted(x, _quantile(x, 90), side="left") :]
    return np.array(
        [
            *(mean, sd, median, mad, skewness, kurtosis, *percentiles, x[0], x[-1]),
            *(_mean(x[past_zero:]), (n - past_zero) / n, _mean(x[:first_zero]), _mean(top)),
        ]
    )


def _mean(x: Floats) -> float:
    return float(x.mean()) if x.size else float("nan")


def _shape(deviation: Floats, mean: float) -> tuple[float, float, float]:
    """Second central moment, skewness and excess kurtosis, with divisor n."""
    square = deviation * deviation
    m2 = float(square.mean())
    if m2 <= (np.finfo(np.float64).resolution * mean) ** 2:  # equal values up to rounding have no shape
        return m2, float("nan"), float("nan")
    return m2, float((square * deviation).mean() / m2**1.5), float((square * square).mean() / m2**2 - 3)


def _quantile(ordered: Floats, percent: float) -> float:
    """Percentile of sorted values by linear interpolation between order statistics."""
    position = (ordered.size - 1) * percent / 100
    low = int(position)
    high = min(low + 1, ordered.size - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (position - low))


def _interior_means(values: NDArray[Any], compact: Indices, counted: Bools, member: Bools) -> Floats:
    """Mean over each region's voxels whose six neighbours are in the region; NaN without any."""
    sums, numbers = _sum_interior(values, compact, counted, member)
    return _ratio(sums, numbers, at_least=1)


def _ratio(sums: Floats, numbers: NDArray[np.int64], *, at_least: int) -> Floats:
    result = np.full(len(sums), np.nan)
    np.divide(sums, numbers, out=result, where=numbers >= at_least)
    return result


def _adjacent_means(
    values: NDArray[Any],
    compact: Indices,
    usable: Bools,
    member: NDArray[np.int64],
    voxel_size_mm: Sequence[float],
    adjacent_mm: float,
) -> Floats:
    """Mean of the usable white matter near each region and outside it; NaN with too few voxels.

    A voxel is near a union when it is near one of its labels, so distances are computed once a label.
    """
    reach = np.array([int(adjacent_mm / size + 1e-6) for size in voxel_size_mm])
    boxes = _boxes(compact, member.shape[1])
    size = np.array(voxel_size_mm, dtype=np.float64)
    near = [
        _near_label(compact, usable, label + 1, boxes[label], reach, size, adjacent_mm)
        if boxes[label, 1, 0] > 0
        else np.empty(0, dtype=np.int64)
        for label in range(member.shape[1])
    ]
    stamp = np.full(values.size, -1, dtype=np.int32)
    sums, numbers = np.zeros(len(member)), np.zeros(len(member), dtype=np.int64)
    inside = _with_background(member)
    for row in range(len(member)):
        for label in np.flatnonzero(member[row]):
            total, number = _sum_new(values.ravel(), compact.ravel(), near[label], stamp, row, inside[row])
            sums[row] += total
            numbers[row] += number
    return _ratio(sums, numbers, at_least=MINIMUM_ADJACENT_VOXELS)


@njit(cache=True, parallel=True)
def _compact(labels, keys):  # type: ignore[no-untyped-def]
    """Position of each voxel's label in ``keys`` plus one; 0 for a label that is not there."""
    result = np.zeros(labels.shape, dtype=np.int32)
    for i in prange(labels.shape[0]):
        last, place = np.int64(0), 0
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                label = labels[i, j, k]
                if label <= 0:
                    continue
                if label != last:
                    found = np.searchsorted(keys, label)
                    last, place = label, found + 1 if found < keys.size and keys[found] == label else 0
                result[i, j, k] = place
    return result


@njit(cache=True)
def _count(compact, counted, n_labels):  # type: ignore[no-untyped-def]
    """Voxels and counted voxels of each label."""
    sizes = np.zeros(n_labels + 1, dtype=np.int64)
    numbers = np.zeros(n_labels + 1, dtype=np.int64)
    for label, use in zip(compact.flat, counted.flat):  # noqa: B905 - numba has no strict=
        sizes[label] += 1
        numbers[label] += use
    return sizes[1:], numbers[1:]


@njit(cache=True)
def _scatter(values, compact, counted, starts, total):  # type: ignore[no-untyped-def]
    """Counted values ordered by label, in float64 (a counting sort)."""
    ordered = np.empty(total, dtype=np.float64)
    place = starts.copy()
    flat, label_of, use = values.ravel(), compact.ravel(), counted.ravel()
    for voxel in range(flat.size):
        label = label_of[voxel]
        if label > 0 and use[voxel]:
            ordered[place[label - 1]] = flat[voxel]
            place[label - 1] += 1
    return ordered


@njit(cache=True)
def _sum_interior(values, compact, counted, member):  # type: ignore[no-untyped-def]
    """Sum and number of the counted voxels of each region whose six neighbours are in it."""
    n_regions = member.shape[0]
    sums, numbers = np.zeros(n_regions), np.zeros(n_regions, dtype=np.int64)
    nx, ny, nz = compact.shape
    neighbour = np.empty(6, dtype=np.int32)
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                label = compact[i, j, k]
                if label == 0 or not counted[i, j, k]:
                    continue
                neighbour[0], neighbour[1] = compact[i - 1, j, k], compact[i + 1, j, k]
                neighbour[2], neighbour[3] = compact[i, j - 1, k], compact[i, j + 1, k]
                neighbour[4], neighbour[5] = compact[i, j, k - 1], compact[i, j, k + 1]
                for region in range(n_regions):
                    if not member[region, label]:
                        continue
                    inside = True
                    for side in neighbour:
                        inside = inside and member[region, side]
                    if inside:
                        sums[region] += values[i, j, k]
                        numbers[region] += 1
    return sums, numbers


@njit(cache=True)
def _boxes(compact, n_labels):  # type: ignore[no-untyped-def]
    """First and one-past-last voxel of each label along each axis, (n_labels, 2, 3); zeros without voxels."""
    boxes = np.zeros((n_labels, 2, 3), dtype=np.int64)
    boxes[:, 0, :] = np.iinfo(np.int32).max
    for i in range(compact.shape[0]):
        for j in range(compact.shape[1]):
            for k in range(compact.shape[2]):
                label = compact[i, j, k] - 1
                if label >= 0:
                    for axis, at in enumerate((i, j, k)):
                        boxes[label, 0, axis] = min(boxes[label, 0, axis], at)
                        boxes[label, 1, axis] = max(boxes[label, 1, axis], at + 1)
    return boxes


@njit(cache=True)
def _near_label(compact, usable, label, box, reach, size, radius):  # type: ignore[no-untyped-def]
    """Flat indices of the usable voxels within ``radius`` mm of a voxel with ``label``.

    A squared distance transform, axis by axis, that looks no farther than the radius.
    """
    shape = np.array(compact.shape)
    low = np.maximum(box[0] - reach, 0)
    high = np.minimum(box[1] + reach, shape)
    nx, ny, nz = high - low
    limit = np.float32(radius * radius * (1 + 1e-6))
    far = np.float32(np.inf)
    along_z = np.full((nx, ny, nz), far, dtype=np.float32)
    for i in range(nx):
        for j in range(ny):
            _row_distance(compact[low[0] + i, low[1] + j, low[2] : high[2]], label, size[2], along_z[i, j])
    along_y = np.full((nx, ny, nz), far, dtype=np.float32)
    for i in range(nx):
        for j in range(ny):
            for other in range(max(j - reach[1], 0), min(j + reach[1] + 1, ny)):
                step = np.float32(((other - j) * size[1]) ** 2)
                for k in range(nz):
                    along_y[i, j, k] = min(along_y[i, j, k], along_z[i, other, k] + step)
    found = np.empty(nx * ny * nz, dtype=np.int64)
    n = 0
    for i in range(nx):
        first, last = max(i - reach[0], 0), min(i + reach[0] + 1, nx)
        for j in range(ny):
            for k in range(nz):
                at = (low[0] + i, low[1] + j, low[2] + k)
                if not usable[at]:
                    continue
                for other in range(first, last):
                    if along_y[other, j, k] + np.float32(((other - i) * size[0]) ** 2) <= limit:
                        found[n] = (at[0] * shape[1] + at[1]) * shape[2] + at[2]
                        n += 1
                        break
    return found[:n].copy()


@njit(cache=True)
def _row_distance(labels, label, step, squared):  # type: ignore[no-untyped-def]
    """Squared distance along one row to the nearest voxel with ``label``, written into ``squared``."""
    n = labels.size
    last = -1
    for k in range(n):
        if labels[k] == label:
            last = k
        if last >= 0:
            squared[k] = np.float32(((k - last) * step) ** 2)
    last = -1
    for k in range(n - 1, -1, -1):
        if labels[k] == label:
            last = k
        if last >= 0:
            squared[k] = min(squared[k], np.float32(((last - k) * step) ** 2))


@njit(cache=True)
def _sum_new(values, compact, indices, stamp, row, inside):  # type: ignore[no-untyped-def]
    """Sum and number of the voxels at ``indices`` outside the region that ``row`` has not stamped yet."""
    total, number = 0.0, 0
    for voxel in indices:
        if stamp[voxel] != row:
            stamp[voxel] = row
            if not inside[compact[voxel]]:
                total += values[voxel]
                number += 1
    return total, number
