"""ARLO: R2* by auto-regression on linear operations, without iterations."""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from qsmals.recon.method import Citation, Method
from qsmals.recon.relaxometry.relaxation import (
    Relaxation,
    RelaxationBounds,
    amplitude,
    checked_echoes,
    noise_level,
    usable_echoes,
    without_floor,
)

UNEVEN = 2.0 * (1.0 - 1e-6)
"""Ratio of neighbouring echo spacings from which Simpson's rule has negative coefficients, less rounding."""


@dataclass(frozen=True)
class ArloParameters(RelaxationBounds):
    """Settings of :func:`arlo`."""


def arlo(
    magnitude: NDArray[np.float32],
    *,
    te_s: NDArray[np.float64],
    mask: NDArray[np.bool_],
    params: ArloParameters | None = None,
) -> Relaxation:
    r"""R2*, T2* and S0 by ARLO.

    The integral of an exponential over two echo spacings is T2* times the difference of its ends, and by
    Simpson's rule also a sum of three echoes. With S_i that sum, d_i the difference and c = dTE / 3,

    ``T2* = (sum S^2 + c sum S d) / (c sum d^2 + sum S d)``.

    For uneven echoes Simpson's rule with two spacings h and g takes its place, ``S_i = (h + g) / 6 * ((2 - g / h) y_i
    + (h + g)^2 / (h g) y_i+1 + (2 - h / g) y_i+2)``, and c its last coefficient: the formula is the
    estimate of S = T2* d with the instrument S + c d, which c frees of the noisiest of the three echoes.
    Simpson's rule underestimates rates that are fast against the spacing: by 0.1 % at 100 1/s and 6 ms, and
    no rate above 3 / dTE comes out.
    Triples end before the first echo below the noise floor; with two (usable) echoes the rate is the
    logarithm of their ratio over their spacing. S0 is the least-squares amplitude at that rate.

    Parameters
    ----------
    magnitude : (x, y, z, e) float32
        Magnitude, any unit, two or more echoes. Voxels with NaN, or zero in the first two echoes, get 0.
    te_s : (e,) float
        Echo times, s, increasing; the spacing may vary by less than a factor of 2 from one to the next.
    mask : (x, y, z) bool
        Where to fit; outside it the last echo tells the noise.
    params : ArloParameters, optional
        Bounds.

    Returns
    -------
    Relaxation

    Raises
    ------
    ValueError
        One echo, shapes that differ, times that do not increase, or spacings too uneven.

    References
    ----------
    Pei M, et al. Magn Reson Med 2015;73:843-850. doi:10.1002/mrm.25137
    """
    params = params or ArloParameters()
    times = checked_echoes(magnitude, te_s, mask)
    coefficients = simpson_coefficients(times)
    noise = noise_level(magnitude, mask)
    voxels = np.ascontiguousarray(magnitude[mask], dtype=np.float32)
    limits = (params.r2star_min_hz, params.r2star_max_hz)
    fitted = _fit(voxels, times, coefficients, noise, params.noise_factor * noise, *limits)
    maps = np.zeros((3, *mask.shape), dtype=np.float32)
    maps[:, mask] = fitted.T
    return Relaxation(maps[0], maps[1], maps[2], noise)


def spacing_allows_arlo(te_s: ArrayLike) -> bool:
    """Whether neighbouring echo spacings differ by less than a factor of 2, as ARLO needs.

    Parameters
    ----------
    te_s : (e,) float
        Echo times, s, increasing.

    Examples
    --------
    >>> spacing_allows_arlo([0.005, 0.010, 0.019]), spacing_allows_arlo([0.005, 0.010, 0.020])
    (True, False)
    """
    spacing = np.diff(np.asarray(te_s, dtype=np.float64))
    h, g = spacing[:-1], spacing[1:]
    # echo times are written with rounding, and a ratio of 2 up to that is no less than 2
    return not bool(((h > UNEVEN * g) | (g > UNEVEN * h)).any())


def simpson_coefficients(te_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of each three consecutive echoes in the integral over them, s; shape (e - 2, 3).

    Raises
    ------
    ValueError
        Neighbouring spacings differ by a factor of 2 or more, where the rule turns negative.

    Examples
    --------
    >>> simpson_coefficients(np.array([1.0, 4.0, 7.0])).tolist()
    [[1.0, 4.0, 1.0]]
    """
    spacing = np.diff(te_s)
    if not spacing_allows_arlo(te_s):
        raise ValueError(f"ARLO needs nearly even echo spacings, not {spacing.tolist()} s; use the log-linear fit")
    h, g = spacing[:-1], spacing[1:]
    rule = np.stack([2 - g / h, (h + g) ** 2 / (h * g), 2 - h / g], axis=1)
    return np.asarray((h + g)[:, None] / 6 * rule)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _fit(
    voxels: NDArray[np.float32],
    times: NDArray[np.float64],
    coefficients: NDArray[np.float64],
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
        rate = _rate(values, times, coefficients, count)
        rate = min(max(rate, slowest), fastest)
        result[v, 0] = rate
        result[v, 1] = 1.0 / rate
        result[v, 2] = amplitude(values, times, rate, count)
    return result


@njit(cache=True)  # type: ignore[untyped-decorator]
def _rate(
    values: NDArray[np.float64], times: NDArray[np.float64], coefficients: NDArray[np.float64], count: int
) -> float:
    """Decay rate of the first ``count`` echoes; not bounded."""
    if count == 2:
        return float(np.log(values[0] / values[1]) / (times[1] - times[0]))
    top = 0.0
    bottom = 0.0
    for i in range(count - 2):
        a, b, c = coefficients[i]
        integral = a * values[i] + b * values[i + 1] + c * values[i + 2]
        difference = values[i] - values[i + 2]
        instrument = integral + c * difference
        top += instrument * integral
        bottom += instrument * difference
    return bottom / top


ARLO = Method(
    name="arlo",
    title="ARLO",
    function=arlo,
    parameters=ArloParameters,
    sentence="R2* was computed by auto-regression on linear operations (ARLO), within {r2star_min_hz:g} to "
    "{r2star_max_hz:g} 1/s.",
    citations=(
        Citation(
            key="pei2015",
            authors="Pei M, Nguyen TD, Thimmappa ND, Salustri C, Dong F, Cooper MA, Li J, Prince MR, Wang Y",
            title="Algorithm for fast monoexponential fitting based on auto-regression on linear operations (ARLO) "
            "of data",
            journal="Magnetic Resonance in Medicine 73:843-850",
            year=2015,
            doi="10.1002/mrm.25137",
        ),
    ),
)
