"""Total field by a nonlinear fit of the complex signal over the echoes.

Whole turns of the phase do not change a complex number, so an echo whose phase was unwrapped wrongly counts as much as
the others instead of pulling the field away.

Liu T, Wisnieff C, Lou M, Chen W, Spincemaille P, Wang Y. Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.field.resolution import AS_STORED, Steps
from qsmals.recon.field.total import TotalField
from qsmals.recon.field.weighted import (
    WeightedParameters,
    checked_echo_times,
    detail_noise,
    noise_variance,
    volume_of,
    weighted,
)
from qsmals.recon.method import Citation, Method

TURN = 2.0 * np.pi

TURN_COST = 0.1
"""What a whole turn between an echo and a fit costs that fit, over the squared magnitude: far less than a misfit of the
complex signal, it decides between rates that evenly spaced echoes cannot tell apart."""

CALM_RAD = 0.5
"""Where no echo is further from the first fit than this, no other start is tried."""


@dataclass(frozen=True)
class NonlinearParameters:
    """Settings of :func:`nonlinear`.

    Attributes
    ----------
    offset : str
        Phase at echo time 0: ``zero`` because it has been removed, or ``fitted`` in each voxel, which costs precision.
    tolerance_rad : float
        The fit of a voxel ends when no echo's phase changes by more.
    max_iterations : int
        Most Gauss-Newton steps in a voxel; three or four are usual.
    residual_quantile : float
        As in :class:`~qsmals.recon.field.weighted.WeightedParameters`.
    """

    offset: str = field(
        default="zero", metadata={"unit": "zero or fitted", "source": "the phase offset is removed before"}
    )
    tolerance_rad: float = field(
        default=1e-5, metadata={"unit": "rad", "source": "a thousandth of the noise at a signal-to-noise ratio of 100"}
    )
    max_iterations: int = field(default=30, metadata={"unit": "iterations", "source": "MEDI toolbox"})
    residual_quantile: float = field(
        default=0.99, metadata={"unit": "probability", "source": "one voxel of normal tissue in a hundred"}
    )

    def __post_init__(self) -> None:
        if self.offset not in ("zero", "fitted"):
            raise ValueError(f"the offset is zero or fitted, not {self.offset}")
        if not self.tolerance_rad > 0 or self.max_iterations < 1:
            raise ValueError(f"the nonlinear fit needs a positive tolerance and an iteration at least, not {self}")
        WeightedParameters(residual_quantile=self.residual_quantile)


def nonlinear(
    unwrapped_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    b0_tesla: float,
    params: NonlinearParameters,
    acquired_steps: Steps = AS_STORED,
) -> TotalField:
    r"""Rate w, in rad/s, with the least ``sum |S exp(i phase) - S exp(i (offset + w TE))|^2`` over the echoes.

    Each voxel starts from the weighted mean of its phase over echo time, which is the result where misfits are small.
    Where an echo is far from that fit, those that start from each echo's own rate, ``phase / TE`` (with a fitted
    offset: the rate between it and the one before), are tried as well, and the least misfit wins. Gauss-Newton's
    steps, ``w += sum S^2 TE sin(r) / sum S^2 TE^2`` with r the misfit in rad, only ever lower the misfit, because
    its curvature is nowhere more than they assume.

    The noise follows from the curvature up to a scale, which is the median misfit of the echoes in the mask; where
    there are as many unknowns as echoes it is the noise of the magnitude. In voxels whose own misfit is improbable the
    noise is raised in proportion. A single echo has a closed form and no offset: that of
    :func:`~qsmals.recon.field.weighted.weighted`.

    Parameters
    ----------
    unwrapped_rad : (x, y, z, e) float32
        Unwrapped phase, rad, free of a phase offset unless that is fitted. Single echoes may be wrong by whole turns.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, any unit, 0 or more; without it every echo counts as equally strong.
    te_s : (e,) float
        Echo times, s, positive.
    mask : (x, y, z) bool
        Where to estimate. Voxels where phase or magnitude is not finite, or fewer echoes have signal than there are
        unknowns, are left out.
    b0_tesla : float
        Field strength, T.
    params : NonlinearParameters
        Settings.
    acquired_steps : (3,) int
        As for :func:`weighted.weighted`.

    Returns
    -------
    TotalField

    Raises
    ------
    ValueError
        Shapes do not fit, or an echo time or the field strength is not positive.

    References
    ----------
    Liu T, et al. Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272

    Examples
    --------
    >>> te_s = np.array([0.004, 0.009, 0.014])
    >>> phase = np.tile((2 * np.pi * 127.732434 * te_s).astype(np.float32), (2, 2, 2, 1))  # 1 ppm at 3 T
    >>> phase[..., 2] += 2 * np.pi
    >>> inside = np.ones((2, 2, 2), dtype=bool)
    >>> total = nonlinear(
    ...     phase, magnitude=None, te_s=te_s, mask=inside, b0_tesla=3.0, params=NonlinearParameters()
    ... )
    >>> round(float(total.field_ppm[0, 0, 0]), 4)
    1.0
    """
    te = checked_echo_times(unwrapped_rad, magnitude, te_s, mask, b0_tesla)
    if te.size == 1:
        closed = WeightedParameters(residual_quantile=params.residual_quantile)
        return weighted(
            unwrapped_rad,
            magnitude=magnitude,
            te_s=te_s,
            mask=mask,
            b0_tesla=b0_tesla,
            params=closed,
            acquired_steps=acquired_steps,
        )
    phase = np.ascontiguousarray(unwrapped_rad[mask], dtype=np.float32)
    strength = np.ones_like(phase) if magnitude is None else np.ascontiguousarray(magnitude[mask], dtype=np.float32)
    fitted_offset = params.offset == "fitted"
    fitted = _fit(phase, strength, te, fitted_offset, params.tolerance_rad, params.max_iterations)
    good = fitted[:, 1] > 0
    rate, information, misfit, power = fitted[good].T
    freedom = te.size - 1 - fitted_offset
    if freedom > 0:
        variance = noise_variance(information, misfit, power / te.size, freedom, params.residual_quantile)
    elif rate.size:
        first = (unwrapped_rad if magnitude is None else magnitude)[..., 0]
        variance = detail_noise(first, mask, acquired_steps) ** 2 / information
    else:
        variance = information
    inside = np.flatnonzero(mask)[good]
    to_ppm = 1.0 / (TURN * GAMMA_BAR_MHZ_PER_TESLA * b0_tesla)
    return TotalField(
        field_ppm=volume_of(rate * to_ppm, inside, mask.shape, 0.0),
        noise_ppm=volume_of(np.sqrt(variance) * to_ppm, inside, mask.shape, np.inf),
    )


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _fit(
    phase: NDArray[np.float32],
    strength: NDArray[np.float32],
    te: NDArray[np.float64],
    fitted_offset: bool,
    tolerance: float,
    max_iterations: int,
) -> NDArray[np.float64]:
    """Rate (rad/s), its information (s^2), misfit and power of every voxel; 0 where there is nothing to fit."""
    result = np.zeros((phase.shape[0], 4))
    for v in prange(phase.shape[0]):
        angle = np.empty(te.size)
        power = np.empty(te.size)
        time = np.empty(te.size)
        n = _with_signal(phase[v], strength[v], te, angle, power, time)
        if n < (2 if fitted_offset else 1):
            continue
        angle, power, time = angle[:n], power[:n], time[:n]
        total = power.sum()
        if fitted_offset:
            # about their weighted mean the offset and the rate do not depend on each other
            time -= (power * time).sum() / total
        information = (power * time * time).sum()
        if not information > 0.0:
            continue
        rate, level = _best(angle, power, time, fitted_offset, tolerance, max_iterations)
        result[v, 0] = rate
        result[v, 1] = information
        result[v, 2] = _misfit(angle, power, time, rate, level, 0.0)
        result[v, 3] = total
    return result


@njit(cache=True)  # type: ignore[untyped-decorator]
def _with_signal(
    phase: NDArray[np.float32],
    strength: NDArray[np.float32],
    te: NDArray[np.float64],
    angle: NDArray[np.float64],
    power: NDArray[np.float64],
    time: NDArray[np.float64],
) -> int:
    """Number of echoes with signal, whose phase, squared magnitude and time are collected; 0 if any is not finite."""
    n = 0
    for e in range(te.size):
        if not (np.isfinite(phase[e]) and np.isfinite(strength[e])):
            return 0
        if strength[e] > 0:
            angle[n] = phase[e]
            power[n] = np.float64(strength[e]) ** 2
            time[n] = te[e]
            n += 1
    return n


@njit(cache=True)  # type: ignore[untyped-decorator]
def _best(
    angle: NDArray[np.float64],
    power: NDArray[np.float64],
    time: NDArray[np.float64],
    fitted_offset: bool,
    tolerance: float,
    max_iterations: int,
) -> tuple[float, float]:
    """Rate, and phase at time 0, of the fit with the least misfit."""
    rate = (power * time * angle).sum() / (power * time * time).sum()
    level = (power * angle).sum() / power.sum() if fitted_offset else 0.0
    rate, level = _descend(angle, power, time, rate, level, fitted_offset, tolerance, max_iterations)
    if np.abs(angle - level - rate * time).max() < CALM_RAD:
        return rate, level
    least = _misfit(angle, power, time, rate, level, TURN_COST)
    n = angle.size
    for e in range(n):
        before = (e + n - 1) % n
        span = time[e] - (time[before] if fitted_offset else 0.0)
        if span == 0.0:
            continue
        slope = (angle[e] - (angle[before] if fitted_offset else 0.0)) / span
        height = angle[e] - slope * time[e] if fitted_offset else 0.0
        slope, height = _descend(angle, power, time, slope, height, fitted_offset, tolerance, max_iterations)
        misfit = _misfit(angle, power, time, slope, height, TURN_COST)
        if misfit < least:
            rate, level, least = slope, height, misfit
    return rate, level


@njit(cache=True)  # type: ignore[untyped-decorator]
def _descend(
    angle: NDArray[np.float64],
    power: NDArray[np.float64],
    time: NDArray[np.float64],
    rate: float,
    level: float,
    fitted_offset: bool,
    tolerance: float,
    max_iterations: int,
) -> tuple[float, float]:
    """Rate, and phase at time 0, after Gauss-Newton's steps; a fitted phase needs times with a weighted mean of 0."""
    information = (power * time * time).sum()
    total = power.sum()
    reach = np.abs(time).max()
    for _ in range(max_iterations):
        push = 0.0
        lift = 0.0
        for e in range(angle.size):
            pull = power[e] * np.sin(angle[e] - level - rate * time[e])
            push += pull * time[e]
            lift += pull
        step = push / information
        rise = lift / total if fitted_offset else 0.0
        rate += step
        level += rise
        if abs(step) * reach + abs(rise) <= tolerance:
            break
    return rate, level


@njit(cache=True)  # type: ignore[untyped-decorator]
def _misfit(
    angle: NDArray[np.float64],
    power: NDArray[np.float64],
    time: NDArray[np.float64],
    rate: float,
    level: float,
    turn_cost: float,
) -> float:
    """Squared misfit of the complex signal, and what whole turns of the phase cost on top."""
    misfit = 0.0
    for e in range(angle.size):
        rest = angle[e] - level - rate * time[e]
        misfit += power[e] * (4.0 * np.sin(0.5 * rest) ** 2 + turn_cost * abs(np.rint(rest / TURN)))
    return misfit


NONLINEAR = Method(
    name="complex-fit",
    title="Nonlinear fit of the complex signal",
    function=nonlinear,
    parameters=NonlinearParameters,
    sentence="The total field was fitted to the complex signal of all echoes by nonlinear least squares (phase offset "
    "{offset}; change of the phase below {tolerance_rad:g} rad or {max_iterations} iterations).",
    citations=(
        Citation(
            key="liu2013merit",
            authors="Liu T, Wisnieff C, Lou M, Chen W, Spincemaille P, Wang Y",
            title="Nonlinear formulation of the magnetic field to source relationship for robust quantitative "
            "susceptibility mapping",
            journal="Magnetic Resonance in Medicine 69:467-476",
            year=2013,
            doi="10.1002/mrm.24272",
        ),
    ),
)
