"""RESHARP: spherical mean value filtering with a Tikhonov-regularised deconvolution."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.background.local import LocalField, checked_field
from qsmals.recon.background.spheres import sphere_interior
from qsmals.recon.conjugate import conjugate_gradient
from qsmals.recon.grid import Grid
from qsmals.recon.method import Citation, Method


@dataclass(frozen=True)
class ResharpParameters:
    """Settings of :func:`resharp`."""

    radius_mm: float = field(default=6.0, metadata={"unit": "mm", "source": "QSM.rs; Sun 2014 used 5 mm"})
    regularisation: float = field(
        default=1e-4, metadata={"unit": "1 (squared singular values of the filter)", "source": "QSM.rs; QSM-CI tuned"}
    )
    tolerance: float = field(default=1e-3, metadata={"unit": "relative residual", "source": "design choice"})
    max_iterations: int = field(default=60, metadata={"unit": "iterations", "source": "design choice; QSM.rs 30"})


def resharp(
    field_ppm: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.float32] | None = None,
    params: ResharpParameters | None = None,
) -> LocalField:
    """Local field by RESHARP.

    Minimises ``|M C (f - l)|^2 + a |l|^2`` over the local field l, where C subtracts the spherical mean and M is the
    mask eroded by the sphere: of all fields with the filtered field of the data, about the smallest.

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
    params : ResharpParameters, optional
        Radius, regularisation and convergence. The regularisation does not depend on the field's unit.

    Returns
    -------
    LocalField
        On the mask eroded by the sphere.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty or too thin for the sphere, NaN in the mask, or a regularisation below 0.

    References
    ----------
    Sun H, Wilman AH. Magn Reson Med 2014;71:1151-1157. doi:10.1002/mrm.24765
    """
    params = params or ResharpParameters()
    if params.regularisation < 0:
        raise ValueError(f"the regularisation of RESHARP is 0 or more, not {params.regularisation}")
    total = checked_field(field_ppm, mask, grid)
    inner = sphere_interior(mask, params.radius_mm, grid)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.radius_mm, grid))
    kernel = np.float32(1.0) - fourier.sphere_kernel(params.radius_mm, grid, shape)
    penalty = np.float32(params.regularisation)

    def convolved(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        spectrum = fourier.transform(volume, shape)
        spectrum *= kernel
        return fourier.inverse(spectrum, shape, grid.shape)

    def normal(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        result = convolved(convolved(volume) * inner)
        result += penalty * volume
        return result

    local, convergence = conjugate_gradient(
        normal, convolved(convolved(total) * inner), tolerance=params.tolerance, max_iterations=params.max_iterations
    )
    return LocalField(local * inner, inner, convergence)


RESHARP = Method(
    name="resharp",
    title="RESHARP",
    function=resharp,
    parameters=ResharpParameters,
    sentence="The background field was removed with RESHARP (radius {radius_mm:g} mm, regularisation "
    "{regularisation:g}).",
    citations=(
        Citation(
            key="sun2014",
            authors="Sun H, Wilman AH",
            title="Background field removal using spherical mean value filtering and Tikhonov regularization",
            journal="Magnetic Resonance in Medicine 71:1151-1157",
            year=2014,
            doi="10.1002/mrm.24765",
        ),
    ),
)
