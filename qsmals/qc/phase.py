"""Whether phase was scaled, unwrapped and fitted without fault."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.phase.wrap import wrap

LEAST_TESLA_SECONDS = 0.02
"""Field strength times echo time from which the phase of a brain covers a whole turn."""

LARGE_RESIDUAL_RAD = 0.5
"""Misfit of the echoes from which a voxel's field is in doubt."""


@dataclass(frozen=True)
class Jumps:
    """Residual jumps of 2 pi in unwrapped phase.

    Attributes
    ----------
    voxels : (x, y, z) bool
        Voxels beside a jump, or with an echo that is more than half a turn off the line through the others.
    share : float
        Of the mask.
    cluster_ml : float
        Volume of the largest connected group of them.
    cluster_voxel : tuple of float or None
        Centre of that group, voxel coordinates.
    """

    voxels: NDArray[np.bool_]
    share: float
    cluster_ml: float
    cluster_voxel: tuple[float, float, float] | None


def phase_span(
    phase_rad: NDArray[np.float32], mask: NDArray[np.bool_], *, te_s: Sequence[float], b0_tesla: float
) -> float:
    """Share of a turn that the wrapped phase of the last echo covers in the brain.

    The field of a brain spans several turns at a usual last echo, so that a right scale gives 1. Less means
    that the stored numbers were taken for smaller angles than they are.

    Parameters
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped phase as scaled, before anything was subtracted, rad.
    mask : (x, y, z) bool
        The brain.
    te_s : (e,) float
        Echo times, s.
    b0_tesla : float
        Field strength, T.

    Returns
    -------
    float
        0 to 1; NaN where echo time and field strength are too small to tell, or the mask is empty.
    """
    if max(te_s) * b0_tesla < LEAST_TESLA_SECONDS or not mask.any():
        return float("nan")
    values = phase_rad[..., int(np.argmax(te_s))][mask]
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.0005, 0.9995]) if values.size else (0.0, 0.0)
    return float(high - low) / (2 * np.pi)


def echo_rate(
    unwrapped_rad: NDArray[np.float32], magnitude: NDArray[np.float32], te_s: Sequence[float]
) -> NDArray[np.float64]:
    """Phase per time, rad/s, weighted by magnitude^2 TE^2; 0 where no echo has signal."""
    total, information = np.zeros(unwrapped_rad.shape[:3]), np.zeros(unwrapped_rad.shape[:3])
    for echo, time in enumerate(te_s):
        weight = np.nan_to_num(magnitude[..., echo]).astype(np.float64) ** 2 * time
        total += weight * np.nan_to_num(unwrapped_rad[..., echo])
        information += weight * time
    return np.divide(total, information, out=np.zeros_like(total), where=information > 0)


def residual_jumps(
    unwrapped_rad: NDArray[np.float32],
    rate: NDArray[np.float64],
    mask: NDArray[np.bool_],
    *,
    te_s: Sequence[float],
    voxel_size_mm: Sequence[float],
) -> Jumps:
    """Steps of more than half a turn that unwrapping left, in space (first echo) and over the echoes.

    Parameters
    ----------
    unwrapped_rad : (x, y, z, e) float32
        Unwrapped phase, rad.
    rate : (x, y, z) float64
        From :func:`echo_rate`, rad/s.
    mask : (x, y, z) bool
        Where to look: voxels whose field is used.
    te_s : (e,) float
        Echo times, s.
    voxel_size_mm : (3,) float
        Edge lengths.
    """
    found = np.zeros(mask.shape, dtype=bool)
    first = unwrapped_rad[..., int(np.argmin(te_s))]
    for axis in range(3):
        low = tuple(slice(-1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        step = (np.abs(first[high] - first[low]) > np.pi) & mask[high] & mask[low]
        found[high] |= step
        found[low] |= step
    if len(te_s) > 1:
        for echo, time in enumerate(te_s):
            found |= (np.abs(unwrapped_rad[..., echo] - time * rate) > np.pi) & mask
    n_inside = int(mask.sum())
    labelled, n_groups = ndimage.label(found, structure=np.ones((3, 3, 3)))
    if not n_groups:
        return Jumps(found, 0.0, 0.0, None)
    sizes = np.bincount(labelled.ravel())[1:]
    largest = int(np.argmax(sizes)) + 1
    x, y, z = (float(c) for c in np.argwhere(labelled == largest).mean(axis=0))
    volume = float(sizes[largest - 1]) * float(np.prod(voxel_size_mm)) / 1000
    return Jumps(found, float(found.sum()) / max(n_inside, 1), volume, (x, y, z))


def fit_residual(
    unwrapped_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    rate: NDArray[np.float64],
    mask: NDArray[np.bool_],
    *,
    te_s: Sequence[float],
) -> tuple[float, float]:
    """How far the echoes' phases lie from one line through zero, whole turns aside.

    Parameters
    ----------
    unwrapped_rad, magnitude : (x, y, z, e) float32
        Phase free of an offset, rad, and magnitude.
    rate : (x, y, z) float64
        From :func:`echo_rate`, rad/s.
    mask : (x, y, z) bool
        The brain.
    te_s : (e,) float
        Echo times, s.

    Returns
    -------
    median_rad : float
        Median over the brain of a voxel's root mean square residual, weighted by magnitude squared, rad.
    large_share : float
        Share of the brain's voxels with more than 0.5 rad.

    Both are NaN with one echo.
    """
    if len(te_s) < 2 or not mask.any():
        return float("nan"), float("nan")
    squares, weights = np.zeros(int(mask.sum())), np.zeros(int(mask.sum()))
    slope = rate[mask]
    for echo, time in enumerate(te_s):
        weight = np.nan_to_num(magnitude[..., echo][mask]).astype(np.float64) ** 2
        misfit = wrap((np.nan_to_num(unwrapped_rad[..., echo][mask]) - time * slope).astype(np.float32))
        squares += weight * misfit.astype(np.float64) ** 2
        weights += weight
    rms = np.sqrt(squares / np.maximum(weights, np.finfo(float).tiny))
    return float(np.median(rms)), float((rms > LARGE_RESIDUAL_RAD).mean())
