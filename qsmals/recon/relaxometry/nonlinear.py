"""Nonlinear fit: R2* and S0 with the least squared misfit of the magnitude itself, for echoes with any spacing."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon.method import Citation, Method
from qsmals.recon.relaxometry.loglinear import LogLinearParameters, log_linear
from qsmals.recon.relaxometry.relaxation import Relaxation, RelaxationBounds, usable_echoes, without_floor

RAYLEIGH_EXCESS = np.pi / 2.0 - 1.0
"""Squared mean of pure noise over its variance per channel, less the 1 that a strong signal gains."""

RAYLEIGH_REACH = 4.874
"""Squared signal-to-noise ratio over which that excess fades; the value with the least largest error."""

FIRST_DAMPING = 1e-4


@dataclass(frozen=True)
class NonlinearParameters(RelaxationBounds):
    """Settings of :func:`nonlinear`.

    Attributes
    ----------
    noise_floor : str
        ``subtracted`` takes the power of the noise off the magnitudes and leaves out the echoes from the first one
        below `noise_factor` on, as the other methods do. ``modelled`` fits the mean that noise gives a magnitude
        (Rice's distribution) to all echoes as they were measured. Without a background that tells the noise the two are
        the same.
    tolerance : float
        The fit of a voxel ends when a step changes no fitted magnitude by more than this fraction of the first one.
    max_iterations : int
        Most Levenberg-Marquardt steps in a voxel; three or four are usual.
    """

    noise_floor: str = field(
        default="subtracted", metadata={"unit": "subtracted or modelled", "source": "as ARLO and the log-linear fit"}
    )
    tolerance: float = field(default=1e-6, metadata={"unit": "relative change", "source": "resolution of float32"})
    max_iterations: int = field(default=50, metadata={"unit": "iterations", "source": "design choice"})

    def __post_init__(self) -> None:
        if self.noise_floor not in ("subtracted", "modelled"):
            raise ValueError(f"the noise floor is subtracted or modelled, not {self.noise_floor}")
        if not self.tolerance > 0 or self.max_iterations < 1:
            raise ValueError(f"the nonlinear fit needs a positive tolerance and an iteration at least, not {self}")


def nonlinear(
    magnitude: NDArray[np.float32],
    *,
    te_s: NDArray[np.float64],
    mask: NDArray[np.bool_],
    params: NonlinearParameters | None = None,
) -> Relaxation:
    r"""R2*, T2* and S0 with the least ``sum (y - S0 exp(-TE R2*))^2`` over the echoes.

    Levenberg-Marquardt's steps start from the log-linear fit. To first order in the noise the two agree; to second
    order the log-linear fit, whose weights follow the noise, underestimates R2* several times as much, and so
    scatters a little less. At a bound of R2*, S0 is the least-squares amplitude there.

    With the noise floor modelled, y is fitted by the mean of a magnitude with signal s and noise n in each channel,
    ``sqrt(s^2 + n^2 (1 + (pi/2 - 1) / (1 + s^2 / (4.874 n^2))^2))``: exact for pure noise and strong
    signals, within 0.2 % of n in between.

    Parameters
    ----------
    magnitude : (x, y, z, e) float32
        Magnitude, any unit, two or more echoes. Voxels with NaN, or zero or nothing but noise in the first two echoes,
        get 0; a later echo that is zero has no weight.
    te_s : (e,) float
        Echo times, s, increasing from above 0, with any spacing.
    mask : (x, y, z) bool
        Where to fit; outside it the last echo tells the noise.
    params : NonlinearParameters, optional
        Bounds, noise floor and when to stop.

    Returns
    -------
    Relaxation

    Raises
    ------
    ValueError
        One echo, shapes that differ, or times that do not increase.

    References
    ----------
    Marquardt DW. J Soc Ind Appl Math 1963;11:431-441. doi:10.1137/0111030
    Gudbjartsson H, Patz S. Magn Reson Med 1995;34:910-914. doi:10.1002/mrm.1910340618

    Examples
    --------
    >>> te_s = np.array([0.004, 0.009, 0.030])
    >>> magnitude = (100 * np.exp(-25 * te_s)).astype(np.float32).reshape(1, 1, 1, 3)
    >>> round(float(nonlinear(magnitude, te_s=te_s, mask=np.ones((1, 1, 1), bool)).r2star_hz[0, 0, 0]), 3)
    25.0
    """
    params = params or NonlinearParameters()
    bounds = (params.r2star_min_hz, params.r2star_max_hz)
    start = log_linear(magnitude, te_s=te_s, mask=mask, params=LogLinearParameters(*bounds, params.noise_factor))
    fitted = _fit(
        np.ascontiguousarray(magnitude[mask], dtype=np.float32),
        np.asarray(te_s, dtype=np.float64),
        start.r2star_hz[mask],
        start.s0[mask],
        start.noise,
        params.noise_factor * start.noise,
        params.noise_floor == "modelled",
        *bounds,
        params.tolerance,
        params.max_iterations,
    )
    maps = np.zeros((3, *mask.shape), dtype=np.float32)
    maps[:, mask] = fitted.T
    return Relaxation(maps[0], maps[1], maps[2], start.noise)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _fit(
    voxels: NDArray[np.float32],
    times: NDArray[np.float64],
    rates: NDArray[np.float32],
    amplitudes: NDArray[np.float32],
    noise: float,
    floor: float,
    modelled: bool,
    slowest: float,
    fastest: float,
    tolerance: float,
    max_iterations: int,
) -> NDArray[np.float32]:
    """Rate, time and amplitude of every voxel, from the given rates and amplitudes on."""
    result = np.zeros((voxels.shape[0], 3), dtype=np.float32)
    for v in prange(voxels.shape[0]):
        values = np.empty(times.size)
        if not without_floor(voxels[v], noise, values):
            continue
        count = usable_echoes(values, floor)
        if modelled:
            values[:] = voxels[v]
            count = times.size
        # relative to the first echo: the two unknowns are of order 1 and hardly depend on each other
        first = values[0]
        lags = np.empty(count)
        kept = 0
        for e in range(count):
            if values[e] > 0.0:
                values[kept] = values[e] / first
                lags[kept] = times[e] - times[0]
                kept += 1
        rate = min(max(float(rates[v]), slowest), fastest)
        level = float(amplitudes[v] * np.exp(-rate * times[0]) / first)
        spread = noise / first if modelled else 0.0
        rate, level = _descend(
            values[:kept], lags[:kept], spread, rate, level, slowest, fastest, tolerance, max_iterations
        )
        result[v, 0] = rate
        result[v, 1] = 1.0 / rate
        result[v, 2] = level * first * np.exp(rate * times[0])
    return result


@njit(cache=True)  # type: ignore[untyped-decorator]
def _descend(
    values: NDArray[np.float64],
    lags: NDArray[np.float64],
    noise: float,
    rate: float,
    level: float,
    slowest: float,
    fastest: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[float, float]:
    """Rate within its bounds and level at lag 0 with the least squared misfit, by Levenberg and Marquardt's steps."""
    here = np.empty(5)
    there = np.empty(5)
    misfit = _linearise(values, lags, noise, rate, level, here)
    damping = FIRST_DAMPING
    for _ in range(max_iterations):
        slope_level, slope_rate, level_level, level_rate, rate_rate = here
        held = (rate <= slowest and slope_rate < 0.0) or (rate >= fastest and slope_rate > 0.0)
        pull = 0.0 if held else slope_rate
        coupling = 0.0 if held else level_rate
        a = level_level * (1.0 + damping)
        b = rate_rate * (1.0 + damping)
        determinant = a * b - coupling * coupling
        if not determinant > 0.0:
            break
        new_level = max(level + (b * slope_level - coupling * pull) / determinant, 0.0)
        new_rate = min(max(rate + (a * pull - coupling * slope_level) / determinant, slowest), fastest)
        change = abs(new_level - level) + abs(new_rate - rate) * lags[-1]
        new_misfit = _linearise(values, lags, noise, new_rate, new_level, there)
        if new_misfit <= misfit:
            rate, level, misfit = new_rate, new_level, new_misfit
            here, there = there, here
            damping *= 0.1
        else:
            damping *= 10.0
        if change <= tolerance:
            break
    return rate, level


@njit(cache=True)  # type: ignore[untyped-decorator]
def _linearise(
    values: NDArray[np.float64],
    lags: NDArray[np.float64],
    noise: float,
    rate: float,
    level: float,
    result: NDArray[np.float64],
) -> float:
    """Squared misfit; its half slopes, downwards, and the products of the model's slopes go to ``result``."""
    misfit = 0.0
    result[:] = 0.0
    for e in range(values.size):
        decay = np.exp(-rate * lags[e])
        mean, gain = _noisy_mean(level * decay, noise)
        rest = values[e] - mean
        by_level = gain * decay
        by_rate = -lags[e] * level * by_level
        misfit += rest * rest
        result[0] += by_level * rest
        result[1] += by_rate * rest
        result[2] += by_level * by_level
        result[3] += by_level * by_rate
        result[4] += by_rate * by_rate
    return misfit


@njit(cache=True)  # type: ignore[untyped-decorator]
def _noisy_mean(signal: float, noise: float) -> tuple[float, float]:
    """Mean of the magnitude of a signal with noise, and its derivative by the signal."""
    if noise == 0.0:
        return signal, 1.0
    fade = 1.0 / (1.0 + signal * signal / (RAYLEIGH_REACH * noise * noise))
    mean = np.sqrt(signal * signal + noise * noise * (1.0 + RAYLEIGH_EXCESS * fade * fade))
    return mean, signal / mean * (1.0 - 2.0 * RAYLEIGH_EXCESS / RAYLEIGH_REACH * fade**3)


NONLINEAR = Method(
    name="nonlinear",
    title="Nonlinear fit",
    function=nonlinear,
    parameters=NonlinearParameters,
    sentence="R2* was computed by a nonlinear least-squares fit of an exponential to the magnitude (noise floor "
    "{noise_floor}), within {r2star_min_hz:g} to {r2star_max_hz:g} 1/s.",
    citations=(
        Citation(
            key="gudbjartsson1995",
            authors="Gudbjartsson H, Patz S",
            title="The Rician distribution of noisy MRI data",
            journal="Magnetic Resonance in Medicine 34:910-914",
            year=1995,
            doi="10.1002/mrm.1910340618",
        ),
    ),
)
