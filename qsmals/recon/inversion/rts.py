"""Rapid two-step inversion: least squares where the dipole is well conditioned, then total variation in its cone."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import add_product, adjoint_gradient, padded, relative_change, update_gradient
from qsmals.recon.inversion.leastsquares import weighted_least_squares
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


FIRST_TOLERANCE = 1e-6
"""Relative residual at which the first step ends; its number of iterations is meant to end it before."""


@dataclass(frozen=True)
class RtsParameters:
    """Settings of :func:`rts`."""

    first_iterations: int = field(default=4, metadata={"unit": "iterations", "source": "QSM.jl; QSM.m"})
    threshold: float = field(default=0.15, metadata={"unit": "1 (dipole kernel)", "source": "QSM.jl; QSM.m"})
    regularisation: float = field(
        default=1e-5, metadata={"unit": "mm, at susceptibilities in ppm", "source": "1/mu of QSM.jl and QSM.m"}
    )
    gradient_penalty: float = field(
        default=10.0, metadata={"unit": "multiple of the regularisation", "source": "rho of QSM.jl"}
    )
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(default=0.01, metadata={"unit": "relative change", "source": "QSM.jl"})
    max_iterations: int = field(default=20, metadata={"unit": "iterations", "source": "QSM.jl"})


def rts(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: RtsParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility that is measured outside the dipole's cone and has the least total variation inside it.

    First ``|W (D chi_1 - f)|^2`` is brought down by a few conjugate gradients from zero, which find
    the frequencies that the dipole operator D passes well and leave the others small. Then
    ``1/2 |M F (chi - chi_1)|^2 + lambda |grad chi|_1`` is minimised, with the unitary Fourier transform F, M = 1 where
    the kernel is at least ``threshold`` in modulus and 0 in the cone, and forward differences per mm: with
    the small lambda of the method the first map is kept outside the cone, and total variation fills the cone.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation, in the first step; their
        scale has no effect.
    params : RtsParameters, optional
        The regularisation, the inverse of the paper's mu, belongs to susceptibilities, and so to fields, in ppm: for a
        field in other units divide by the unit in ppm.

    Returns
    -------
    Susceptibility
        Its convergence is that of the second step.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights, parameters that are not positive, or a
        threshold of 1/3 or more.

    References
    ----------
    Kames C, Wiggermann V, Rauscher A. NeuroImage 2018;167:276-283. doi:10.1016/j.neuroimage.2017.11.018
    """
    params = params or RtsParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    dipole = dipole_kernel(grid, shape)
    power = np.square(padded(weight, shape))
    first, _ = weighted_least_squares(  # a number of iterations, and no tolerance, ends this step by design
        padded(local, shape), power, dipole, tolerance=FIRST_TOLERANCE, max_iterations=params.first_iterations
    )
    chi, convergence = fill_cone(first, dipole, grid, params)
    nx, ny, nz = grid.shape
    return Susceptibility(np.where(mask, chi[:nx, :ny, :nz], np.float32(0)), convergence)


def _check(params: RtsParameters) -> None:
    numbers = (params.regularisation, params.gradient_penalty, params.tolerance)
    if min(numbers) <= 0 or min(params.first_iterations, params.max_iterations) < 1:
        raise ValueError(f"RTS needs positive parameters, not {params}")
    if not 0 < params.threshold < 1 / 3:
        raise ValueError(f"the threshold of RTS lies between 0 and 1/3, not {params.threshold}")


def fill_cone(first: Volume, dipole: Volume, grid: Grid, params: RtsParameters) -> tuple[Volume, Convergence]:
    """Second step, by ADMM on the padded grid.

    With z in place of grad chi and its scaled multiplier v, each round solves
    ``(M + rho |E|^2) chi = M chi_1 + rho E^T (z - v)`` in k-space, then for z voxel by voxel.
    """
    shape = first.shape
    kept, by_source = _operators(dipole, shape, grid, params)
    known = fourier.transform(first, shape) * kept
    thresholds = np.full((1, 1, 1, 1), 1.0 / params.gradient_penalty, dtype=np.float32)
    inverse_size = (np.float32(1.0) / np.asarray(grid.voxel_size_mm, dtype=np.float32)).astype(np.float32)
    split, dual = np.zeros((3, *shape), dtype=np.float32), np.zeros((3, *shape), dtype=np.float32)
    source, chi = np.zeros_like(first), first
    changes: list[float] = []
    while len(changes) < params.max_iterations:
        update_gradient(chi, thresholds, inverse_size, dual, split)
        adjoint_gradient(split, inverse_size, source)
        spectrum = known.copy()
        add_product(spectrum, fourier.transform(source, shape), by_source)
        previous, chi = chi, fourier.inverse(spectrum, shape)
        changes.append(relative_change(chi, previous))
        if changes[-1] <= params.tolerance:
            break
    return chi, Convergence(len(changes), tuple(changes), params.tolerance)


def _operators(dipole: Volume, shape: fourier.Shape, grid: Grid, params: RtsParameters) -> tuple[Volume, Volume]:
    """Factors from the spectra of the first map and of the gradient's target to that of the susceptibility."""
    rho = np.float32(params.gradient_penalty * params.regularisation)
    outside = (np.abs(dipole) >= np.float32(params.threshold)).astype(np.float32)
    denominator = outside + rho * fourier.laplacian_kernel(grid, shape)
    denominator[0, 0, 0] = 1.0
    by_source = np.asarray(rho / denominator, dtype=np.float32)
    by_source[0, 0, 0] = 0.0
    return np.asarray(outside / denominator, dtype=np.float32), by_source


RTS = Method(
    name="rts",
    title="RTS",
    function=rts,
    parameters=RtsParameters,
    sentence=(
        "Dipole inversion was by the rapid two-step method (RTS): {first_iterations} iterations of least squares, then "
        "total variation where the dipole kernel is below {threshold:g} (weight {regularisation:g} mm at "
        "susceptibilities in ppm, relative change below {tolerance:g} or {max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="kames2018",
            authors="Kames C, Wiggermann V, Rauscher A",
            title="Rapid two-step dipole inversion for susceptibility mapping with sparsity priors",
            journal="NeuroImage 167:276-283",
            year=2018,
            doi="10.1016/j.neuroimage.2017.11.018",
        ),
    ),
)
