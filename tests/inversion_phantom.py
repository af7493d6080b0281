"""Blocks of susceptibility for the tests of the inversions, and what their objectives need."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.dipole import dipole_field, voxel_dipole_kernel
from qsmals.recon.grid import Grid

TILTED = (0.48, -0.36, 0.8)
OBLIQUE = (0.6, 0.64, 0.48)
"""Of no axis or plane of the voxels."""


@dataclass(frozen=True)
class Rim:
    """Folded cortex of 40 ppb in the outermost 4 mm of a brain, beside air, in a shim of the second order.

    Attributes
    ----------
    chi : (x, y, z) float32
        Susceptibility of the brain, ppm, with a mean of 0 there.
    total : (x, y, z) float32
        Field of everything, ppm, with a noise of 0.8 ppb.
    brain, cortex, rim, mask, away : (x, y, z) bool
        The brain, its cortex, its outermost 4 mm, the brain and 4 mm around it but for the air, and all but the air.
    """

    grid: Grid
    chi: NDArray[np.float32]
    total: NDArray[np.float32]
    brain: NDArray[np.bool_]
    cortex: NDArray[np.bool_]
    rim: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    away: NDArray[np.bool_]


def folded_rim(size: tuple[float, float, float], b0: tuple[float, float, float], fat_ppm: float = 0.0) -> Rim:
    """A brain with cortex at its rim; ``fat_ppm`` is the susceptibility of a cap of fat that begins 2 mm above it."""
    nx, ny, nz = (int(n) for n in np.array([64, 72, 60]) / size)
    grid = Grid((nx, ny, nz), size, b0)
    axes = [(np.arange(n) - (n - 1) / 2) * h for n, h in zip(grid.shape, size, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    r = np.sqrt(x**2 + (0.9 * y) ** 2 + z**2)
    brain, rim = r < 21, (r > 17) & (r < 21)
    cortex = rim & (np.sin(0.35 * x + 1) * np.sin(0.3 * y) * np.cos(0.33 * z) > -0.1)
    nuclei = ((x - 6) ** 2 + y**2 + z**2 < 16) | ((x + 6) ** 2 + y**2 + z**2 < 16)
    chi = 0.04 * cortex + 0.1 * nuclei
    chi = np.where(brain, chi - chi[brain].mean(), 0).astype(np.float32)
    air = (x**2 + (y - 22) ** 2 + (z + 20) ** 2 < 16).astype(np.float32)
    fat = fat_ppm * ((r > 23) & (r < 26) & (z > 0)).astype(np.float32)
    noise = 8e-4 * np.random.default_rng(0).standard_normal(grid.shape)
    around = dipole_field(9 * air + fat.astype(np.float32), grid, kernel=voxel_dipole_kernel)
    total = dipole_field(chi, grid) + around + 0.05 * z / 20 + 0.05 * (x**2 - y**2) / 400 + noise
    away = ndimage.distance_transform_edt(air == 0, sampling=size) > 2
    mask = ndimage.binary_opening((r < 25) & away)
    return Rim(grid, chi, total.astype(np.float32), brain, cortex, rim, mask, away)


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


def slope_on(chi: NDArray[np.float32], truth: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Slope of the map's values on the true ones."""
    return float(np.polyfit(truth[mask].astype(float), chi[mask].astype(float), 1)[0])


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
