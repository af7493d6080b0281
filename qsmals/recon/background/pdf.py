"""PDF: projection onto the fields of dipoles outside the mask."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.background.local import LocalField, checked_field
from qsmals.recon.conjugate import conjugate_gradient
from qsmals.recon.dipole import voxel_dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class PdfParameters:
    """Settings of :func:`pdf`."""

    margin_mm: float = field(
        default=40.0, metadata={"unit": "mm beyond the field of view", "source": "SEPIA and MEDI pad 40 voxels"}
    )
    tolerance: float = field(default=1e-3, metadata={"unit": "relative residual", "source": "design choice"})
    max_iterations: int = field(default=100, metadata={"unit": "iterations", "source": "design choice"})


def pdf(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: PdfParameters | None = None,
) -> LocalField:
    """Local field by projection onto dipole fields.

    Minimises ``|W (f - b - D chi)|`` over susceptibilities chi outside the mask, up to ``margin_mm`` beyond the field
    of view, by conjugate gradients on the normal equations; the rest is the local field. What no source at a
    finite distance makes is taken off before: b is the weighted fit of the harmonic polynomials up to the second degree
    (the shim).

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; values outside the mask are ignored.
    mask : (x, y, z) bool
        Where the field is known.
    grid : Grid
        Voxel size and B0 direction.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation; 1 without it.
    params : PdfParameters, optional
        Field of view and convergence.

    Returns
    -------
    LocalField
        On the whole mask.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty or fills the volume without a margin, NaN in the mask, or bad weights.

    References
    ----------
    Liu T, et al. NMR Biomed 2011;24:1129-1136. doi:10.1002/nbm.1670
    """
    params = params or PdfParameters()
    total = checked_field(field_ppm, mask, grid)
    weight = _checked_weights(weights, mask)
    total = np.where(mask, total - _shim(total, weight, mask, grid), np.float32(0)).astype(np.float32)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.margin_mm, grid))
    outside = np.ones(shape, dtype=bool)
    box = tuple(slice(0, n) for n in grid.shape)
    outside[box] = ~mask
    if not outside.any():
        raise ValueError("the mask fills the volume; PDF needs room for sources outside, give it a margin")
    dipole = voxel_dipole_kernel(grid, shape)
    power = np.square(weight)

    def convolved(volume: Volume, crop: fourier.Shape | None) -> Volume:
        spectrum = fourier.transform(volume, shape)
        spectrum *= dipole
        return fourier.inverse(spectrum, shape, crop)

    def normal(sources: Volume) -> Volume:
        result = convolved(power * convolved(sources, grid.shape), None)
        result *= outside
        return result

    right = convolved(power * total, None)
    right *= outside
    sources, convergence = conjugate_gradient(
        normal, right, tolerance=params.tolerance, max_iterations=params.max_iterations
    )
    local = total - convolved(sources, grid.shape)
    local *= mask
    return LocalField(local, mask.copy(), convergence)


def _checked_weights(weights: Volume | None, mask: NDArray[np.bool_]) -> Volume:
    if weights is None:
        return mask.astype(np.float32)
    if weights.shape != mask.shape:
        raise ValueError(f"weights {weights.shape} and mask {mask.shape} must have one shape")
    weight = np.where(mask, weights, 0).astype(np.float32)
    largest = float(weight.max())
    if not np.isfinite(largest) or largest <= 0 or weight.min() < 0:
        raise ValueError("weights must be finite, 0 or more and positive somewhere in the mask")
    return weight / np.float32(largest)


def _shim(total: Volume, weight: Volume, mask: NDArray[np.bool_], grid: Grid) -> Volume:
    """Weighted least-squares fit of the nine harmonic polynomials of degree 0 to 2."""
    axes = [
        ((np.arange(n) - 0.5 * (n - 1)) * h / 100.0).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, h) in enumerate(zip(grid.shape, grid.voxel_size_mm, strict=True))
    ]
    x, y, z = axes
    one = np.ones((1, 1, 1))
    terms = [one, x, y, z, x * y, y * z, x * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    design = np.stack([np.broadcast_to(t, grid.shape)[mask] for t in terms], axis=1)
    w = weight[mask].astype(np.float64)[:, None] ** 2
    factors = np.linalg.lstsq(design.T @ (w * design), design.T @ (w[:, 0] * total[mask]), rcond=None)[0]
    result = np.zeros(grid.shape, dtype=np.float32)
    for factor, term in zip(factors, terms, strict=True):
        result += (factor * term).astype(np.float32)
    return result


PDF = Method(
    name="pdf",
    title="PDF",
    function=pdf,
    parameters=PdfParameters,
    sentence="The background field was removed by projection onto dipole fields (PDF) with sources up to {margin_mm:g} "
    "mm beyond the field of view, after a fit of second-degree harmonic polynomials.",
    citations=(
        Citation(
            key="liu2011pdf",
            authors="Liu T, Khalidov I, de Rochefort L, Spincemaille P, Liu J, Tsiouris AJ, Wang Y",
            title="A novel background field removal method for MRI using projection onto dipole fields (PDF)",
            journal="NMR in Biomedicine 24:1129-1136",
            year=2011,
            doi="10.1002/nbm.1670",
        ),
    ),
    beyond_brain=True,
)
