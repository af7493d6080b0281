"""The sign of the phase: which way round a scanner stores it, seen from the field of the head itself.

Tissue is diamagnetic (about -9.4 ppm relative to air), and the shape of head, sinuses and ear canals gives a
large field of known pattern. If the measured field correlates with the one computed from the tissue's outline,
paramagnetic is positive; if it anticorrelates, the phase is stored the other way round.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from qsmals.recon.fourier import dipole_field
from qsmals.recon.grid import Grid
from qsmals.recon.phase.smooth import block_sum

TISSUE_MINUS_AIR_PPM = -9.4
"""Water at body temperature (-9.05) less air (0.36): Schenck JF. Med Phys 1996;23:815-850. doi:10.1118/1.597854"""

BLOCK_MM = 4.0
"""Edge length of the coarse voxels on which fields are compared."""

MARGIN_MM = 100.0
"""How far tissue that the field of view cuts is continued."""

CLOSING_MM = 8.0
"""Gaps up to twice this width (bone, vessels, CSF with little signal) are filled: they are tissue to the field, and the
sinuses are wider. On simulated heads this raises the correlation from 0.4 to 0.9."""

CONFIDENT = 0.35
"""Rank correlation from which the sign is certain. On simulated heads at any tilt: 0.55 to 0.95 with the whole brain in
the field of view, 0.2 to 0.9 for slabs, and -0.2 to 0.4 where only the brain was left, whose outline says little about
air."""

FEWEST = 100
"""Coarse voxels that a comparison needs."""


@dataclass(frozen=True)
class PhaseSign:
    """Which way round the phase is.

    Attributes
    ----------
    sign : int
        Factor, +1 or -1, that makes the field (or the phase) of paramagnetic matter positive.
    correlation : float
        Rank correlation of the measured with the expected field, -1..1.
    confident : bool
        Whether the correlation is far enough from 0 to act on.
    """

    sign: int
    correlation: float
    confident: bool


def detect_phase_sign(
    field_ppm: NDArray[np.float32],
    *,
    tissue_mask: NDArray[np.bool_],
    brain_mask: NDArray[np.bool_] | None,
    grid: Grid,
) -> PhaseSign:
    """Compare the total field with that of homogeneous tissue in air.

    Both fields are averaged to voxels of about 4 mm, and polynomials up to the second degree (transmitter frequency and
    shims) are removed from both. Bone and other gaps in the tissue are filled first, and tissue that the field of
    view cuts is continued. The direction of the main field may be any.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; anything outside the tissue mask. Values that are not finite are left out.
    tissue_mask : (x, y, z) bool
        Voxels with signal, of the whole head: not only the brain.
    brain_mask : (x, y, z) bool or None
        Where to compare. Without it, everywhere in the tissue but for a rim, where fat would disturb.
    grid : Grid
        Voxel size and B0 direction.

    Returns
    -------
    PhaseSign

    Raises
    ------
    ValueError
        Shapes differ, or too little tissue to compare.
    """
    masks = (tissue_mask, *(() if brain_mask is None else (brain_mask,)))
    if any(m.shape != grid.shape for m in (field_ppm, *masks)):
        raise ValueError(f"field {field_ppm.shape}, masks {[m.shape for m in masks]} and grid {grid.shape} differ")
    sizes = [max(1, round(BLOCK_MM / size)) for size in grid.voxel_size_mm]
    block = (min(sizes[0], grid.shape[0]), min(sizes[1], grid.shape[1]), min(sizes[2], grid.shape[2]))
    measured = tissue_mask & np.isfinite(field_ppm)
    filled = _block_mean(np.ones(grid.shape, dtype=np.float32), block)
    tissue = _block_mean(tissue_mask, block) / filled
    share = _block_mean(measured, block)
    field = _block_mean(np.where(measured, field_ppm, 0), block) / np.maximum(share, 1e-6)
    x, y, z = (size * n for size, n in zip(grid.voxel_size_mm, block, strict=True))
    coarse = Grid((tissue.shape[0], tissue.shape[1], tissue.shape[2]), (x, y, z), grid.b0_direction)
    if brain_mask is None:
        region = ndimage.binary_erosion(tissue > 0.9)
    else:
        region = (_block_mean(brain_mask, block) / filled > 0.9) & (share / filled > 0.5)
    if np.count_nonzero(region) < FEWEST:
        raise ValueError("too little tissue to tell the sign of the phase from; give it with --phase-sign")
    expected = _tissue_field(tissue, coarse)
    correlation = _rank_correlation(_without_shim(field, region), _without_shim(expected, region))
    return PhaseSign(
        sign=1 if correlation >= 0 else -1, correlation=correlation, confident=abs(correlation) >= CONFIDENT
    )


def _block_mean(volume: NDArray[np.generic], block: tuple[int, int, int]) -> NDArray[np.float64]:
    """Sum over blocks divided by the number of voxels of a whole block."""
    return block_sum(volume.astype(np.float32), block) / float(np.prod(block))


def _tissue_field(tissue: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Field, ppm, of homogeneous tissue with its gaps filled, continued beyond the field of view."""
    margin = [int(np.ceil(MARGIN_MM / size)) for size in grid.voxel_size_mm]
    wide = np.pad(tissue, [(n, n) for n in margin], mode="edge")
    wide = np.maximum(wide, _closed(wide > 0.5, grid.voxel_size_mm))
    shape = (wide.shape[0], wide.shape[1], wide.shape[2])
    chi = (TISSUE_MINUS_AIR_PPM * wide).astype(np.float32)
    field = dipole_field(chi, Grid(shape, grid.voxel_size_mm, grid.b0_direction))
    inside = tuple(slice(n, n + size) for n, size in zip(margin, tissue.shape, strict=True))
    return np.asarray(field[inside], dtype=np.float64)


def _closed(mask: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Mask with gaps narrower than twice the closing radius filled."""
    if not mask.any() or mask.all():
        return mask
    dilated = ndimage.distance_transform_edt(~mask, sampling=voxel_size_mm) <= CLOSING_MM
    if dilated.all():
        return np.asarray(dilated)
    return np.asarray(ndimage.distance_transform_edt(dilated, sampling=voxel_size_mm) > CLOSING_MM) | mask


def _without_shim(field: NDArray[np.float64], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values in the region less their best polynomial of the second degree."""
    x = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in field.shape]
    axes = [a[region] for a in np.meshgrid(*x, indexing="ij")]
    squares = [axes[i] * axes[j] for i in range(3) for j in range(i, 3)]
    terms = np.stack([np.ones(axes[0].size), *axes, *squares], axis=1)
    values = field[region]
    return np.asarray(values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0])


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's correlation, 0 if one of the two does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
