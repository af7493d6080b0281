"""Dipole inversion with total variation, by the alternating direction method of multipliers."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import least_variation, padded, update_field
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class TVParameters:
    """Settings of :func:`tv`."""

    regularisation: float = field(
        default=1e-4,
        metadata={"unit": "mm, at fields in ppm", "source": "by trial on 2 simulated heads after V-SHARP, no table"},
    )
    gradient_penalty: float = field(
        default=300.0,
        metadata={
            "unit": "multiple of the regularisation",
            "source": "for speed, by trial on 1 simulated head, no table",
        },
    )
    field_penalty: float = field(
        default=0.3, metadata={"unit": "1", "source": "for speed, by trial on 1 simulated head, no table; FANSI mu2"}
    )
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(
        default=0.015, metadata={"unit": "relative change", "source": "by trial on 1 simulated head, no table"}
    )
    max_iterations: int = field(default=60, metadata={"unit": "iterations", "source": "design choice"})


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
    chi, convergence = _solve(padded(local, shape), padded(weight, shape), grid, params)
    nx, ny, nz = grid.shape
    return Susceptibility(np.where(mask, chi[:nx, :ny, :nz], np.float32(0)), convergence)


def _check(params: TVParameters) -> None:
    numbers = (params.regularisation, params.gradient_penalty, params.field_penalty, params.tolerance)
    if min(numbers) <= 0 or params.max_iterations < 1:
        raise ValueError(f"TV needs positive parameters, not {params}")


def _solve(local: Volume, weight: Volume, grid: Grid, params: TVParameters) -> tuple[Volume, Convergence]:
    """ADMM on the padded grid; the field lies between data and model by their weights."""
    mu, power = np.float32(params.field_penalty), np.square(weight)

    def update(explained: Volume, multiplier: Volume, target: Volume) -> None:
        update_field(explained, local, power, mu, multiplier, target)

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


TV = Method(
    name="tv",
    title="total variation (ADMM)",
    function=tv,
    parameters=TVParameters,
    sentence=(
        "Dipole inversion minimised the weighted field misfit with total variation regularisation by ADMM "
        "(regularisation {regularisation:g} mm at fields in ppm, relative change below {tolerance:g} or "
        "{max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="bilgic2014",
            authors="Bilgic B, Fan AP, Polimeni JR, Cauley SF, Bianciardi M, Adalsteinsson E, Wald LL, Setsompop K",
            title="Fast quantitative susceptibility mapping with L1-regularization and automatic parameter selection",
            journal="Magnetic Resonance in Medicine 72:1444-1459",
            year=2014,
            doi="10.1002/mrm.25029",
        ),
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
