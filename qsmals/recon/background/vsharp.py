"""V-SHARP: spherical mean value filtering with a sphere as large as fits around each voxel."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon import fourier
from qsmals.recon.background.local import LocalField, checked_field
from qsmals.recon.background.spheres import SpheresInMask
from qsmals.recon.grid import Grid
from qsmals.recon.method import Citation, Method

SMALLEST_IN_VOXELS = 0.6
"""Radius, in voxel edges, of the smallest useful sphere: it reaches the six face neighbours and no further."""


SCHWESER_2011 = Citation(
    key="schweser2011",
    authors="Schweser F, Deistung A, Lehr BW, Reichenbach JR",
    title="Quantitative imaging of intrinsic magnetic tissue properties using MRI signal phase: "
    "an approach to in vivo brain iron metabolism?",
    journal="NeuroImage 54:2789-2807",
    year=2011,
    doi="10.1016/j.neuroimage.2010.10.070",
)


@dataclass(frozen=True)
class VSharpParameters:
    """Settings of :func:`vsharp`."""

    largest_radius_mm: float = field(
        default=8.0, metadata={"unit": "mm", "source": "by trial on 2 simulated heads, no table; consensus 12 voxels"}
    )
    step_mm: float = field(default=1.0, metadata={"unit": "mm", "source": "ISMRM consensus (1 voxel)"})
    radii_voxels: tuple[float, ...] = field(
        default=(),
        metadata={"unit": "smallest voxel edges", "source": "if any, in place of the radii in mm; consensus 12 to 1"},
    )
    erosion_voxels: int = field(
        default=0, metadata={"unit": "voxels off the mask before", "source": "design choice; consensus 1"}
    )
    threshold: float = field(
        default=0.05, metadata={"unit": "1 (singular values of the filter)", "source": "Schweser 2011; QSM.rs; QSM.jl"}
    )

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        radii = f"radii from {self.largest_radius_mm:g} mm down to one voxel in steps of {self.step_mm:g} mm"
        if self.radii_voxels:
            radii = f"radii of {', '.join(f'{r:g}' for r in self.radii_voxels)} voxels"
        amount = f"{self.erosion_voxels} voxel{'s' if self.erosion_voxels > 1 else ''}"
        eroded = f"; the mask was eroded by {amount} before" if self.erosion_voxels else ""
        return {"radii": radii, "eroded": eroded}


def vsharp(
    field_ppm: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.float32] | None = None,
    params: VSharpParameters | None = None,
) -> LocalField:
    """Local field by V-SHARP.

    A background field is harmonic in the mask and equals its mean over any sphere in the mask, so the
    field minus that mean holds local sources only. Every voxel takes the largest sphere that lies in the mask, from
    ``largest_radius_mm`` down to the six neighbours, or of ``radii_voxels`` alone; what the mean took from the
    local field is put back by one deconvolution with the largest sphere, where its spectrum ``1 - rho`` exceeds
    ``threshold`` in modulus.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; values outside the mask are ignored.
    mask : (x, y, z) bool
        Where the field is known.
    grid : Grid
        Voxel size; the spheres are round in mm. The B0 direction has no effect.
    weights : (x, y, z) float32, optional
        Not used by this method.
    params : VSharpParameters, optional
        Radii and threshold.

    Returns
    -------
    LocalField
        On the mask, after its erosion, without the voxels in whose place no sphere fits: with radii in mm that
        is about one voxel less all round.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty or without an interior, NaN in the mask, no valid radius, or a negative
        erosion.

    References
    ----------
    Wu B, Li W, Guidon A, Liu C. Magn Reson Med 2012;67:137-147. doi:10.1002/mrm.23000
    Schweser F, et al. NeuroImage 2011;54:2789-2807. doi:10.1016/j.neuroimage.2010.10.070
    """
    params = params or VSharpParameters()
    if params.erosion_voxels < 0:
        raise ValueError(f"the erosion is 0 voxels or more, not {params.erosion_voxels}")
    if params.erosion_voxels:
        mask = np.asarray(ndimage.binary_erosion(mask, iterations=params.erosion_voxels))
    total = checked_field(field_ppm, mask, grid)
    radii = sphere_radii_mm(params, grid)
    spheres = SpheresInMask(mask, grid)
    radii = radii[_first_that_fits(radii, spheres) :]
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(radii[0], grid))
    difference, inner = _largest_sphere_difference(total, spheres, radii, grid, shape)
    spectrum = fourier.transform(difference, shape)
    spectrum *= truncated_inverse(1.0 - fourier.sphere_kernel(radii[0], grid, shape), params.threshold)
    local = fourier.inverse(spectrum, shape, grid.shape)
    local *= inner
    return LocalField(local, inner)


def sphere_radii_mm(params: VSharpParameters, grid: Grid) -> list[float]:
    """Descending radii, mm: those in units of the smallest voxel edge, or ending with the smallest that voxels allow.

    Raises
    ------
    ValueError
        The step is not positive, or a radius reaches no neighbour.

    Examples
    --------
    >>> sphere_radii_mm(VSharpParameters(radii_voxels=(1, 3)), Grid((9, 9, 9), (0.5, 0.5, 1.0)))
    [1.5, 0.5]
    """
    smallest = SMALLEST_IN_VOXELS * min(grid.voxel_size_mm)
    if params.radii_voxels:
        if min(params.radii_voxels) < SMALLEST_IN_VOXELS:
            raise ValueError(f"the radii of V-SHARP are {SMALLEST_IN_VOXELS} voxels or more, not {params.radii_voxels}")
        return sorted((r * min(grid.voxel_size_mm) for r in params.radii_voxels), reverse=True)
    if params.step_mm <= 0 or params.largest_radius_mm < smallest:
        raise ValueError(f"V-SHARP needs a positive step and a largest radius of at least {smallest:.2f} mm")
    count = int((params.largest_radius_mm - smallest) / params.step_mm + 1e-9)
    radii = [params.largest_radius_mm - i * params.step_mm for i in range(count + 1)]
    return radii if radii[-1] <= smallest * 1.01 else [*radii, smallest]


def truncated_inverse(spectrum: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """1 / spectrum where its modulus exceeds the threshold, 0 elsewhere."""
    keep = np.abs(spectrum) > threshold
    return np.divide(1.0, spectrum, out=np.zeros_like(spectrum), where=keep)


def _first_that_fits(radii: list[float], spheres: SpheresInMask) -> int:
    for index, radius in enumerate(radii):
        if spheres.fit(radius).any():
            return index
    raise ValueError("the mask is too thin: no sphere fits into it")


def _largest_sphere_difference(
    total: NDArray[np.float32],
    spheres: SpheresInMask,
    radii: list[float],
    grid: Grid,
    shape: fourier.Shape,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Field minus its mean over the largest sphere in the mask, and the mask where there is one."""
    spectrum = fourier.transform(total, shape)
    difference = np.zeros_like(total)
    done = np.zeros(total.shape, dtype=bool)
    for radius in radii:
        fits = spheres.fit(radius) & ~done
        if fits.any():
            mean = fourier.inverse(spectrum * fourier.sphere_kernel(radius, grid, shape), shape)
            mean = mean[: total.shape[0], : total.shape[1], : total.shape[2]]
            difference[fits] = total[fits] - mean[fits]
            done |= fits
    return difference, done


V_SHARP = Method(
    name="v-sharp",
    title="V-SHARP",
    function=vsharp,
    parameters=VSharpParameters,
    sentence=("The background field was removed with V-SHARP ({radii}, truncation {threshold:g}{eroded})."),
    citations=(
        Citation(
            key="wu2012",
            authors="Wu B, Li W, Guidon A, Liu C",
            title="Whole brain susceptibility mapping using compressed sensing",
            journal="Magnetic Resonance in Medicine 67:137-147",
            year=2012,
            doi="10.1002/mrm.23000",
        ),
        SCHWESER_2011,
    ),
)
