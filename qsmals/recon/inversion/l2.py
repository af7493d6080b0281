"""Closed-form inversion with a squared gradient penalty."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.solution import ONE_STEP, Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method


@dataclass(frozen=True)
class L2Parameters:
    """Settings of :func:`l2`."""

    regularisation: float = field(default=1e-2, metadata={"unit": "mm^2", "source": "QSM.jl (gradient)"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})


def l2(
    field_ppm: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.float32] | None = None,
    params: L2Parameters | None = None,
) -> Susceptibility:
    """Susceptibility with the least squared gradient that explains the field, in closed form.

    Minimises ``|D chi - f|^2 + lambda |grad chi|^2`` with forward differences per mm, by one division in k-space.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known; outside it the field is taken as zero.
    grid : Grid
        Voxel size and B0 direction.
    weights : (x, y, z) float32, optional
        Not used by this method.
    params : L2Parameters, optional
        Regularisation; it does not depend on the field's unit.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, or a regularisation that is not positive.

    References
    ----------
    Bilgic B, et al. J Magn Reson Imaging 2014;40:181-191. doi:10.1002/jmri.24365
    """
    params = params or L2Parameters()
    if params.regularisation <= 0:
        raise ValueError(f"the regularisation is positive, not {params.regularisation}")
    local, _ = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    dipole = dipole_kernel(grid, shape)
    divisor = dipole**2 + np.float32(params.regularisation) * fourier.laplacian_kernel(grid, shape)
    divisor[0, 0, 0] = 1.0
    spectrum = fourier.transform(local, shape)
    spectrum *= dipole / divisor
    return Susceptibility(np.where(mask, fourier.inverse(spectrum, shape, grid.shape), np.float32(0)), ONE_STEP)


L2 = Method(
    name="l2",
    title="closed-form L2",
    function=l2,
    parameters=L2Parameters,
    sentence="Dipole inversion had a squared gradient penalty in closed form (regularisation {regularisation:g} mm^2).",
    citations=(
        Citation(
            key="bilgic2014l2",
            authors="Bilgic B, Chatnuntawech I, Fan AP, Setsompop K, Cauley SF, Wald LL, Adalsteinsson E",
            title="Fast image reconstruction with L2-regularization",
            journal="Journal of Magnetic Resonance Imaging 40:181-191",
            year=2014,
            doi="10.1002/jmri.24365",
        ),
    ),
)
