"""Voxels of a mask in which no field was measured: left out where they lie open, bridged where they are enclosed.

Removal by spherical means or boundary values counts every voxel of its mask alike; a voxel without a measurement, whose
field is 0, would be a source there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import cg

from qsmals.recon.grid import Grid
from qsmals.recon.mask import morphology

BRIDGED_MM = 2.0
"""Half the width of an open gap that is bridged: as the masks by phase quality are closed."""

TOLERANCE = 1e-5
"""Relative residual of the harmonic continuation."""


@dataclass(frozen=True)
class BridgedField:
    """A field with values in the whole of its mask.

    Attributes
    ----------
    field_ppm : (x, y, z) float32
        The measured field; its harmonic continuation where gaps were bridged.
    mask : (x, y, z) bool
        Measured voxels and bridged gaps; at most the mask given.
    n_bridged, n_left_out : int
        Voxels of the mask given that were not measured: those bridged, and the others.
    """

    field_ppm: NDArray[np.float32]
    mask: NDArray[np.bool_]
    n_bridged: int
    n_left_out: int


def bridge_gaps(
    field_ppm: NDArray[np.float32], *, mask: NDArray[np.bool_], measured: NDArray[np.bool_], grid: Grid
) -> BridgedField:
    """Confine a mask to where the field was measured, without the loss of what lies around a vein or a bleed.

    Gaps that measured voxels enclose, or that are narrower than twice `BRIDGED_MM`, stay in the mask, as holes do in a
    mask by phase quality: without them no sphere would fit in their surroundings. They get the harmonic function with
    the values of the voxels around, which is exact for a field of distant sources and makes no source of its own.
    Whatever else was not measured is left out.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; values that were not measured have no effect.
    mask : (x, y, z) bool
        Where the field is wanted.
    measured : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size.

    Returns
    -------
    BridgedField
        The input where all of the mask was measured.

    Raises
    ------
    ValueError
        Shapes differ, or no voxel of the mask was measured.
    """
    if not field_ppm.shape == mask.shape == measured.shape == grid.shape:
        raise ValueError(
            f"field {field_ppm.shape}, mask {mask.shape}, measured {measured.shape} and grid {grid.shape} must have "
            "one shape"
        )
    known = mask & measured
    n_missing = int(np.count_nonzero(mask)) - int(np.count_nonzero(known))
    if n_missing == 0:
        return BridgedField(field_ppm, mask, 0, 0)
    if not known.any():
        raise ValueError("the field was measured in no voxel of the mask; check the mask's grid and the magnitude")
    closed = morphology.fill_holes(morphology.close(known, BRIDGED_MM, grid.voxel_size_mm)) & mask
    gaps = _beside(closed & ~known, known)
    n_bridged = int(np.count_nonzero(gaps))
    filled = field_ppm.copy()
    if n_bridged:
        filled[gaps] = _harmonic(field_ppm, known, gaps, grid)
    return BridgedField(filled, known | gaps, n_bridged, n_missing - n_bridged)


def _beside(gaps: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those face-connected gaps of which a voxel has a known one beside it."""
    labels, count = ndimage.label(gaps)
    touched = np.zeros(count + 1, dtype=bool)
    touched[np.unique(labels[ndimage.binary_dilation(known)])] = True
    touched[0] = False
    return np.asarray(touched[labels])


def _harmonic(
    field_ppm: NDArray[np.float32], known: NDArray[np.bool_], gaps: NDArray[np.bool_], grid: Grid
) -> NDArray[np.float64]:
    """Values in the gaps with a seven-point Laplacian of 0 there; across the border of both no slope."""
    matrix, right = _laplace(field_ppm, known, gaps, grid)
    level = right.sum() / matrix.sum()  # of the values around
    scale = diags_array(1.0 / matrix.diagonal())
    solution, _ = cg(matrix, right - level * matrix.sum(axis=1), rtol=TOLERANCE, maxiter=matrix.shape[0], M=scale)
    return np.asarray(solution + level)


def _laplace(
    field_ppm: NDArray[np.float32], known: NDArray[np.bool_], gaps: NDArray[np.bool_], grid: Grid
) -> tuple[csr_array, NDArray[np.float64]]:
    """Minus the Laplacian among the gaps' voxels, and what known neighbours contribute to the other side."""
    n = int(np.count_nonzero(gaps))
    number = np.full(gaps.shape, -1, dtype=np.int64)
    number[gaps] = np.arange(n)
    diagonal, right = np.zeros(n), np.zeros(n)
    rows, columns, values = [], [], []
    for axis, size in enumerate(grid.voxel_size_mm):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        weight = 1.0 / size**2
        for here, there in ((low, high), (high, low)):
            inside = gaps[here] & gaps[there]
            rows.append(number[here][inside])
            columns.append(number[there][inside])
            values.append(np.full(rows[-1].size, -weight))
            border = gaps[here] & known[there]
            np.add.at(right, number[here][border], weight * field_ppm[there][border])
            np.add.at(diagonal, number[here][inside | border], weight)
    places = np.arange(n)
    data = np.concatenate([*values, diagonal])
    at = (np.concatenate([*rows, places]), np.concatenate([*columns, places]))
    return csr_array(coo_array((data, at), shape=(n, n))), right
