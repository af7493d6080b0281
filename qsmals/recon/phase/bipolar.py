"""Whether every second echo was read out backwards, seen from the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.phase.mcpc3ds import even_odd_phase
from qsmals.recon.phase.smooth import block_sum, smooth_phase
from qsmals.recon.unwrap.romeo import check_echoes, valid_voxels

BLOCK_MM = 3.0
"""The echoes' phase differences are summed over blocks of this size: less noise, less work."""

SIGMA_MM = 7.0
"""Smoothing of the even-odd phase, as in its correction."""

THRESHOLD_RAD = 0.1
"""Even-odd phase above which a readout is called bipolar. At 3 T, with echoes every 5 ms, an uncorrected even-odd
phase of this median that is linear in space disturbs the field by some 8 ppb."""


@dataclass(frozen=True)
class BipolarCheck:
    """What the data say about the readout.

    Attributes
    ----------
    bipolar : bool
        The even echoes deviate from the odd ones by more than the threshold.
    even_odd_rad : float
        Median over the signal of the size of the smoothed phase of the even echoes beyond the odd ones, rad.
    """

    bipolar: bool
    even_odd_rad: float


def detect_bipolar(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    grid: Grid,
) -> BipolarCheck:
    """Look for a smooth phase that every second echo has and the others have not.

    Each triple of successive echoes gives the deviation of its middle one from the line through the others; with a
    bipolar readout its sign alternates from triple to triple, and the mean over the triples keeps just that. What
    bends the phase evolution (fat, several pools of water) keeps its sign and largely cancels with four or
    more echoes. A deviation of pi everywhere is the same as another field and is not seen; it needs no correction.

    Parameters
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped phase of three or more echoes, rad.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, any unit, 0 or more.
    te_s : (e,) float
        Echo times, s, positive and increasing.
    mask : (x, y, z) bool
        Voxels with signal.
    grid : Grid
        Voxel size.

    Returns
    -------
    BipolarCheck

    Raises
    ------
    ValueError
        Shapes do not fit, fewer than three echoes, or no voxel with signal.
    """
    te = check_echoes(phase_rad, magnitude, te_s, mask)
    if te.size < 3:
        raise ValueError(f"a bipolar readout shows from 3 echoes on; there are {te.size}")
    valid = valid_voxels(phase_rad, magnitude, mask)
    if not valid.any():
        raise ValueError("the mask has no voxel with finite phase and magnitude")
    evolution, size = _coarse_evolution(phase_rad, magnitude, valid, grid)
    strength = np.abs(evolution)
    inside = strength[..., 0] > 0
    angle = np.angle(evolution).astype(np.float32)
    total: NDArray[np.complex128] = np.zeros(inside.shape, dtype=np.complex128)
    for first in range(te.size - 2):
        excess = even_odd_phase(angle, magnitude=strength, te_s=te, mask=inside, first=first)
        weight = strength[..., first : first + 3].min(axis=3)
        total += weight * np.exp(1j * (excess if first % 2 == 0 else -excess))
    weight = np.abs(total).astype(np.float32)
    smooth = smooth_phase(np.angle(total).astype(np.float32), weight=weight, sigma_mm=SIGMA_MM, voxel_size_mm=size)
    even_odd = _weighted_median(np.abs(smooth), weight)
    return BipolarCheck(bipolar=even_odd > THRESHOLD_RAD, even_odd_rad=even_odd)


def _weighted_median(values: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    """Value with half of the weight below it."""
    order = np.argsort(values, axis=None)
    cumulated = np.cumsum(weight.ravel()[order], dtype=np.float64)
    return float(values.ravel()[order[np.searchsorted(cumulated, 0.5 * cumulated[-1])]])


def _coarse_evolution(
    phase_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    valid: NDArray[np.bool_],
    grid: Grid,
) -> tuple[NDArray[np.complex64], tuple[float, float, float]]:
    """Signal of every echo times the conjugate of the first one's phase, in blocks, and the blocks' edge lengths."""
    nx, ny, nz = (max(1, round(BLOCK_MM / size)) for size in grid.voxel_size_mm)
    echoes = []
    for echo in range(phase_rad.shape[3]):
        angle = np.where(valid, phase_rad[..., echo] - phase_rad[..., 0], np.float32(0))
        strength = valid.astype(np.float32) if magnitude is None else np.where(valid, magnitude[..., echo], 0)
        parts = [block_sum((strength * part(angle)).astype(np.float32), (nx, ny, nz)) for part in (np.cos, np.sin)]
        echoes.append(parts[0] + 1j * parts[1])
    x, y, z = grid.voxel_size_mm
    return np.stack(echoes, axis=-1).astype(np.complex64), (x * nx, y * ny, z * nz)
