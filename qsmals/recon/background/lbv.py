"""LBV: the background as the harmonic function with the field's values on the boundary."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.background.local import LocalField, checked_field
from qsmals.recon.conjugate import conjugate_gradient
from qsmals.recon.grid import Grid
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class LbvParameters:
    """Settings of :func:`lbv`."""

    tolerance: float = field(default=1e-4, metadata={"unit": "relative residual", "source": "SEPIA"})
    max_iterations: int = field(default=1000, metadata={"unit": "iterations", "source": "design choice"})


def lbv(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: LbvParameters | None = None,
) -> LocalField:
    """Local field as solution of the Laplacian boundary value problem.

    The local field l has the Laplacian of the total field inside the mask and is taken as zero on its outermost
    voxels (those with a face neighbour outside). The seven-point Laplacian is solved
    by conjugate gradients.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; values outside the mask are ignored.
    mask : (x, y, z) bool
        Where the field is known.
    grid : Grid
        Voxel size. The B0 direction has no effect.
    weights : (x, y, z) float32, optional
        Not used by this method.
    params : LbvParameters, optional
        Convergence.

    Returns
    -------
    LocalField
        On the mask without its outermost voxels. On these it is zero, the total field less the harmonic function, and
        they are known where they touch the rest.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty or without an interior, or NaN in the mask.

    References
    ----------
    Zhou D, Liu T, Spincemaille P, Wang Y. NMR Biomed 2014;27:312-319. doi:10.1002/nbm.3064
    """
    params = params or LbvParameters()
    total = checked_field(field_ppm, mask, grid)
    inner = interior(mask)
    if not inner.any():
        raise ValueError("the mask is too thin: no voxel has all six neighbours in it")
    weights_per_axis = (1.0 / np.square(grid.voxel_size_mm)).astype(np.float32)
    right = np.empty_like(total)
    minus_laplacian(total, inner, weights_per_axis, right)

    def operator(volume: Volume) -> Volume:
        result = np.empty_like(volume)
        minus_laplacian(volume, inner, weights_per_axis, result)
        return result

    local, convergence = conjugate_gradient(
        operator, right, tolerance=params.tolerance, max_iterations=params.max_iterations
    )
    return LocalField(local, inner, convergence, known=mask & ndimage.binary_dilation(inner))


def interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels whose six face neighbours lie in the mask; beyond the volume nothing does."""
    wide = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(wide, step, axis)[1:-1, 1:-1, 1:-1]
    return inner


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def minus_laplacian(
    volume: Volume, inner: NDArray[np.bool_], inverse_square: NDArray[np.float32], result: Volume
) -> None:
    """Minus the seven-point Laplacian, per mm^2, where ``inner``; 0 elsewhere."""
    nx, ny, nz = volume.shape
    for i in prange(nx):
        for j in range(ny):
            for k in range(nz):
                if not inner[i, j, k]:
                    result[i, j, k] = 0.0
                    continue
                two = np.float32(2.0) * volume[i, j, k]
                result[i, j, k] = (
                    (two - volume[i - 1, j, k] - volume[i + 1, j, k]) * inverse_square[0]
                    + (two - volume[i, j - 1, k] - volume[i, j + 1, k]) * inverse_square[1]
                    + (two - volume[i, j, k - 1] - volume[i, j, k + 1]) * inverse_square[2]
                )


LBV = Method(
    name="lbv",
    title="LBV",
    function=lbv,
    parameters=LbvParameters,
    sentence="The background field was removed by solving the Laplacian boundary value problem (LBV, relative "
    "residual {tolerance:g}).",
    citations=(
        Citation(
            key="zhou2014",
            authors="Zhou D, Liu T, Spincemaille P, Wang Y",
            title="Background field removal by solving the Laplacian boundary value problem",
            journal="NMR in Biomedicine 27:312-319",
            year=2014,
            doi="10.1002/nbm.3064",
        ),
    ),
    beyond_brain=True,
)
