"""Streaks, rim and noise of a susceptibility map."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from qsmals.recon.field.weighted import MAD_TO_SD
from qsmals.recon.fourier import frequencies
from qsmals.recon.grid import Grid
from qsmals.recon.mask.morphology import depth_mm

CONE = 0.06
"""Dipole kernel below which a spatial frequency is next to the zero cone, where streaks live."""

BESIDE = (0.15, 0.30)
"""Dipole kernel of the frequencies that the cone is compared with."""

BAND_PER_MM = (0.04, 0.2)
"""Spatial frequencies that are compared: streaks are long and thin; anatomy below is uneven, noise above."""

TAPER_MM = 8.0
RIM_MM = 3.0
DEEP_MM = 8.0
FEWEST = 50
"""Voxels that a median needs."""


def robust_sd(values: NDArray[np.floating]) -> float:
    """Median absolute deviation from the median, scaled to the standard deviation of a normal distribution."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return float("nan")
    return float(MAD_TO_SD * np.median(np.abs(finite - np.median(finite))))


def streaking(chi_ppm: NDArray[np.float32], mask: NDArray[np.bool_], *, grid: Grid) -> float:
    """Power of the map next to the zero cone of the dipole over its power beside the cone.

    Streaks are what an inversion invents where the dipole tells nothing: along the cone at 54.7 degrees to the main
    field. The map is tapered towards the border of the mask; shells of one spatial frequency are compared
    one by one, and the median of the ratios is the measure.

    Parameters
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility, ppm; NaN counts as 0.
    mask : (x, y, z) bool
        Where it was measured.
    grid : Grid
        Voxel size and direction of the main field.

    Returns
    -------
    float
        About 1 without streaks, less where the cone was smoothed; NaN for an empty mask.
    """
    if not mask.any():
        return float("nan")
    taper = np.clip(depth_mm(mask, grid.voxel_size_mm) / TAPER_MM, 0.0, 1.0).astype(np.float32)
    chi = np.where(mask, np.nan_to_num(chi_ppm), 0.0).astype(np.float32)
    chi = (chi - np.float32(np.average(chi[mask], weights=taper[mask]))) * taper
    x, y, z = (fft.next_fast_len(n, real=True) for n in chi.shape)
    power = np.abs(fft.rfftn(chi, s=(x, y, z))) ** 2
    k = frequencies((x, y, z), grid.voxel_size_mm)
    along = sum(b * axis for axis, b in zip(k, grid.b0_direction, strict=True))
    squared = np.asarray(k[0] ** 2 + k[1] ** 2 + k[2] ** 2)
    squared[0, 0, 0] = 1.0
    kernel = np.abs(1 / 3 - along**2 / squared)
    radius = np.sqrt(squared)
    low, high = BAND_PER_MM
    shell = np.floor((radius - low) / (high - low) * 8).astype(int)
    cone, beside = kernel < CONE, (kernel > BESIDE[0]) & (kernel < BESIDE[1])
    ratios = []
    for number in range(8):
        inside, outside = power[cone & (shell == number)], power[beside & (shell == number)]
        if inside.size >= FEWEST and outside.size >= FEWEST and outside.mean() > 0:
            ratios.append(float(inside.mean() / outside.mean()))
    return float(np.median(ratios)) if ratios else float("nan")


def rim_offset(
    chi_ppm: NDArray[np.float32],
    mask: NDArray[np.bool_],
    cortex: NDArray[np.bool_],
    *,
    voxel_size_mm: Sequence[float],
) -> float:
    """Cortex at the border of the mask minus cortex in its depth, ppb.

    Both are cortex, so that the difference is what remains of the background field at the rim, not anatomy.

    Parameters
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility, ppm.
    mask : (x, y, z) bool
        Where it was measured.
    cortex : (x, y, z) bool
        Cortical labels.
    voxel_size_mm : (3,) float
        Edge lengths.

    Returns
    -------
    float
        Difference of the medians of cortex within 3 mm of the border (at least its first voxel) and deeper than 8 mm;
        NaN where either has too few voxels.
    """
    x, y, z = (float(s) for s in voxel_size_mm)
    depth = depth_mm(mask, (x, y, z))
    usable = cortex & mask & np.isfinite(chi_ppm)
    rim, deep = usable & (depth <= max(RIM_MM, max(x, y, z))), usable & (depth > DEEP_MM)
    if min(rim.sum(), deep.sum()) < FEWEST:
        return float("nan")
    return 1000.0 * (float(np.median(chi_ppm[rim])) - float(np.median(chi_ppm[deep])))


def white_matter_sd(chi_ppm: NDArray[np.float32], white_matter: NDArray[np.bool_]) -> float:
    """Robust standard deviation of the core of the white matter, ppb: noise, streaks and myelin's own differences."""
    core = ndimage.binary_erosion(white_matter)
    region = core if core.sum() >= FEWEST else white_matter
    return 1000.0 * robust_sd(chi_ppm[region])
