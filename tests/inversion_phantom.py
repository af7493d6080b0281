"""Blocks of susceptibility for the tests of the inversions, and what their objectives need."""

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid

TILTED = (0.48, -0.36, 0.8)


def blocks(grid: Grid) -> NDArray[np.float32]:
    """Piecewise constant susceptibility of 0.1 and -0.05 ppm inside an ellipsoid."""
    chi = np.zeros(grid.shape, np.float32)
    nx, ny, nz = grid.shape
    chi[nx // 3 : nx // 3 + 7, ny // 3 : ny // 3 + 6, nz // 3 : nz // 3 + 5] = 0.1
    chi[nx // 2 : nx // 2 + 5, ny // 2 : ny // 2 + 7, nz // 2 : nz // 2 + 6] = -0.05
    return chi


def ellipsoid(grid: Grid) -> NDArray[np.bool_]:
    p = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) / (0.45 * n) for n in grid.shape], indexing="ij")
    return np.asarray(sum(x**2 for x in p) < 1)


def relative_error(chi: NDArray[np.float32], truth: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    a, b = chi[mask] - chi[mask].mean(), truth[mask] - truth[mask].mean()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def divergence(field: NDArray[np.float32], voxel_size_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """Periodic backward differences summed over the axes; minus the adjoint of `fourier.gradient`.

    Parameters
    ----------
    field : (3, x, y, z) float32
        Any unit.
    voxel_size_mm : (3,) float
        Edge lengths.

    Returns
    -------
    (x, y, z) float32, the field's unit per mm
    """
    result = np.zeros(field.shape[1:], dtype=field.dtype)
    for axis, size in enumerate(voxel_size_mm):
        result += (field[axis] - np.roll(field[axis], 1, axis)) / field.dtype.type(size)
    return result
