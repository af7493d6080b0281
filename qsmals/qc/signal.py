"""Signal, noise and ghosts of a multi-echo gradient-echo scan."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.field.weighted import MAD_TO_SD, detail_noise

HEAD_FRACTION = 0.2
"""Signal above this share of the brain's median belongs to the head."""

AIR_MARGIN_MM = 10.0
FEWEST_AIR = 200
"""Voxels that a mean of the air needs."""

CLEARLY_NOISIER = 3.0
"""Phase noise over another echo's that decay alone does not reach in a usable scan."""

RAYLEIGH_MEDIAN = float(np.sqrt(2 * np.log(2)))
AIR_LIMIT = 4.3
"""Standard deviations that pure noise in air exceeds in one voxel of ten thousand."""


def snr_of_echoes(magnitude: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Median magnitude of the brain over the noise in it, for each echo.

    The noise is that of the finest diagonal detail, see :func:`qsmals.recon.field.weighted.detail_noise`: no air is
    needed, which scanners often blank.

    Parameters
    ----------
    magnitude : (x, y, z, e) float32
        Any unit.
    mask : (x, y, z) bool
        The brain.

    Returns
    -------
    (e,) float64
        0 for an echo without signal, infinite for one without noise.

    Raises
    ------
    ValueError
        No cube of 2x2x2 voxels lies inside the mask.
    """
    levels = echo_levels(magnitude, mask)
    noise = np.array([detail_noise(magnitude[..., echo], mask) for echo in range(magnitude.shape[3])])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(levels > 0, levels / noise, 0.0)


def echo_levels(magnitude: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Median magnitude of the brain at each echo, (e,)."""
    return np.array([float(np.median(np.nan_to_num(magnitude[..., e])[mask])) for e in range(magnitude.shape[3])])


def echo_share(levels: NDArray[np.float64], te_s: Sequence[float]) -> NDArray[np.float64]:
    """Signal of each echo over what the exponential decay of the others predicts.

    Parameters
    ----------
    levels : (e,) float64
        From :func:`echo_levels`.
    te_s : (e,) float
        Echo times, s.

    Returns
    -------
    (e,) float64
        1 for a decay without fault; NaN with fewer than three echoes.

    Examples
    --------
    >>> np.round(echo_share(np.array([80.0, 40.0, 2.0, 10.0]), (0.01, 0.02, 0.03, 0.04)), 2)[2]
    np.float64(0.1)
    """
    times, n = np.asarray(te_s, dtype=float), levels.size
    share = np.full(n, np.nan)
    if n < 3:
        return share
    floor = max(float(levels.max()), np.finfo(float).tiny) * 1e-6
    logs = np.log(np.maximum(levels, floor))
    for echo in range(n):
        others = np.arange(n) != echo
        slope, start = np.polyfit(times[others], logs[others], 1)
        share[echo] = np.exp(logs[echo] - (start + slope * times[echo]))
    return share


def weakest_echo(share: NDArray[np.float64], noise_rad: NDArray[np.float64]) -> str:
    """Number of the echo whose signal does not follow that of the others, from 1.

    Three echoes bend one way whether the first or the last is weak: the noisier of the two is named, or both where
    their noise does not differ.

    Parameters
    ----------
    share, noise_rad : (e,) float64
        From :func:`echo_share` and :func:`phase_noise`.

    Examples
    --------
    >>> weakest_echo(np.array([0.1, 3.0, 0.1]), np.array([0.8, 0.03, 0.05]))
    '1'
    >>> weakest_echo(np.array([0.1, 3.0, 0.1]), np.full(3, np.nan))
    '1 or 3'
    """
    weakest = int(np.nanargmin(share))
    if share.size != 3 or weakest == 1:
        return str(weakest + 1)
    quieter, noisier = sorted((0, 2), key=lambda echo: noise_rad[echo])
    return str(noisier + 1) if noise_rad[noisier] > CLEARLY_NOISIER * noise_rad[quieter] else "1 or 3"


def phase_noise(phase_rad: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Standard deviation of the phase, rad, for each echo, from differences along three axes at once.

    Wraps do not matter, nor does a field that changes linearly or quadratically along the axes. Phase without any
    information gives about 0.8 rad.

    Parameters
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped or unwrapped.
    mask : (x, y, z) bool
        Where to look.

    Returns
    -------
    (e,) float64
        NaN where no cube of 2x2x2 voxels lies inside the mask.
    """
    inside, gain = mask, 1.0
    axes = [axis for axis in range(3) if mask.shape[axis] > 1]
    for axis in axes:
        low, high = _neighbours(axis)
        inside, gain = inside[low] & inside[high], gain * np.sqrt(2.0)
    if not inside.any():
        return np.full(phase_rad.shape[3], np.nan)
    noise = []
    for echo in range(phase_rad.shape[3]):
        signal = np.exp(1j * np.nan_to_num(phase_rad[..., echo])).astype(np.complex64)
        for axis in axes:
            low, high = _neighbours(axis)
            signal = signal[high] * np.conj(signal[low])
        noise.append(MAD_TO_SD * float(np.median(np.abs(np.angle(signal[inside])))) / gain)
    return np.array(noise)


def _neighbours(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    low = tuple(slice(-1) if a == axis else slice(None) for a in range(3))
    high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    return low, high


def ghosting(
    magnitude: NDArray[np.float32], brain: NDArray[np.bool_], *, voxel_size_mm: Sequence[float]
) -> tuple[float, float]:
    """Hints of ghosts and motion in the air around the head.

    Ghosts and smeared motion lie beside the head along the axis that is encoded by phase; corners of the image, beside
    the head along no axis, hold noise alone. The idea is that of the ghost to signal ratio of Giannelli et al. 2010
    (J Appl Clin Med Phys 11:170, doi:10.1120/jacmp.v11i4.3237); all axes are tried, because the sidecars often do not
    say which it is.

    Parameters
    ----------
    magnitude : (x, y, z) float32
        One echo.
    brain : (x, y, z) bool
        The brain.
    voxel_size_mm : (3,) float
        Edge lengths.

    Returns
    -------
    ghost_share : float
        Largest, over the axes, of mean air beside the head minus mean air in the corners, over the brain's median.
        NaN where the air is blank or too little.
    air_outliers : float
        Share of the air's voxels that pure noise would exceed once in ten thousand; NaN likewise.
    """
    level = float(np.median(magnitude[brain])) if brain.any() else 0.0
    if level <= 0:
        return float("nan"), float("nan")
    head = ndimage.binary_opening(magnitude > HEAD_FRACTION * level) | brain
    distance = ndimage.distance_transform_edt(~head, sampling=voxel_size_mm)
    air = np.asarray(distance) > AIR_MARGIN_MM
    beside = [np.broadcast_to(head.any(axis=axis, keepdims=True), head.shape) for axis in range(3)]
    corner = air & ~(beside[0] | beside[1] | beside[2])
    if corner.sum() < FEWEST_AIR:  # a slab fills its field of view along one axis: corners of its plane
        pair = sorted(range(3), key=lambda axis: int((air & beside[axis]).sum()))[:2]
        corner = air & ~(beside[pair[0]] | beside[pair[1]])
    if corner.sum() < FEWEST_AIR or float(np.median(magnitude[air])) <= 0:
        return float("nan"), float("nan")
    quiet = float(magnitude[corner].mean(dtype=np.float64))
    shares = []
    for axis in range(3):
        others = [beside[other] for other in range(3) if other != axis]
        place = air & beside[axis] & ~(others[0] | others[1])
        if place.sum() >= FEWEST_AIR:
            shares.append((float(magnitude[place].mean(dtype=np.float64)) - quiet) / level)
    sigma = float(np.median(magnitude[corner])) / RAYLEIGH_MEDIAN
    outliers = float((magnitude[air] > AIR_LIMIT * sigma).mean()) if sigma > 0 else float("nan")
    return (max(shares) if shares else float("nan")), outliers
