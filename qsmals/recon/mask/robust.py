"""Tissue mask from the magnitude alone: where there is signal, without an image of another contrast."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.mask import morphology


@dataclass(frozen=True)
class RobustMaskParameters:
    """Settings of :func:`robust_mask`."""

    noise_factor: float = field(
        default=5.0, metadata={"unit": "multiple of the noise level", "source": "MriResearchTools.jl robustmask"}
    )
    signal_fraction: float = field(
        default=0.2, metadata={"unit": "fraction of the signal level", "source": "MriResearchTools.jl robustmask"}
    )
    open_mm: float = field(default=2.0, metadata={"unit": "mm", "source": "thickness of dura and scalp bridges"})
    close_mm: float = field(default=4.0, metadata={"unit": "mm", "source": "width of a vein or a sulcus"})


def robust_mask(
    magnitude: NDArray[np.float32], *, grid: Grid, params: RobustMaskParameters | None = None
) -> NDArray[np.bool_]:
    """Voxels with signal, without islands, bridges and holes.

    The noise level is the mean of the lowest 15 % of the positive, finite magnitudes, the signal level the
    mean between the 80th and the 99th percentile. A voxel has signal above the larger of ``noise_factor`` times
    the noise and ``signal_fraction`` of the signal. The result is opened, cut to its largest component,
    closed and filled.

    Parameters
    ----------
    magnitude : (x, y, z) or (x, y, z, e) float32
        Magnitude, any unit, 0 or more; with several echoes the first is used, which has the most signal.
        NaN counts as no signal.
    grid : Grid
        Voxel size.
    params : RobustMaskParameters, optional
        Settings.

    Returns
    -------
    (x, y, z) bool

    Raises
    ------
    ValueError
        No voxel has a positive magnitude.

    References
    ----------
    The thresholds follow the function of this name in MriResearchTools.jl,
    used in Eckstein K, et al. Magn Reson Med 2018;79:2996-3006. doi:10.1002/mrm.26963
    """
    params = params or RobustMaskParameters()
    first = np.nan_to_num(magnitude[..., 0] if magnitude.ndim == 4 else magnitude)
    positive = first[first > 0]
    if positive.size == 0:
        raise ValueError("the magnitude has no positive voxel; there is nothing to mask")
    threshold = signal_threshold(positive, params)
    mask = morphology.open_(first > threshold, params.open_mm, grid.voxel_size_mm)
    mask = morphology.largest_component(mask)
    mask = morphology.close(mask, params.close_mm, grid.voxel_size_mm)
    return morphology.fill_holes(mask)


CAVITY_MM = 4.0
"""Dark gaps wider than twice this hold air; narrower ones are bone and vessels. By trial on 5 simulated heads."""


def without_cavities(
    mask: NDArray[np.bool_],
    magnitude: NDArray[np.float32],
    *,
    grid: Grid,
    params: RobustMaskParameters | None = None,
) -> NDArray[np.bool_]:
    """The mask of :func:`robust_mask` without wide cavities that it filled, such as sinuses closed on all sides.

    Parameters
    ----------
    mask : (x, y, z) bool
    magnitude : (x, y, z) float32
        Of the first echo, any unit, 0 or more. NaN counts as no signal.
    grid : Grid
        Voxel size.
    params : RobustMaskParameters, optional
        The threshold's settings.

    Returns
    -------
    (x, y, z) bool
    """
    positive = magnitude[magnitude > 0]
    if positive.size == 0:
        return mask
    dark = mask & ~(magnitude > signal_threshold(positive, params or RobustMaskParameters()))
    return mask & ~morphology.open_(dark, CAVITY_MM, grid.voxel_size_mm)


def signal_threshold(positive: NDArray[np.float32], params: RobustMaskParameters) -> float:
    """Magnitude above which a voxel has signal, from all positive magnitudes."""
    low, high, top = np.percentile(positive, (15, 80, 99))
    noise = float(positive[positive <= low].mean(dtype=np.float64))
    signal = float(positive[(positive >= high) & (positive <= top)].mean(dtype=np.float64))
    if params.noise_factor * noise > 0.5 * signal:  # the background was cut away: the low end is tissue
        return params.signal_fraction * signal
    return max(params.noise_factor * noise, params.signal_fraction * signal)
