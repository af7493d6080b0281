"""Dipole inversion with a nonlinear data term and total variation (FANSI)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import least_variation, padded
from qsmals.recon.inversion.nonlinear import MEAN_TE_SOURCE, RAD_PER_PPM, update_phase
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class NonlinearTVParameters:
    """Settings of :func:`nonlinear_tv`.

    Where the phase disagrees by more than a quarter turn the data term is concave, by up to the squared weight, which
    is 1 on average: iterations that do not settle want a ``field_penalty`` above the square of the largest weight.
    Jumps of the phase are silent if their echo time, or spacing, is that of ``rad_per_ppm``.
    """

    regularisation: float = field(
        default=1e-4, metadata={"unit": "mm, at fields in ppm", "source": "the same as of linear total variation"}
    )
    rad_per_ppm: float = field(
        default=RAD_PER_PPM,
        metadata={"unit": "rad/ppm", "source": MEAN_TE_SOURCE, "scan": "mean_te_rad_per_ppm"},
    )
    gradient_penalty: float = field(
        default=300.0,
        metadata={"unit": "multiple of the regularisation", "source": "the same as of linear total variation"},
    )
    field_penalty: float = field(default=1.0, metadata={"unit": "1", "source": "FANSI mu2"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(
        default=0.01, metadata={"unit": "relative change", "source": "by trial on 1 phantom, no table"}
    )
    max_iterations: int = field(default=100, metadata={"unit": "iterations", "source": "design choice"})


def nonlinear_tv(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: NonlinearTVParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility with the least total variation that explains the complex signal.

    Minimises ``1/(2 s^2) |W (exp(i s D chi) - exp(i s f))|^2 + lambda |grad chi|_1`` with the phase s of 1 ppm, the
    weights W (0 outside the mask), the dipole operator D and forward differences per mm. The misfit counts whole turns
    of the phase as none, so that jumps of 2 pi do no harm; voxels of noise still need a low weight.

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
    params : NonlinearTVParameters, optional
        The regularisation belongs to fields in ppm: the data term tends to that of :func:`tv.tv` for small misfits.
        FANSI's alpha1, for phase in radians and isotropic voxels, is the regularisation over the voxel's edge times
        ``rad_per_ppm``.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights or parameters that are not positive.

    References
    ----------
    Milovic C, et al. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073
    """
    params = params or NonlinearTVParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    chi, convergence = _solve(padded(local, shape), np.square(padded(weight, shape)), grid, params)
    nx, ny, nz = grid.shape
    return Susceptibility(np.where(mask, chi[:nx, :ny, :nz], np.float32(0)), convergence)


def _check(params: NonlinearTVParameters) -> None:
    numbers = (
        *(params.regularisation, params.rad_per_ppm, params.gradient_penalty, params.field_penalty),
        params.tolerance,
    )
    if min(numbers) <= 0 or params.max_iterations < 1:
        raise ValueError(f"nonlinear TV needs positive parameters, not {params}")


def _solve(local: Volume, power: Volume, grid: Grid, params: NonlinearTVParameters) -> tuple[Volume, Convergence]:
    """ADMM on the padded grid, as of :func:`tv.tv` but for the step of the field, which is Newton's in each voxel."""

    def update(explained: Volume, multiplier: Volume, target: Volume) -> None:
        update_phase(explained, local, power, params.field_penalty, params.rad_per_ppm, multiplier, target)

    return least_variation(
        local,
        grid,
        field_penalty=params.field_penalty,
        slope_penalty=params.gradient_penalty * params.regularisation,
        threshold=1.0 / params.gradient_penalty,
        update=update,
        tolerance=params.tolerance,
        max_iterations=params.max_iterations,
    )


NONLINEAR_TV = Method(
    name="nonlinear-tv",
    title="nonlinear total variation (FANSI)",
    function=nonlinear_tv,
    parameters=NonlinearTVParameters,
    sentence=(
        "Dipole inversion minimised the weighted misfit of the complex signal ({rad_per_ppm:g} rad/ppm) with total "
        "variation regularisation by ADMM (regularisation {regularisation:g} mm at fields in ppm, relative change "
        "below {tolerance:g} or {max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="milovic2018",
            authors="Milovic C, Bilgic B, Zhao B, Acosta-Cabronero J, Tejos C",
            title="Fast nonlinear susceptibility inversion with variational regularization",
            journal="Magnetic Resonance in Medicine 80:814-821",
            year=2018,
            doi="10.1002/mrm.27073",
        ),
    ),
)
