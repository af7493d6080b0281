"""Log-linear fit: R2* as the slope of the logarithm of the magnitude, for echoes with any spacing."""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon.method import Method
from qsmals.recon.relaxometry.relaxation import (
    Relaxation,
    RelaxationBounds,
    amplitude,
    checked_echoes,
    noise_level,
    usable_echoes,
    without_floor,
)


@dataclass(frozen=True)
class LogLinearParameters(RelaxationBounds):
    """Settings of :func:`log_linear`."""


def log_linear(
    magnitude: NDArray[np.float32],
    *,
    te_s: NDArray[np.float64],
    mask: NDArray[np.bool_],
    params: LogLinearParameters | None = None,
) -> Relaxation:
    r"""R2*, T2* and S0 from a line through the logarithm of the magnitude, weighted by magnitude squared.

    Noise of standard deviation s changes the logarithm of a magnitude y by s / y, to first order. The weights y^2
    are therefore its inverse variance, and with them the line is the least-squares estimate,

    ``R2* = -sum w (TE - mean TE) (log y - mean log y) / sum w (TE - mean TE)^2``,

    with means over the same weights: exact for a single exponential without noise, whatever the echo times. The echoes
    from the first one below the noise floor on are left out. S0 is the least-squares amplitude at that rate.

    Parameters
    ----------
    magnitude : (x, y, z, e) float32
        Magnitude, any unit, two or more echoes. Voxels with NaN, or zero in the first two echoes, get 0; a later echo
        that is zero has no weight.
    te_s : (e,) float
        Echo times, s, increasing from above 0, with any spacing.
    mask : (x, y, z) bool
        Where to fit; outside it the last echo tells the noise.
    params : LogLinearParameters, optional
        Bounds.

    Returns
    -------
    Relaxation

    Raises
    ------
    ValueError
        One echo, shapes that differ, or times that do not increase.

    Examples
    --------
    >>> te_s = np.array([0.004, 0.009, 0.030])
    >>> magnitude = (100 * np.exp(-25 * te_s)).astype(np.float32).reshape(1, 1, 1, 3)
    >>> round(float(log_linear(magnitude, te_s=te_s, mask=np.ones((1, 1, 1), bool)).r2star_hz[0, 0, 0]), 3)
    25.0
    """
    params = params or LogLinearParameters()
    times = checked_echoes(magnitude, te_s, mask)
    noise = noise_level(magnitude, mask)
    voxels = np.ascontiguousarray(magnitude[mask], dtype=np.float32)
    fitted = _fit(voxels, times, noise, params.noise_factor * noise, params.r2star_min_hz, params.r2star_max_hz)
    maps = np.zeros((3, *mask.shape), dtype=np.float32)
    maps[:, mask] = fitted.T
    return Relaxation(maps[0], maps[1], maps[2], noise)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _fit(
    voxels: NDArray[np.float32],
    times: NDArray[np.float64],
    noise: float,
    floor: float,
    slowest: float,
    fastest: float,
) -> NDArray[np.float32]:
    """Rate, time and amplitude of every voxel."""
    result = np.zeros((voxels.shape[0], 3), dtype=np.float32)
    for v in prange(voxels.shape[0]):
        values = np.empty(times.size)
        if not without_floor(voxels[v], noise, values):
            continue
        count = usable_echoes(values, floor)
        rate = min(max(_rate(values, times, count), slowest), fastest)
        result[v, 0] = rate
        result[v, 1] = 1.0 / rate
        result[v, 2] = amplitude(values, times, rate, count)
    return result


@njit(cache=True)  # type: ignore[untyped-decorator]
def _rate(values: NDArray[np.float64], times: NDArray[np.float64], count: int) -> float:
    """Decay rate of the first ``count`` echoes, of which the first two are positive; not bounded."""
    total = 0.0
    time = 0.0
    level = 0.0
    for e in range(count):
        if values[e] > 0.0:
            # relative to the first echo, so that neither unit nor size of the magnitude costs digits
            weight = (values[e] / values[0]) ** 2
            total += weight
            time += weight * times[e]
            level += weight * np.log(values[e] / values[0])
    time /= total
    level /= total
    top = 0.0
    bottom = 0.0
    for e in range(count):
        if values[e] > 0.0:
            weight = (values[e] / values[0]) ** 2
            top -= weight * (times[e] - time) * (np.log(values[e] / values[0]) - level)
            bottom += weight * (times[e] - time) ** 2
    return top / bottom


LOG_LINEAR = Method(
    name="log-linear",
    title="Log-linear fit",
    function=log_linear,
    parameters=LogLinearParameters,
    sentence="R2* was computed as the slope of the logarithm of the magnitude over echo time, weighted by the squared "
    "magnitude, within {r2star_min_hz:g} to {r2star_max_hz:g} 1/s.",
    citations=(),
)
