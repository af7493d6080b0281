"""How many stored voxels make a measured one: scanners interpolate, and noise is then alike in neighbouring voxels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qsmals.recon.grid import bounding_box
from qsmals.recon.mask.morphology import depth_mm

Steps = tuple[int, int, int]
"""Stored voxels to a measured one along each axis, 1 or more."""

AS_STORED: Steps = (1, 1, 1)

BAND = (0.15, 0.45)
"""Shares of the highest frequency of the other axes between which the power along an axis is seen."""

WINDOW = 0.1
"""Share of the highest frequency over which power is averaged."""

DROP = 0.13
"""Power over that of lower frequencies, two windows away, below which a border was found. Anatomy and noise leave 0.19
and more (heads simulated at SNR 80 and 400, a real scan); zeros around k-space 0.01 to 0.09, 1.25 to 3 fold."""

FEWEST_FREQUENCIES = 32
"""Voxels along an axis that its spectrum needs."""

TAPER_MM = 8.0


def acquired_steps(
    magnitude: NDArray[np.float32],
    phase_rad: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    voxel_size_mm: Sequence[float],
) -> Steps:
    """Stored voxels to a measured one along each axis: 1, or more where images were interpolated or filtered.

    Scanners interpolate by zeros around the measured k-space, and noise is then alike in neighbouring voxels, so that
    their differences hide it. Seen in the complex signal of the brain, tapered towards its border: along an
    interpolated axis the power of the frequencies drops at the border of what was measured.

    Parameters
    ----------
    magnitude, phase_rad : (x, y, z) float32
        One echo; phase wrapped or not.
    mask : (x, y, z) bool
        The brain.
    voxel_size_mm : (3,) float
        Edge lengths.
    """
    if not mask.any():
        return AS_STORED
    box = bounding_box(mask, 0)
    x, y, z = (float(s) for s in voxel_size_mm)
    depth = np.clip((depth_mm(mask[box], (x, y, z)) - max(x, y, z)) / TAPER_MM, 0.0, 1.0).astype(np.float32)
    signal = np.exp(1j * np.nan_to_num(phase_rad[box]).astype(np.float32)).astype(np.complex64, copy=False)
    signal *= (0.5 - 0.5 * np.cos(np.float32(np.pi) * depth)) * np.nan_to_num(magnitude[box])
    power = np.abs(fft.fftn(signal, s=[fft.next_fast_len(n) for n in signal.shape], overwrite_x=True)) ** 2
    return _step(power, 0), _step(power, 1), _step(power, 2)


def _step(power: NDArray[np.float32], axis: int) -> int:
    """Voxels to a measured one along an axis, from the power of all frequencies."""
    if power.shape[axis] < FEWEST_FREQUENCIES:
        return 1
    frequency = [2 * np.abs(fft.fftfreq(n)) for n in power.shape]
    inner = [(k > BAND[0]) & (k < BAND[1]) if k.size >= FEWEST_FREQUENCIES else k >= 0 for k in frequency]
    others = [other for other in range(3) if other != axis]
    beside = np.ix_(*(inner[a] if a in others else np.arange(power.shape[a]) for a in range(3)))
    line = power[beside].mean(axis=tuple(others), dtype=np.float64)
    borders = np.arange(4 * WINDOW, 1.0 - WINDOW / 2, WINDOW / 2).tolist()
    drops = [_mean(line, frequency[axis], at) / _mean(line, frequency[axis], at - 2 * WINDOW) for at in borders]
    border = int(np.argmin(drops))
    return int(np.ceil(1.0 / (borders[border] - WINDOW / 2))) if drops[border] < DROP else 1


def _mean(line: NDArray[np.float64], frequency: NDArray[np.float64], start: float) -> float:
    """Mean power of a window."""
    inside = (frequency >= start) & (frequency <= start + WINDOW)
    return float(line[inside].mean()) + np.finfo(float).tiny
