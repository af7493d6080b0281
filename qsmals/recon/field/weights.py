"""Weights of a field, voxel by voxel, from its noise."""

import numpy as np
from numpy.typing import NDArray

LARGEST_WEIGHT = 3.0
"""Weight, in units of the median, beyond which a voxel does not count more: a few of exceptional signal must not
outweigh the rest."""


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
