"""Weights of a field, voxel by voxel, from its noise."""

import numpy as np
from numpy.typing import NDArray

LARGEST_WEIGHT = 3.0
"""Weight, in units of the median, beyond which a voxel does not count more: a few of exceptional signal must not
outweigh the rest."""

NOISY = 5.0
"""Noise, in units of the brain's median, from which a voxel tells little of the field."""


def inverse_noise(noise_ppm: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights for a field: one over its standard deviation, so scaled that their median in the mask is 1.

    Parameters
    ----------
    noise_ppm : (x, y, z) float32
        Standard deviation of the field, ppm. Zero, negative, infinite and NaN mean unknown.
    mask : (x, y, z) bool
        Where the field is used.

    Returns
    -------
    (x, y, z) float32
        0 outside the mask and where the noise is unknown, at most `LARGEST_WEIGHT`; 1 in the whole mask where no noise
        is known at all.

    Raises
    ------
    ValueError
        Shapes differ.

    Examples
    --------
    >>> noise = np.array([[[0.01, 0.02, 0.04, np.inf]]], dtype=np.float32)
    >>> inverse_noise(noise, np.ones((1, 1, 4), dtype=bool)).tolist()
    [[[2.0, 1.0, 0.5, 0.0]]]
    """
    if noise_ppm.shape != mask.shape:
        raise ValueError(f"the noise has shape {noise_ppm.shape}, the mask {mask.shape}")
    known = mask & np.isfinite(noise_ppm) & (noise_ppm > 0)
    if not known.any():
        return mask.astype(np.float32)
    weights = np.zeros(mask.shape, dtype=np.float32)
    weights[known] = np.minimum(np.float32(np.median(noise_ppm[known])) / noise_ppm[known], LARGEST_WEIGHT)
    return weights


def noisy_share(noise_ppm: NDArray[np.float32], mask: NDArray[np.bool_], brain: NDArray[np.bool_]) -> float:
    """Part of a mask whose field has more than `NOISY` times the brain's median noise, or one that is unknown.

    Parameters
    ----------
    noise_ppm : (x, y, z) float32
        Standard deviation of the field, ppm. Zero, negative, infinite and NaN mean unknown.
    mask, brain : (x, y, z) bool
        Where the field is used, and the brain.

    Returns
    -------
    float
        0..1; 0 where no noise of the brain is known.

    Examples
    --------
    >>> noise = np.array([[[0.01, 0.02, 0.04, 0.2, np.inf]]], dtype=np.float32)
    >>> noisy_share(noise, np.ones((1, 1, 5), dtype=bool), noise < 0.1)
    0.4
    """
    known = np.isfinite(noise_ppm) & (noise_ppm > 0)
    if not (known & brain).any():
        return 0.0
    quiet = known & (noise_ppm <= NOISY * np.median(noise_ppm[known & brain]))
    return float(1.0 - np.count_nonzero(quiet & mask) / np.count_nonzero(mask))
