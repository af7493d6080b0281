"""Dipole inversion with total variation, by the alternating direction method of multipliers."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class TVParameters:
    """Settings of :func:`tv`."""

    regularisation: float = field(
        default=2e-4, metadata={"unit": "mm, at fields in ppm", "source": "benchmark on heads with known truth"}
    )
    gradient_penalty: float = field(
        default=100.0, metadata={"unit": "multiple of the regularisation", "source": "QSM.jl; FANSI"}
    )
    field_penalty: float = field(default=1.0, metadata={"unit": "1", "source": "FANSI (mu2)"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(default=5e-3, metadata={"unit": "relative change", "source": "benchmark"})
    max_iterations: int = field(default=100, metadata={"unit": "iterations", "source": "benchmark"})


def tv(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: TVParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility with the least total variation that explains the field.

    Minimises ``1/2 |W (D chi - f)|^2 + lambda |grad chi|_1`` with the weights W (0 outside the mask, so
    that nothing is claimed about the field there), the dipole operator D and forward differences per mm.
    The field is split off as a second variable, which makes every step a division in k-space or per voxel.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation; their scale has no effect.
    params : TVParameters, optional
        The regularisation belongs to fields in ppm: for a field in other units divide by the unit in ppm.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights or parameters that are not positive.

    References
    ----------
    Bilgic B, et al. Magn Reson Med 2014;72:1444-1459. doi:10.1002/mrm.25029
    Milovic C, et al. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073
    """
    params = params or TVParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    chi, convergence = _solve(_padded(local, shape), _padded(weight, shape), grid, shape, params)
    nx, ny, nz = grid.shape
    return Susceptibility(np.where(mask, chi[:nx, :ny, :nz], np.float32(0)), convergence)


def _check(params: TVParameters) -> None:
    numbers = (params.regularisation, params.gradient_penalty, params.field_penalty, params.tolerance)
    if min(numbers) <= 0 or params.max_iterations < 1:
        raise ValueError(f"TV needs positive parameters, not {params}")


def _padded(volume: Volume, shape: fourier.Shape) -> Volume:
    result = np.zeros(shape, dtype=np.float32)
    nx, ny, nz = volume.shape
    result[:nx, :ny, :nz] = volume
    return result


def _solve(
    local: Volume, weight: Volume, grid: Grid, shape: fourier.Shape, params: TVParameters
) -> tuple[Volume, Convergence]:
    """ADMM on the padded grid; see the equations in the kernels."""
    mu = np.float32(params.field_penalty)
    rho = np.float32(params.gradient_penalty * params.regularisation)
    threshold = np.float32(1.0 / params.gradient_penalty)
    inverse_size = tuple(np.float32(1.0 / h) for h in grid.voxel_size_mm)
    dipole = fourier.dipole_kernel(grid, shape)
    denominator = mu * dipole**2 + rho * fourier.laplacian_kernel(grid, shape)
    denominator.flat[0] = 1.0
    data = weight**2 * local / (weight**2 + mu)
    relax = mu / (weight**2 + mu)
    target = data.copy()
    dual_field = -data
    dual = np.zeros((3, *shape), dtype=np.float32)
    split = np.zeros((3, *shape), dtype=np.float32)
    source = np.zeros(shape, dtype=np.float32)
    chi = np.zeros(shape, dtype=np.float32)
    changes: list[float] = []
    while len(changes) < params.max_iterations:
        spectrum = fourier.transform(target, shape)
        _combine(spectrum, fourier.transform(source, shape), dipole, denominator, mu, rho)
        explained = fourier.inverse(spectrum * dipole, shape)
        previous, chi = chi, fourier.inverse(spectrum, shape)
        changes.append(_relative_change(chi, previous))
        if changes[-1] <= params.tolerance:
            break
        _update_field(explained, data, relax, dual_field, target)
        _update_gradient(chi, dual, split, threshold, inverse_size)
        _negative_divergence(split, source, inverse_size)
    return chi, Convergence(len(changes), tuple(changes), params.tolerance)
