"""Statistics of a map in the regions of a probabilistic atlas: a voxel counts as much as it belongs to the region."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmals.roi.columns import MINIMUM_COVERAGE, PERCENTILES, STATISTICS
from qsmals.roi.statistics import RegionLike

Floats = NDArray[np.float64]


def weighted_statistics(
    values: ArrayLike,
    memberships: ArrayLike,
    *,
    measured: ArrayLike,
    regions: Sequence[RegionLike],
    voxel_size_mm: Sequence[float],
    beyond_mm3: Mapping[int, float] | None = None,
    minimum_coverage: float = MINIMUM_COVERAGE,
) -> dict[str, NDArray[Any]]:
    """Describe a map in every region of a probabilistic atlas; one row a region, in the order given.

    A voxel counts where its membership is above zero, it lies inside ``measured`` and its value is finite; in every
    statistic it weighs as much as it belongs to the region.

    Parameters
    ----------
    values : (x, y, z) array-like
        The map, in any unit.
    memberships : (x, y, z, n) array-like
        0 to 1, one volume a label.
    measured : (x, y, z) array-like of bool
        Where the map was measured.
    regions : sequence of Region
        Members are volume numbers from 1; the membership of a union is the sum of its members', at most 1.
    voxel_size_mm : (3,) sequence of float
        Edge lengths, mm.
    beyond_mm3 : mapping of int to float, optional
        What of a volume of memberships lies outside the arrays, mm^3: it belongs to the region and is not measured.
    minimum_coverage : float, 0..1
        Below this share of measured membership every statistic of the region is NaN.

    Returns
    -------
    dict of str to (n_regions,) ndarray
        The columns of :func:`~qsmals.roi.statistics.region_statistics`. With the weights w, ``volume_mm3`` is their sum
        times a voxel's volume, ``coverage`` their sum over the counted voxels divided by their sum (both with what lies
        outside the arrays), ``mean`` is
        sum(w x) / sum(w), ``sd`` the root of sum(w (x - mean)^2) / sum(w), percentiles are the smallest values up to
        which that share of the weights lies, ``top10_mean`` is the weighted mean of the values from ``p90``.
        ``eroded_mean`` and ``wm_contrast`` are NaN: a probability has no border.

    Raises
    ------
    ValueError
        The shapes differ, a region names a volume that is not there, or the voxel size is not three lengths.

    Examples
    --------
    >>> from qsmals.roi.statistics import Region
    >>> table = weighted_statistics([[[1.0, 3.0]]], [[[[1.0], [0.5]]]], measured=[[[True, True]]],
    ...                             regions=[Region(7, "stn", "L", (1,))], voxel_size_mm=(1, 1, 1))
    >>> round(float(table["mean"][0]), 4), float(table["volume_mm3"][0])
    (1.6667, 1.5)
    """
    data, mask = np.asarray(values, dtype=np.float64), np.asarray(measured, dtype=bool)
    weights = np.asarray(memberships, dtype=np.float32)
    if data.ndim != 3 or weights.ndim != 4 or weights.shape[:3] != data.shape or mask.shape != data.shape:
        shapes = f"{data.shape}, {mask.shape} and {weights.shape}"
        raise ValueError(f"the map, the mask and the volumes of memberships need one grid, not {shapes}")
    if len(voxel_size_mm) != 3 or min(voxel_size_mm) <= 0:
        raise ValueError(f"a voxel has three positive edge lengths in mm, not {tuple(voxel_size_mm)}")
    counted = mask & np.isfinite(data)
    rows, numbers, sizes, shares = [], [], [], []
    for region in regions:
        if not 1 <= min(region.members) <= max(region.members) <= weights.shape[3]:
            raise ValueError(f"region {region.name}: there are volumes 1 to {weights.shape[3]}, not {region.members}")
        weight = np.clip(weights[..., [m - 1 for m in region.members]].sum(-1, dtype=np.float64), 0, 1)
        beyond = sum((beyond_mm3 or {}).get(m, 0.0) for m in region.members)
        total = float(weight.sum()) + beyond / float(np.prod(voxel_size_mm))
        use = counted & (weight > 0)
        share = float(weight[use].sum()) / total if total else np.nan
        described = use.any() and share >= minimum_coverage
        rows.append(_describe(data[use], weight[use]) if described else np.full(len(STATISTICS), np.nan))
        numbers.append(int(use.sum()))
        sizes.append(total * float(np.prod(voxel_size_mm)))
        shares.append(share)
    table = np.array(rows).reshape(len(regions), len(STATISTICS))
    return {
        "index": np.array([r.index for r in regions], dtype=np.int64),
        "name": np.array([r.name for r in regions], dtype=object),
        "hemisphere": np.array([r.hemisphere for r in regions], dtype=object),
        "n_voxels": np.array(numbers, dtype=np.int64),
        "volume_mm3": np.array(sizes),
        "coverage": np.array(shares),
    } | {name: table[:, column].copy() for column, name in enumerate(STATISTICS)}


def _describe(values: Floats, weights: Floats) -> Floats:
    """Every statistic in the order of STATISTICS."""
    order = np.argsort(values, kind="stable")
    x, w = values[order], weights[order]
    whole = float(w.sum())
    mean = float(w @ x) / whole
    off = x - mean
    m2, m3, m4 = (float(w @ off**power) / whole for power in (2, 3, 4))
    flat = m2 <= (np.finfo(np.float64).resolution * mean) ** 2
    upto = np.cumsum(w) / whole
    median = _quantile(x, upto, 50)
    away = np.abs(x - median)
    near = np.argsort(away, kind="stable")
    mad = _quantile(away[near], np.cumsum(w[near]) / whole, 50)
    percentiles = [_quantile(x, upto, q) for q in PERCENTILES.values()]
    top = x >= _quantile(x, upto, 90)
    above, below = x > 0, x < 0
    return np.array(
        [
            *(mean, np.sqrt(m2), median, mad),
            *((np.nan, np.nan) if flat else (m3 / m2**1.5, m4 / m2**2 - 3)),
            *(*percentiles, x[0], x[-1]),
            *(_mean(x, w, above), float(w[above].sum()) / whole, _mean(x, w, below), _mean(x, w, top)),
            *(np.nan, np.nan),
        ]
    )


def _mean(values: Floats, weights: Floats, chosen: NDArray[np.bool_]) -> float:
    return float(weights[chosen] @ values[chosen]) / float(weights[chosen].sum()) if chosen.any() else float("nan")


def _quantile(ordered: Floats, upto: Floats, percent: float) -> float:
    """The smallest value up to which this share of the weights lies."""
    return float(ordered[min(int(np.searchsorted(upto, percent / 100 * (1 - 1e-12))), ordered.size - 1)])
