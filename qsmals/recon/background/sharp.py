"""SHARP: spherical mean value filtering with one sphere and a truncated deconvolution."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.background.local import LocalField, checked_field
from qsmals.recon.background.spheres import sphere_interior
from qsmals.recon.background.vsharp import SCHWESER_2011, truncated_inverse
from qsmals.recon.grid import Grid
from qsmals.recon.method import Method


@dataclass(frozen=True)
class SharpParameters:
    """Settings of :func:`sharp`."""

    radius_mm: float = field(default=6.0, metadata={"unit": "mm", "source": "Schweser 2011; QSM.rs"})
    threshold: float = field(
        default=0.05, metadata={"unit": "1 (singular values of the filter)", "source": "Schweser 2011; QSM.rs; QSM.jl"}
    )


def sharp(
    field_ppm: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.float32] | None = None,
    params: SharpParameters | None = None,
) -> LocalField:
    """Local field by SHARP.

    The field minus its spherical mean, kept where the sphere lies in the mask, divided by the filter's spectrum
    where that exceeds ``threshold`` in modulus.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; values outside the mask are ignored.
    mask : (x, y, z) bool
        Where the field is known.
    grid : Grid
        Voxel size; the sphere is round in mm. The B0 direction has no effect.
    weights : (x, y, z) float32, optional
        Not used by this method.
    params : SharpParameters, optional
        Radius and threshold.

    Returns
    -------
    LocalField
        On the mask eroded by the sphere.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty or too thin for the sphere, or NaN in the mask.

    References
    ----------
    Schweser F, et al. NeuroImage 2011;54:2789-2807. doi:10.1016/j.neuroimage.2010.10.070
    """
    params = params or SharpParameters()
    total = checked_field(field_ppm, mask, grid)
    inner = sphere_interior(mask, params.radius_mm, grid)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.radius_mm, grid))
    kernel = np.float32(1.0) - fourier.sphere_kernel(params.radius_mm, grid, shape)
    filtered = fourier.inverse(fourier.transform(total, shape) * kernel, shape, grid.shape)
    spectrum = fourier.transform(filtered * inner, shape)
    spectrum *= truncated_inverse(kernel, params.threshold)
    return LocalField(fourier.inverse(spectrum, shape, grid.shape) * inner, inner)


SHARP = Method(
    name="sharp",
    title="SHARP",
    function=sharp,
    parameters=SharpParameters,
    sentence="The background field was removed with SHARP (radius {radius_mm:g} mm, truncation {threshold:g}).",
    citations=(SCHWESER_2011,),
)
