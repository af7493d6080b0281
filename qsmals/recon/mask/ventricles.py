"""Cerebrospinal fluid of the ventricles, by its slow relaxation."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.grid import Grid
from qsmals.recon.mask.morphology import erode

MEDI_TOOLBOX = "MEDI toolbox; Liu Z 2018, doi:10.1002/mrm.26946"


@dataclass(frozen=True)
class VentricleParameters:
    """Settings of :func:`ventricles`."""

    largest_r2star_hz: float = field(default=5.0, metadata={"unit": "1/s", "source": MEDI_TOOLBOX})
    centre_radius_mm: float = field(default=30.0, metadata={"unit": "mm", "source": MEDI_TOOLBOX})
    rim_mm: float = field(default=10.0, metadata={"unit": "mm", "source": MEDI_TOOLBOX})
    parts: int = field(default=3, metadata={"unit": "largest parts near the centre", "source": MEDI_TOOLBOX})


def ventricles(
    r2star_hz: NDArray[np.float32],
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    params: VentricleParameters | None = None,
) -> NDArray[np.bool_]:
    """Voxels of slow relaxation that hang together with the largest such parts near the centre of the brain.

    Parameters
    ----------
    r2star_hz : (x, y, z) float32
        R2*, 1/s; 0 and NaN mean not measured.
    mask : (x, y, z) bool
        The brain. Its outer ``rim_mm`` are left out, where fluid of the sulci lies.
    grid : Grid
        Voxel size.
    params : VentricleParameters, optional
        Settings.

    Returns
    -------
    (x, y, z) bool
        Empty where there is no such voxel.

    Raises
    ------
    ValueError
        Shapes differ.

    References
    ----------
    Liu Z, et al. Magn Reson Med 2018;79:2795-2803. doi:10.1002/mrm.26946
    """
    params = params or VentricleParameters()
    if r2star_hz.shape != mask.shape:
        raise ValueError(f"R2* has shape {r2star_hz.shape}, the mask {mask.shape}")
    known = np.nan_to_num(r2star_hz)
    slow = mask & (known > 0) & (known < params.largest_r2star_hz)
    deep = slow & erode(mask, params.rim_mm, grid.voxel_size_mm)
    parts, _ = ndimage.label(deep)
    near = _largest(slow & _near_centre(mask, grid, params.centre_radius_mm), params.parts)
    numbers = np.setdiff1d(parts[near], [0])
    return np.asarray(np.isin(parts, numbers))


def _near_centre(mask: NDArray[np.bool_], grid: Grid, radius_mm: float) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    centre = [float(c) for c in ndimage.center_of_mass(mask)]
    axes = [h * (np.arange(n) - c) for n, h, c in zip(mask.shape, grid.voxel_size_mm, centre, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(x**2 + y**2 + z**2 <= radius_mm**2)


def _largest(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The face-connected parts with the most voxels."""
    labels, found = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=found + 1)
    sizes[0] = 0
    chosen = np.argsort(-sizes, kind="stable")[:count]
    return np.asarray(np.isin(labels, chosen[sizes[chosen] > 0]))
