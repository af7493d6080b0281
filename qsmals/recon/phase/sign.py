"""The sign of the phase: which way round a scanner stores it, seen from the field of the head itself.

Tissue is diamagnetic against air by 9.4 ppm, and the shape of head, sinuses and ear canals gives a large field of
known pattern. Which of the dark gaps in the tissue hold air and which bone the magnitude does not say. The measured
field is therefore fitted by the fields of the tissue and of its gaps, with factors of 0 or more: the right sign fits,
and the opposite one does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import nnls

from qsmals.recon.dipole import voxel_dipole_kernel
from qsmals.recon.fourier import inverse, padded_shape, transform
from qsmals.recon.grid import Grid
from qsmals.recon.phase.smooth import block_sum

TISSUE_MINUS_AIR_PPM = -9.4
"""Water at body temperature (-9.05) less air (0.36): Schenck JF. Med Phys 1996;23:815-850. doi:10.1118/1.597854"""

BLOCK_MM = 4.0
"""Edge length of the coarse voxels on which fields are compared."""

MARGIN_MM = 80.0
"""How far tissue that the field of view cuts is continued."""

HULL_MM = 24.0
"""Gaps up to twice this width lie inside the head."""

GAP_MM = (4.5, 7.0)
"""Half widths that divide the gaps into three classes (bone, mostly; air cells; sinuses), each with its own factor."""

CUT_MM2 = 1000.0
"""Tissue on a face of the volume from which the tissue beyond is a source of its own."""

DEPTH_MM = 12.0
"""Without a brain mask, fields are compared at this depth in the head at least: below most of the scalp's fat."""

OUTLIER = 5.0
"""Without a brain mask, voxels so many robust standard deviations off (fat) are left out."""

CLIP = 0.95
"""Quantile to which large fields (next to sinuses, wrong wraps) are clipped."""

CONFIDENT = 0.2
"""Margin from which the sign is certain. On simulated heads of two kinds, at any tilt, the margin is 0.23 to 0.86 with
the whole brain in the field of view, 0.2 to 0.7 for slabs, 0.1 to 0.3 for a brain cut out of its head, and never
negative; smooth random fields pass 0.2 in one case of ten."""

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
        Multiple correlation of the measured field with that of tissue in air, less the same for the opposite field;
        -1 to 1, with the sign of ``sign``.
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
    """Compare the total field with that of tissue in air.

    All fields are averaged to voxels of about 4 mm, and polynomials up to the second degree (transmitter frequency and
    shims) are removed from them. The measured field and its opposite are fitted, with factors of 0 or more, by the
    fields of the closed head, of the tissue beyond each face that cuts it, and of air in the gaps.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; anything outside the tissue mask. Values that are not finite are left out.
    tissue_mask : (x, y, z) bool
        Voxels with signal, of the whole head and not only of the brain; closed cavities with air, such as sinuses,
        are no tissue: they are sources of the field by which the sign is told.
    brain_mask : (x, y, z) bool or None
        Where to compare. Without it, in the depth of the tissue, which is nearly as good.
    grid : Grid
        Voxel size and B0 direction, which may be any.

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
    nx, ny, nz = (min(max(1, round(BLOCK_MM / s)), n) for s, n in zip(grid.voxel_size_mm, grid.shape, strict=True))
    block = (nx, ny, nz)
    measured = tissue_mask & np.isfinite(field_ppm)
    volume = block_sum(np.ones(grid.shape, dtype=np.float32), block)
    tissue = block_sum(tissue_mask.astype(np.float32), block) / volume
    share = block_sum(measured.astype(np.float32), block)
    field = block_sum(np.where(measured, field_ppm, 0).astype(np.float32), block) / np.maximum(share, 1.0)
    x, y, z = (size * n for size, n in zip(grid.voxel_size_mm, block, strict=True))
    head = _Head(tissue, Grid((tissue.shape[0], tissue.shape[1], tissue.shape[2]), (x, y, z), grid.b0_direction))
    if brain_mask is None:
        region = (tissue > 0.9) & (share / volume > 0.5) & (head.depth_mm > DEPTH_MM)
        region = _without_outliers(field, region)
    else:
        region = (block_sum(brain_mask.astype(np.float32), block) / volume > 0.9) & (share / volume > 0.5)
    if np.count_nonzero(region) < FEWEST:
        raise ValueError("too little tissue to tell the sign of the phase from; give it with --phase-sign")
    margin = _margin(field, head.fields(), region)
    return PhaseSign(sign=1 if margin >= 0 else -1, correlation=margin, confident=abs(margin) >= CONFIDENT)


class _Head:
    """Tissue on a coarse grid, closed and continued beyond the field of view."""

    def __init__(self, tissue: NDArray[np.float64], grid: Grid) -> None:
        self.grid = grid
        self.shape = tissue.shape
        self.margin = [int(np.ceil(MARGIN_MM / size)) for size in grid.voxel_size_mm]
        self.tissue = np.pad(tissue, [(n, n) for n in self.margin], mode="edge")
        hull = ndimage.binary_fill_holes(_closed(self.tissue > 0.5, HULL_MM, grid.voxel_size_mm))
        self.closed = np.maximum(self.tissue, hull)
        depth = ndimage.distance_transform_edt(hull, sampling=grid.voxel_size_mm)
        self.depth_mm: NDArray[np.float64] = depth[self._slices()]

    def fields(self) -> list[NDArray[np.float64]]:
        """Fields, ppm, of the closed head, of the tissue beyond each cut face, and of air in each class of gaps."""
        sources = [part * TISSUE_MINUS_AIR_PPM for part in self._parts()]
        gaps = self.closed - self.tissue
        size = self.grid.voxel_size_mm
        narrow, wide = (_opened(gaps > 0.5, half_width, size) for half_width in GAP_MM)
        for kind in (wide, narrow & ~wide, ~narrow & ~wide):
            if np.any(gaps[kind] > 0):
                sources.append(np.where(kind, -TISSUE_MINUS_AIR_PPM * gaps, 0.0))
        x, y, z = self.tissue.shape
        padded = padded_shape((x, y, z), (x // 5, y // 5, z // 5))
        kernel = voxel_dipole_kernel(self.grid, padded)
        fields = []
        for source in sources:
            field = inverse(transform(source.astype(np.float32), padded) * kernel, padded, (x, y, z))
            fields.append(field[self._slices()].astype(np.float64))
        return fields

    def _slices(self, axis: int | None = None, part: slice = slice(None)) -> tuple[slice, ...]:
        """Slices of the field of view, or of another part along one axis."""
        inside = [slice(n, n + size) for n, size in zip(self.margin, self.shape, strict=True)]
        return tuple(part if a == axis else s for a, s in enumerate(inside))

    def _parts(self) -> list[NDArray[np.float64]]:
        """The closed head in the field of view, and what continues it beyond each face that cuts it."""
        places = [self._slices()]
        inside = self.closed[self._slices()]
        for axis, n in enumerate(self.margin):
            area = np.prod([s for a, s in enumerate(self.grid.voxel_size_mm) if a != axis])
            for index, part in ((0, slice(0, n)), (-1, slice(n + self.shape[axis], None))):
                if inside.take(index, axis).sum() * area > CUT_MM2:
                    places.append(self._slices(axis, part))
        parts = []
        for place in places:
            part_of_head = np.zeros_like(self.closed)
            part_of_head[place] = self.closed[place]
            parts.append(part_of_head)
        return parts


def _closed(mask: NDArray[np.bool_], radius_mm: float, voxel_size_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Mask with gaps narrower than twice the radius filled."""
    if not mask.any() or mask.all():
        return mask
    dilated = ndimage.distance_transform_edt(~mask, sampling=voxel_size_mm) <= radius_mm
    if dilated.all():
        return np.asarray(dilated)
    return np.asarray(ndimage.distance_transform_edt(dilated, sampling=voxel_size_mm) > radius_mm) | mask


def _opened(mask: NDArray[np.bool_], radius_mm: float, voxel_size_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Parts of the mask that are wider than twice the radius."""
    return ~_closed(~mask, radius_mm, voxel_size_mm) if mask.any() else mask


def _shim_terms(shape: tuple[int, ...], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Polynomials up to the second degree at the voxels of a region, one column each."""
    axes = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in shape]
    x = [a[region] for a in np.meshgrid(*axes, indexing="ij")]
    return np.stack([np.ones(x[0].size), *x, *(x[i] * x[j] for i in range(3) for j in range(i, 3))], axis=1)


def _without_outliers(field: NDArray[np.float64], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Region without the voxels that are far from a polynomial fitted to the others."""
    terms = _shim_terms(field.shape, region)
    values = field[region]
    keep = np.ones(values.size, dtype=bool)
    for _ in range(4):
        if np.count_nonzero(keep) <= terms.shape[1]:
            break
        rest = np.abs(values - terms @ np.linalg.lstsq(terms[keep], values[keep], rcond=None)[0])
        keep = rest <= OUTLIER * 1.4826 * np.median(rest)
    cleaned = np.zeros_like(region)
    cleaned[region] = keep
    return cleaned


def _margin(field: NDArray[np.float64], sources: list[NDArray[np.float64]], region: NDArray[np.bool_]) -> float:
    """Multiple correlation of a field with nonnegative sources, less that of the opposite field."""
    basis = np.linalg.svd(_shim_terms(field.shape, region), full_matrices=False)[0]

    def rest(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(values - basis @ (basis.T @ values))

    values = rest(field[region])
    limit = float(np.quantile(np.abs(values), CLIP))
    values = rest(np.clip(values, -limit, limit))
    total = float(values @ values)
    if total <= 1e-20 * values.size:
        return 0.0
    columns = np.stack([rest(source[region]) for source in sources], axis=1)
    plus, minus = (1.0 - nnls(columns, sign * values)[1] ** 2 / total for sign in (1.0, -1.0))
    return float(np.sqrt(max(plus, 0.0)) - np.sqrt(max(minus, 0.0)))
