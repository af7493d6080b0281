"""iLSQR: least squares, and the streaks in the dipole's cone estimated where the map should be flat and subtracted."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.conjugate import conjugate_gradient
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import padded
from qsmals.recon.inversion.leastsquares import weighted_least_squares
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs, stage_notes
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class IlsqrParameters:
    """Settings of :func:`ilsqr`."""

    threshold: float = field(default=0.1, metadata={"unit": "1 (dipole kernel)", "source": "QSM.m, after Li 2015"})
    laplacian_percentiles: tuple[float, float] = field(
        default=(60.0, 99.9), metadata={"unit": "percent of the mask's voxels", "source": "QSM.m, after Li 2015"}
    )
    gradient_percentiles: tuple[float, float] = field(
        default=(50.0, 70.0), metadata={"unit": "percent of the mask's differences", "source": "QSM.m, after Li 2015"}
    )
    kernel_percentiles: tuple[float, float] = field(
        default=(1.0, 30.0), metadata={"unit": "percent of k-space", "source": "QSM.m, after Li 2015"}
    )
    smoothing_radius_mm: float = field(default=3.0, metadata={"unit": "mm", "source": "QSM.m"})
    first_tolerance: float = field(default=0.01, metadata={"unit": "relative residual", "source": "STI Suite; QSM.m"})
    first_max_iterations: int = field(default=50, metadata={"unit": "iterations", "source": "QSM.m"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(default=0.01, metadata={"unit": "relative residual", "source": "QSM.jl; QSM.rs"})
    max_iterations: int = field(default=50, metadata={"unit": "iterations", "source": "QSM.jl; QSM.rs"})


def ilsqr(
    field_ppm: Volume,
    *,
    mask: Mask,
    grid: Grid,
    weights: Volume | None = None,
    params: IlsqrParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility by least squares, less the streaks that it has in the dipole's cone.

    1. ``D W L D chi_0 = D W L f`` by conjugate gradients (the same Krylov space as LSQR's), where L falls from 1 to 0
       between two percentiles of the field's Laplacian, which is large at phase errors.
    2. A fast map that shows the edges: the field's spectrum times the sign of the kernel, with the values
       near the cone twice replaced by those of a spherical mean. Its scale has no effect on what follows, so the
       paper's fit of it to a k-space division is left out.
    3. Streaks a, with a spectrum only where the kernel is below ``threshold`` in modulus, that minimise
       ``|G (grad chi_0 - grad a)|^2``, where G falls from 1 to 0 between two percentiles of the fast
       map's differences along each axis: what varies where the fast map is flat is a streak.
    4. ``chi = chi_0 - a``.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation, W being their squares;
        their scale has no effect.
    params : IlsqrParameters, optional
        None of them depends on the field's unit.

    Returns
    -------
    Susceptibility
        Its convergence is that of the third step, in relative residuals; a note says where the first step stopped
        before its tolerance.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights, parameters that are not positive, percentiles
        that do not rise within 0..100, a threshold outside 0..2/3, or a smoothing sphere within one voxel or beyond
        the volume.

    References
    ----------
    Li W, et al. NeuroImage 2015;108:111-122. doi:10.1016/j.neuroimage.2014.12.043
    """
    params = params or IlsqrParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    nx, ny, nz = grid.shape
    inside = np.zeros(shape, dtype=bool)
    inside[:nx, :ny, :nz] = mask
    local, dipole = padded(local, shape), dipole_kernel(grid, shape)
    power = padded(np.square(weight), shape) * _laplacian_weights(local, inside, grid, params)
    first, reached = least_squares(local, power, dipole, params)
    first *= inside
    edges = fast_map(local, inside, dipole, grid, params)
    streaks, convergence = streaking(first, flatness(edges, inside, grid, params), dipole, grid, params)
    chi = np.where(mask, (first - streaks)[:nx, :ny, :nz], np.float32(0))
    return Susceptibility(chi, convergence, notes=stage_notes({"the first map, by least squares,": reached}))


def _check(params: IlsqrParameters) -> None:
    numbers = (params.first_tolerance, params.tolerance, params.smoothing_radius_mm)
    if min(numbers) <= 0 or min(params.first_max_iterations, params.max_iterations) < 1:
        raise ValueError(f"iLSQR needs positive parameters, not {params}")
    if not 0 < params.threshold < 2 / 3:
        raise ValueError(f"the threshold of iLSQR lies between 0 and 2/3, not {params.threshold}")
    for pair in (params.laplacian_percentiles, params.gradient_percentiles, params.kernel_percentiles):
        if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= 100:
            raise ValueError(f"two percentiles rise within 0..100, not {pair}")


def least_squares(local: Volume, power: Volume, dipole: Volume, params: IlsqrParameters) -> tuple[Volume, Convergence]:
    """First map, with the weights ``power``, and how far it got."""
    return weighted_least_squares(
        local, power, dipole, tolerance=params.first_tolerance, max_iterations=params.first_max_iterations
    )


def fast_map(local: Volume, inside: Mask, dipole: Volume, grid: Grid, params: IlsqrParameters) -> Volume:
    """Map with the right edges and an arbitrary scale.

    The paper weighs with the kernel's modulus to the power of 0.001; its logarithm is the same to three digits.
    """
    shape = local.shape
    size = np.log(np.maximum(np.abs(dipole), np.float32(1e-6)))
    low, high = np.percentile(size, params.kernel_percentiles)
    share = np.clip((size - low) / (high - low), 0, 1).astype(np.float32)
    share += (1 - share) * fourier.sphere_kernel(params.smoothing_radius_mm, grid, shape)
    result = local
    for factor in (np.sign(dipole) * share, share):
        spectrum = fourier.transform(result, shape)
        spectrum *= factor
        result = fourier.inverse(spectrum, shape) * inside
    return result


def flatness(edges: Volume, inside: Mask, grid: Grid, params: IlsqrParameters) -> Volume:
    """Squared weight, (3, x, y, z), of each forward difference: 1 where the map is flat, 0 at edges and the border."""
    slope = np.abs(fourier.gradient(edges, grid.voxel_size_mm))
    for axis in range(3):
        both = inside & np.roll(inside, -1, axis)
        slope[axis] = np.square(_falling(slope[axis], both, params.gradient_percentiles))
    return slope


def _laplacian_weights(local: Volume, inside: Mask, grid: Grid, params: IlsqrParameters) -> Volume:
    """1 where the field is smooth, 0 where its Laplacian, from differences within the mask alone, is largest."""
    laplacian = np.zeros_like(local)
    for axis, size in enumerate(grid.voxel_size_mm):
        difference = np.roll(local, -1, axis) - local
        difference[~(inside & np.roll(inside, -1, axis))] = 0.0
        difference -= np.roll(difference, 1, axis)
        laplacian += difference / np.float32(size**2)
    return _falling(np.abs(laplacian), inside, params.laplacian_percentiles)


def _falling(values: Volume, where: Mask, percentiles: tuple[float, float]) -> Volume:
    """1 below the first percentile, 0 above the second, linear between, and 0 elsewhere."""
    result = where.astype(np.float32)
    if not where.any():
        return result
    low, high = np.percentile(values[where], percentiles)
    if high > low:
        result *= np.clip((np.float32(high) - values) / np.float32(high - low), 0, 1)
    return result


def streaking(
    first: Volume, flat: Volume, dipole: Volume, grid: Grid, params: IlsqrParameters
) -> tuple[Volume, Convergence]:
    """What of the first map lies in the cone and makes it vary where it should be flat."""
    shape = first.shape
    cone = (np.abs(dipole) < np.float32(params.threshold)).astype(np.float32)
    inverse_square = (1.0 / np.square(grid.voxel_size_mm)).astype(np.float32)

    def normal(volume: Volume) -> Volume:
        bent = np.empty_like(volume)
        _weighted_laplacian(volume, flat, inverse_square, bent)
        spectrum = fourier.transform(bent, shape)
        spectrum *= cone
        return fourier.inverse(spectrum, shape)

    # the right-hand side, and so every direction, has a spectrum in the cone alone
    return conjugate_gradient(normal, normal(first), tolerance=params.tolerance, max_iterations=params.max_iterations)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _weighted_laplacian(volume: Volume, power: Volume, inverse_square: NDArray[np.float32], result: Volume) -> None:
    """E^T power E of the periodic forward differences E, in one pass."""
    nx, ny, nz = volume.shape
    for i in prange(nx):
        i0, i1 = (i - 1) % nx, (i + 1) % nx
        for j in range(ny):
            j0, j1 = (j - 1) % ny, (j + 1) % ny
            for k in range(nz):
                k0, k1 = (k - 1) % nz, (k + 1) % nz
                here = volume[i, j, k]
                x = power[0, i0, j, k] * (here - volume[i0, j, k]) + power[0, i, j, k] * (here - volume[i1, j, k])
                y = power[1, i, j0, k] * (here - volume[i, j0, k]) + power[1, i, j, k] * (here - volume[i, j1, k])
                z = power[2, i, j, k0] * (here - volume[i, j, k0]) + power[2, i, j, k] * (here - volume[i, j, k1])
                result[i, j, k] = x * inverse_square[0] + y * inverse_square[1] + z * inverse_square[2]


ILSQR = Method(
    name="ilsqr",
    title="iLSQR",
    function=ilsqr,
    parameters=IlsqrParameters,
    sentence=(
        "Dipole inversion was by least squares with streaks estimated where the dipole kernel is below {threshold:g} "
        "and subtracted (iLSQR; relative residual below {first_tolerance:g} or {first_max_iterations} iterations, and "
        "below {tolerance:g} or {max_iterations} iterations for the streaks)."
    ),
    citations=(
        Citation(
            key="li2015ilsqr",
            authors="Li W, Wang N, Yu F, Han H, Cao W, Romero R, Tantiwongkosi B, Duong TQ, Liu C",
            title="A method for estimating and removing streaking artifacts in quantitative susceptibility mapping",
            journal="NeuroImage 108:111-122",
            year=2015,
            doi="10.1016/j.neuroimage.2014.12.043",
        ),
    ),
)
