"""TKD: division in k-space by a dipole kernel that is kept away from zero."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.solution import ONE_STEP, Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method


@dataclass(frozen=True)
class TkdParameters:
    """Settings of :func:`tkd`."""

    threshold: float = field(default=0.15, metadata={"unit": "1 (dipole kernel)", "source": "QSM.jl; SEPIA; QSM.rs"})
    correct_underestimation: bool = field(
        default=True, metadata={"unit": "yes or no", "source": "Schweser 2013; UCL in SEPIA"}
    )
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})


def tkd(
    field_ppm: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.float32] | None = None,
    params: TkdParameters | None = None,
) -> Susceptibility:
    """Susceptibility by thresholded k-space division.

    The field's spectrum is divided by the dipole kernel; where that is below ``threshold`` in modulus, by the
    threshold with its sign. The map that comes out is too small by the mean over k-space of kernel over divisor, and is
    divided by it on request.

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
    params : TkdParameters, optional
        Threshold; it does not depend on the field's unit.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, or a threshold outside 0..1/3.

    References
    ----------
    Shmueli K, et al. Magn Reson Med 2009;62:1510-1522. doi:10.1002/mrm.22135
    Schweser F, et al. Magn Reson Med 2013;69:1582-1594. doi:10.1002/mrm.24405
    """
    params = params or TkdParameters()
    if not 0 < params.threshold < 1 / 3:
        raise ValueError(f"the threshold of TKD lies between 0 and 1/3, not {params.threshold}")
    local, _ = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    factor = inverse_kernel(dipole_kernel(grid, shape), params, shape)
    spectrum = fourier.transform(local, shape)
    spectrum *= factor
    return Susceptibility(np.where(mask, fourier.inverse(spectrum, shape, grid.shape), np.float32(0)), ONE_STEP)


def inverse_kernel(dipole: NDArray[np.float32], params: TkdParameters, shape: fourier.Shape) -> NDArray[np.float32]:
    """What the field's spectrum is multiplied with; 0 at k = 0."""
    sign = np.where(dipole < 0, np.float32(-1), np.float32(1))
    factor = sign / np.maximum(np.abs(dipole), np.float32(params.threshold))
    factor[0, 0, 0] = 0.0
    if params.correct_underestimation:
        factor /= np.float32(mean_over_k_space(dipole * factor, shape))
    return np.asarray(factor, dtype=np.float32)


def mean_over_k_space(values: NDArray[np.float32], shape: fourier.Shape) -> float:
    """Mean over the full k-space of an even function given on the half spectrum."""
    sums = values.sum(axis=(0, 1), dtype=np.float64)
    single = [0, -1] if shape[2] % 2 == 0 else [0]
    return float((2.0 * sums.sum() - sums[single].sum()) / np.prod(shape))


TKD = Method(
    name="tkd",
    title="TKD",
    function=tkd,
    parameters=TkdParameters,
    sentence="Dipole inversion was by thresholded k-space division (TKD, threshold {threshold:g}).",
    citations=(
        Citation(
            key="shmueli2009",
            authors="Shmueli K, de Zwart JA, van Gelderen P, Li TQ, Dodd SJ, Duyn JH",
            title="Magnetic susceptibility mapping of brain tissue in vivo using MRI phase data",
            journal="Magnetic Resonance in Medicine 62:1510-1522",
            year=2009,
            doi="10.1002/mrm.22135",
        ),
    ),
)
