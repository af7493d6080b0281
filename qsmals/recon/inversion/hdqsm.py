"""HD-QSM: total variation with a fidelity that is first robust, then least squares with the outliers silenced."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import (
    add_product,
    adjoint_gradient,
    kernel_factors,
    padded,
    relative_change,
    update_field,
    update_gradient,
)
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class HdQsmParameters:
    """Settings of :func:`hdqsm`."""

    regularisation: float = field(
        default=1e-4, metadata={"unit": "mm, at fields in ppm", "source": "QSM.rs; as the TV here"}
    )
    robust_regularisation: float = field(
        default=1e-2, metadata={"unit": "mm", "source": "Lambert 2022: square root of the regularisation"}
    )
    gradient_penalty: float = field(
        default=100.0, metadata={"unit": "multiple of the regularisation, 1/(ppm/mm)", "source": "QSM.rs"}
    )
    field_penalty: float = field(default=1.0, metadata={"unit": "1", "source": "Lambert 2022; FANSI mu2"})
    robust_field_penalty: float = field(default=100.0, metadata={"unit": "1/ppm", "source": "one over a large misfit"})
    robust_iterations: int = field(default=20, metadata={"unit": "iterations", "source": "Lambert 2022"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(default=0.01, metadata={"unit": "relative change", "source": "Lambert 2022"})
    max_iterations: int = field(default=80, metadata={"unit": "iterations", "source": "Lambert 2022"})


def hdqsm(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: HdQsmParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility with the least total variation, from a robust and then a least squares fidelity.

    The first stage runs ``robust_iterations`` rounds on ``|W (D chi - f)|_1 + lambda_1 |grad chi|_1``, in which
    a wrong voxel pulls no harder than a slightly noisy one. Its misfit ``r = |D chi - f|`` then lowers the weights to
    ``V = W (1 - r / max r)`` for the second, ``1/2 |V (D chi - f)|^2 + lambda |grad chi|_1``, which starts
    from the first map. D is the dipole operator; the differences are forward, per mm.

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
    params : HdQsmParameters, optional
        The regularisation and the inverse of the robust field penalty belong to fields in ppm: for a field in other
        units divide them by the unit in ppm. The robust regularisation is the same in all units.

    Returns
    -------
    Susceptibility
        Its convergence is that of the second stage.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights or parameters that are not positive.

    References
    ----------
    Lambert M, et al. Magn Reson Med 2022;88:962-972. doi:10.1002/mrm.29218
    """
    params = params or HdQsmParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    local, weight = padded(local, shape), padded(weight, shape)
    dipole = dipole_kernel(grid, shape)
    robust = robust_stage(local, weight, dipole, grid, params)
    weight = silenced(weight, robust, local, dipole)
    chi, convergence = least_squares_stage(robust, local, weight, dipole, grid, params)
    nx, ny, nz = grid.shape
    return Susceptibility(np.where(mask, chi[:nx, :ny, :nz], np.float32(0)), convergence)


def _check(params: HdQsmParameters) -> None:
    numbers = (
        *(params.regularisation, params.robust_regularisation, params.gradient_penalty),
        *(params.field_penalty, params.robust_field_penalty, params.tolerance),
    )
    if min(numbers) <= 0 or min(params.robust_iterations, params.max_iterations) < 1:
        raise ValueError(f"HD-QSM needs positive parameters, not {params}")


def robust_stage(local: Volume, weight: Volume, dipole: Volume, grid: Grid, params: HdQsmParameters) -> Volume:
    """Map after the rounds with the absolute misfit, on the padded grid, from zero."""
    mu = np.float32(params.robust_field_penalty)
    rho = params.gradient_penalty * params.robust_regularisation

    def update(explained: Volume, multiplier: Volume, target: Volume) -> None:
        _update_robust_field(explained, local, weight, mu, multiplier, target)

    splitting = _Splitting(dipole, grid, local.shape, float(mu), rho, params.gradient_penalty, update)
    return splitting.run(np.zeros_like(local), tolerance=0.0, iterations=params.robust_iterations)[0]


def silenced(weight: Volume, chi: Volume, local: Volume, dipole: Volume) -> Volume:
    """The weights times 1 less the misfit over its maximum among the voxels with weight."""
    spectrum = fourier.transform(chi, chi.shape)
    spectrum *= dipole
    misfit = np.abs(fourier.inverse(spectrum, chi.shape) - local)
    misfit[weight == 0] = 0.0
    largest = misfit.max()
    return weight * (np.float32(1.0) - misfit / largest) if largest > 0 else weight


def least_squares_stage(
    start: Volume, local: Volume, weight: Volume, dipole: Volume, grid: Grid, params: HdQsmParameters
) -> tuple[Volume, Convergence]:
    """Map of least weighted squares and total variation, on the padded grid, from ``start``."""
    mu, power = np.float32(params.field_penalty), np.square(weight)
    rho = params.gradient_penalty * params.regularisation

    def update(explained: Volume, multiplier: Volume, target: Volume) -> None:
        update_field(explained, local, power, mu, multiplier, target)

    splitting = _Splitting(dipole, grid, local.shape, float(mu), rho, params.gradient_penalty, update)
    return splitting.run(start, tolerance=params.tolerance, iterations=params.max_iterations)


class _Splitting:
    """ADMM with y in place of D chi and z in place of grad chi, their scaled multipliers u and v.

    Each round finds y voxel by voxel by ``update_field``, z by shrinkage, and then solves
    ``(mu D^2 + rho |E|^2) chi = mu D (y - u) + rho E^T (z - v)`` in k-space.
    """

    def __init__(
        self, dipole: Volume, grid: Grid, shape: fourier.Shape, mu: float, rho: float, gradient_penalty: float,
        update_field: Callable[[Volume, Volume, Volume], None],
    ) -> None:  # fmt: skip
        self.dipole, self.shape, self.update_field = dipole, shape, update_field
        self.by_field, self.by_source, _ = kernel_factors(dipole, grid, shape, mu, rho)
        self.thresholds = np.full((1, 1, 1, 1), 1.0 / gradient_penalty, dtype=np.float32)
        self.inverse_size = (np.float32(1.0) / np.asarray(grid.voxel_size_mm, dtype=np.float32)).astype(np.float32)

    def run(self, chi: Volume, *, tolerance: float, iterations: int) -> tuple[Volume, Convergence]:
        """Rounds from ``chi`` until its relative change is at most the tolerance."""
        shape = self.shape
        spectrum = fourier.transform(chi, shape)
        multiplier, target, source = np.zeros_like(chi), np.zeros_like(chi), np.zeros_like(chi)
        split, dual = np.zeros((3, *shape), dtype=np.float32), np.zeros((3, *shape), dtype=np.float32)
        changes: list[float] = []
        while len(changes) < iterations:
            spectrum *= self.dipole
            self.update_field(fourier.inverse(spectrum, shape), multiplier, target)
            update_gradient(chi, self.thresholds, self.inverse_size, dual, split)
            adjoint_gradient(split, self.inverse_size, source)
            spectrum = fourier.transform(target, shape)
            spectrum *= self.by_field
            add_product(spectrum, fourier.transform(source, shape), self.by_source)
            previous, chi = chi, fourier.inverse(spectrum.copy(), shape)
            changes.append(relative_change(chi, previous))
            if changes[-1] <= tolerance:
                break
        return chi, Convergence(len(changes), tuple(changes), tolerance)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _update_robust_field(
    explained: Volume, local: Volume, weight: Volume, mu: np.float32, multiplier: Volume, target: Volume
) -> None:
    """y = data + shrink(model - data, weight / mu), then its multiplier u, and the next target y - u."""
    for i in prange(local.shape[0]):
        for j in range(local.shape[1]):
            for k in range(local.shape[2]):
                threshold = weight[i, j, k] / mu
                excess = explained[i, j, k] + multiplier[i, j, k] - local[i, j, k]
                cut = min(max(excess, -threshold), threshold)
                multiplier[i, j, k] = cut
                target[i, j, k] = local[i, j, k] + excess - np.float32(2.0) * cut


HDQSM = Method(
    name="hd-qsm",
    title="HD-QSM",
    function=hdqsm,
    parameters=HdQsmParameters,
    sentence=(
        "Dipole inversion had a hybrid data fidelity with total variation (HD-QSM): {robust_iterations} iterations "
        "with an absolute misfit (regularisation {robust_regularisation:g} mm), then least squares with weights "
        "lowered by that misfit (regularisation {regularisation:g} mm at fields in ppm, relative change below "
        "{tolerance:g} or {max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="lambert2022",
            authors="Lambert M, Tejos C, Langkammer C, Milovic C",
            title="Hybrid data fidelity term approach for quantitative susceptibility mapping",
            journal="Magnetic Resonance in Medicine 88:962-972",
            year=2022,
            doi="10.1002/mrm.29218",
        ),
    ),
)
