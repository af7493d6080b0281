"""Where the sphere of a spherical mean lies in a mask."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.grid import Grid, bounding_box
from qsmals.recon.mask.morphology import TOLERANCE_MM, depth_mm

CUBE_TOLERANCE = 1e-3
"""Relative difference up to which the edges of a voxel count as equal."""


class SpheresInMask:
    """Voxels whose sphere lies in a mask, for one radius after the other.

    A sphere lies in the mask if all voxels do to which :func:`qsmals.recon.fourier.sphere` gives weight. In cubic
    voxels those are a ball but for some at its surface: the whole ball is asked for, which one map of distances tells
    for every radius. In other voxels they are not: the smallest sphere has its neighbours one slice away and one
    in-plane edge away, and what holds within the one distance says nothing of the other. There voxels are counted, by a
    convolution.

    Parameters
    ----------
    mask : (x, y, z) bool
        Not empty; beyond the volume there is none of it.
    grid : Grid
        Voxel size.
    """

    def __init__(self, mask: NDArray[np.bool_], grid: Grid) -> None:
        self._mask, self._grid = mask, grid
        size = grid.voxel_size_mm
        self._cubic = max(size) - min(size) <= CUBE_TOLERANCE * min(size)

    def fit(self, radius_mm: float) -> NDArray[np.bool_]:
        """Voxels, (x, y, z) bool, around which the sphere of this radius lies in the mask; perhaps none."""
        size = self._grid.voxel_size_mm
        if self._cubic:
            return np.asarray(self._depth > fourier.sphere_reach_mm(radius_mm, size) + TOLERANCE_MM)
        footprint = fourier.sphere(radius_mm, size) != 0
        box = bounding_box(self._mask, 0)
        inside = self._mask[box]
        shape = fourier.padded_shape(inside.shape, tuple(n // 2 for n in footprint.shape))
        result = np.zeros_like(self._mask)
        if any(n > m for n, m in zip(footprint.shape, shape, strict=True)):
            return result
        spectrum = fourier.transform(inside.astype(np.float32), shape)
        spectrum *= fourier.centred_kernel(footprint.astype(np.float32), shape)
        count = fourier.inverse(spectrum, shape, inside.shape)
        result[box] = inside & (count > np.count_nonzero(footprint) - 0.5)
        return result

    @cached_property
    def _depth(self) -> NDArray[np.float32]:
        return depth_mm(self._mask, self._grid.voxel_size_mm)


def sphere_interior(mask: NDArray[np.bool_], radius_mm: float, grid: Grid) -> NDArray[np.bool_]:
    """Voxels whose sphere lies in the mask.

    Raises
    ------
    ValueError
        There is none.
    """
    inner = SpheresInMask(mask, grid).fit(radius_mm)
    if not inner.any():
        raise ValueError(f"the mask is too thin for a sphere of {radius_mm} mm")
    return inner
