"""What every relaxometry method returns, and the checks and the noise level that they share."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

RAYLEIGH_2_5 = float(np.sqrt(-2.0 * np.log(1.0 - 0.025)))
RAYLEIGH_10 = float(np.sqrt(-2.0 * np.log(1.0 - 0.1)))
FEWEST_NOISE_VOXELS = 1000


@dataclass(frozen=True)
class RelaxationBounds:
    """Limits that every relaxometry method keeps."""

    r2star_min_hz: float = field(default=0.5, metadata={"unit": "1/s", "source": "CSF at 1.5 to 7 T"})
    r2star_max_hz: float = field(default=1000.0, metadata={"unit": "1/s", "source": "faster decay than one echo"})
    noise_factor: float = field(
        default=2.0, metadata={"unit": "multiple of the noise", "source": "below it the magnitude is noise"}
    )


@dataclass(frozen=True)
class Relaxation:
    """Decay of the magnitude.

    Attributes
    ----------
    r2star_hz : (x, y, z) float32
        Decay rate within the bounds, 1/s; 0 outside the mask and where the magnitude is zero or not finite.
    t2star_s : (x, y, z) float32
        1 / r2star_hz, s; 0 where that is 0.
    s0 : (x, y, z) float32
        Magnitude extrapolated to TE = 0, its unit; 0 where r2star_hz is 0.
    noise : float
        Standard deviation of the noise in each channel, the magnitude's unit; 0 if there was no background.
    """

    r2star_hz: NDArray[np.float32]
    t2star_s: NDArray[np.float32]
    s0: NDArray[np.float32]
    noise: float


def checked_echoes(
    magnitude: NDArray[np.float32], te_s: NDArray[np.float64], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Echo times as float64.

    Raises
    ------
    ValueError
        Shapes differ, fewer than two echoes, or times that do not increase from above 0.
    """
    times = np.asarray(te_s, dtype=np.float64)
    if magnitude.ndim != 4 or magnitude.shape[:3] != mask.shape or times.shape != magnitude.shape[3:]:
        raise ValueError(f"magnitude {magnitude.shape} does not fit the mask {mask.shape} and {times.size} echo times")
    if times.size < 2:
        raise ValueError("relaxometry needs at least two echoes")
    if times[0] <= 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"echo times must increase from above 0, not {times.tolist()} s")
    return times


def noise_level(magnitude: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Standard deviation of the noise from the background of the last echo.

    Background magnitudes follow a Rayleigh distribution. Its scale comes from the 10th percentile outside the mask;
    where the 2.5th percentile does not fit it (no air in the field of view, or a background set to zero) the
    answer is 0, which switches the treatment of the noise floor off.

    Parameters
    ----------
    magnitude : (x, y, z, e) float32
        Magnitude.
    mask : (x, y, z) bool
        The tissue.

    Returns
    -------
    float
        In the magnitude's unit, 0 or more.
    """
    background = magnitude[..., -1][~mask]
    background = background[np.isfinite(background) & (background > 0)]
    if background.size < FEWEST_NOISE_VOXELS:
        return 0.0
    low, high = (float(v) for v in np.percentile(background, (2.5, 10.0)))
    expected = RAYLEIGH_10 / RAYLEIGH_2_5
    if not 0.8 * expected <= high / low <= 1.25 * expected:
        return 0.0
    return high / RAYLEIGH_10


@njit(cache=True)  # type: ignore[untyped-decorator]
def without_floor(echoes: NDArray[np.float32], noise: float, result: NDArray[np.float64]) -> bool:
    """Magnitudes without the power of the noise; whether all are finite and the first two positive."""
    for e in range(echoes.size):
        value = np.float64(echoes[e])
        if not np.isfinite(value):
            return False
        result[e] = np.sqrt(max(value * value - 2.0 * noise * noise, 0.0))
    return bool(result[0] > 0.0 and result[1] > 0.0)


@njit(cache=True)  # type: ignore[untyped-decorator]
def amplitude(values: NDArray[np.float64], times: NDArray[np.float64], rate: float, count: int) -> float:
    """Least-squares amplitude at TE = 0 of ``count`` echoes that decay with ``rate``."""
    top = 0.0
    bottom = 0.0
    for e in range(count):
        decay = np.exp(-rate * (times[e] - times[0]))
        top += values[e] * decay
        bottom += decay * decay
    return float(top / bottom * np.exp(rate * times[0]))


@njit(cache=True)  # type: ignore[untyped-decorator]
def usable_echoes(values: NDArray[np.float64], floor: float) -> int:
    """Echoes before the first one below the noise floor, two at least."""
    count = values.size
    for e in range(values.size - 1, 1, -1):
        if values[e] < floor:
            count = e
    return count
