"""Whether phase was scaled, unwrapped and fitted without fault."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.phase.wrap import wrap

LEAST_TESLA_SECONDS = 0.02
"""Field strength times echo time from which the phase of a brain covers a whole turn."""

LARGE_RESIDUAL_RAD = 0.5
"""Misfit of the echoes from which a voxel's field is in doubt."""

SURE = 5.0
"""Standard deviations of noise that half a turn must hold for a jump to be told from noise."""

ROUNDING = 1e-6
"""Share of an echo's weight that the line must leave free; less is rounding, where the other echoes are silent."""


@dataclass(frozen=True)
class Jumps:
    """Residual jumps of 2 pi in unwrapped phase.

    Attributes
    ----------
    voxels : (x, y, z) bool
        Voxels beside a jump, or with an echo, or all echoes from one on, more than half a turn off the line through
        the others.
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
    magnitude: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    te_s: Sequence[float],
    voxel_size_mm: Sequence[float],
    noise: float = 0.0,
) -> Jumps:
    """Steps of more than half a turn that unwrapping left, in space (first echo) and over the echoes.

    Parameters
    ----------
    unwrapped_rad, magnitude : (x, y, z, e) float32
        Unwrapped phase free of an offset, rad, and magnitude; what is not finite counts as 0.
    mask : (x, y, z) bool
        Where to look: voxels whose field is used.
    te_s : (e,) float
        Echo times, s.
    voxel_size_mm : (3,) float
        Edge lengths.
    noise : float
        Standard deviation of the magnitude's noise; voxels where it hides jumps over the echoes are not judged.
    """
    found = _steps(unwrapped_rad[..., int(np.argmin(te_s))], mask)
    for jump in echo_jumps(unwrapped_rad, magnitude, mask, te_s=te_s, noise=noise):
        found[mask] |= np.abs(jump) > np.pi
        if len(te_s) == 2:
            volume = np.full(mask.shape, np.nan, dtype=np.float32)
            volume[mask] = jump
            found |= _steps(volume, mask)
    n_inside = int(mask.sum())
    labelled, n_groups = ndimage.label(found, structure=np.ones((3, 3, 3)))
    if not n_groups:
        return Jumps(found, 0.0, 0.0, None)
    sizes = np.bincount(labelled.ravel())[1:]
    largest = int(np.argmax(sizes)) + 1
    x, y, z = (float(c) for c in np.argwhere(labelled == largest).mean(axis=0))
    volume_ml = float(sizes[largest - 1]) * float(np.prod(voxel_size_mm)) / 1000
    return Jumps(found, float(found.sum()) / max(n_inside, 1), volume_ml, (x, y, z))


def echo_jumps(
    unwrapped_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    te_s: Sequence[float],
    noise: float = 0.0,
) -> Iterator[NDArray[np.float32]]:
    """The jump of an echo, and of all echoes from one on, that fits best beside a line through zero, rad.

    For one echo alone this is its distance from the weighted line through the others, ``residual / (1 - leverage)``
    of the line through all. Errors of unwrapping also pass from an echo to the later ones, which then agree with one
    another and pull the line with them: for these the jump and the line are fitted together.

    Parameters
    ----------
    unwrapped_rad, magnitude : (x, y, z, e) float32
        See :func:`residual_jumps`.
    mask : (x, y, z) bool
        Where to look.
    te_s : (e,) float
        Echo times, s, in any order.
    noise : float
        Standard deviation of the magnitude's noise.

    Yields
    ------
    (n,) float32
        One value a voxel of the mask; NaN where half a turn is less than five standard deviations of its noise.

    Examples
    --------
    >>> phase = np.array([0.4, 1.2, 2.0 + 2 * np.pi], dtype=np.float32).reshape(1, 1, 1, 3)
    >>> inside = np.ones((1, 1, 1), dtype=bool)
    >>> jumps = echo_jumps(phase, np.ones_like(phase), inside, te_s=(0.004, 0.012, 0.02))
    >>> max(round(float(jump[0]) / np.pi, 3) for jump in jumps)
    2.0
    """
    order = sorted(range(len(te_s)), key=lambda echo: te_s[echo])
    if len(order) < 2:
        return

    def moments(echo: int) -> NDArray[np.float64]:
        """w, w t and w phase of an echo, computed anew rather than kept, for the memory."""
        w = np.nan_to_num(magnitude[..., echo][mask]).astype(np.float64) ** 2
        return np.stack([w, w * te_s[echo], w * np.nan_to_num(unwrapped_rad[..., echo][mask])])

    timed, information = np.zeros((2, int(mask.sum())))
    for echo in order:
        _, slope, phase = moments(echo)
        timed += te_s[echo] * phase
        information += te_s[echo] * slope
    later = np.zeros((3, timed.size))
    for place in range(len(order) - 1, -1, -1):
        own = moments(order[place])
        later += own
        yield _jump(own, timed, information, noise)
        if 0 < place < len(order) - 1:
            yield _jump(later, timed, information, noise)


def _jump(
    moments: NDArray[np.float64], timed: NDArray[np.float64], information: NDArray[np.float64], noise: float
) -> NDArray[np.float32]:
    """The jump of some echoes, fitted with the line; sums of w t phase and w t^2 are those of all echoes."""
    weight, slope, phase = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        free = weight - slope**2 / information
        jump = (phase - slope * timed / information) / free
    judged = (free > ROUNDING * weight) & (SURE * noise < np.pi * np.sqrt(np.maximum(free, 0.0)))
    return np.where(judged, jump, np.nan).astype(np.float32)


def _steps(volume: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask beside a step of more than half a turn to a neighbour in it."""
    found = np.zeros(mask.shape, dtype=bool)
    for axis in range(3):
        low = tuple(slice(-1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        step = (np.abs(volume[high] - volume[low]) > np.pi) & mask[high] & mask[low]
        found[high] |= step
        found[low] |= step
    return found


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
