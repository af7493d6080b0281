"""Total field as ROMEO combines it, with voxels excluded where the echoes do not decay as one exponential.

The combination that the consensus paper's pipeline uses: phase over echo time weighted by magnitude TE, the echoes'
signal-to-noise of the phase.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.field.resolution import AS_STORED, Steps
from qsmals.recon.field.total import TotalField
from qsmals.recon.field.weighted import checked_echo_times, detail_noise, noise_variance, usable_voxels, volume_of
from qsmals.recon.method import Citation, Method

SHORTEST_DECAY, LONGEST_DECAY = 1.0 / 20.0, 20.0
"""Bounds of T2*, in units of the first and of the last echo time."""


@dataclass(frozen=True)
class PhaseSnrParameters:
    """Settings of :func:`phase_snr`."""

    largest_residual: float = field(
        default=0.3,
        metadata={
            "unit": "1 (relative squared residual)",
            "source": "consensus paper's pipeline, doi:10.1002/mrm.30006",
        },
    )

    def __post_init__(self) -> None:
        if not self.largest_residual > 0:
            raise ValueError(f"the largest residual is a positive number, not {self.largest_residual}")


def phase_snr(
    unwrapped_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    b0_tesla: float,
    params: PhaseSnrParameters,
    acquired_steps: Steps = AS_STORED,
) -> TotalField:
    """Mean over the echoes of ``phase / (2 pi gamma B0 TE)``, weighted by magnitude TE.

    The noise follows ``1 / sqrt(sum of magnitude^2 TE^2)``; with two or more echoes its level is the median misfit of
    the echoes in the mask, with one echo the noise of the magnitude (see :func:`weighted.detail_noise`). It is
    infinite, so that the voxel has no weight but stays in the mask, where :func:`relative_residual` is
    ``largest_residual`` or more.

    Parameters
    ----------
    unwrapped_rad : (x, y, z, e) float32
        Unwrapped phase, rad, free of a phase offset.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, any unit, 0 or more; without it every echo counts as equally strong, and nothing is excluded.
    te_s : (e,) float
        Echo times, s, positive.
    mask : (x, y, z) bool
        Where to estimate. Voxels where phase or magnitude is not finite, or no echo has signal, are left out.
    b0_tesla : float
        Field strength, T.
    params : PhaseSnrParameters
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
    Dymerska B, et al. Magn Reson Med 2021;85:2294-2308. doi:10.1002/mrm.28563
    QSM Consensus Organization Committee, Bilgic B, et al. Magn Reson Med 2024;91:1834-1862. doi:10.1002/mrm.30006
    """
    te = checked_echo_times(unwrapped_rad, magnitude, te_s, mask, b0_tesla)
    phase, strength, inside = usable_voxels(unwrapped_rad, magnitude, mask)
    rate = _mean_rate(phase, strength, te)
    noise = np.sqrt(_variance(phase, strength, te, rate))
    if te.size == 1 and rate.size:
        noise *= detail_noise((unwrapped_rad if magnitude is None else magnitude)[..., 0], mask, acquired_steps)
    if magnitude is not None:
        noise[relative_residual(phase, strength, te, rate) >= params.largest_residual] = np.inf
    to_ppm = 1.0 / (2.0 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * b0_tesla)
    return TotalField(
        field_ppm=volume_of(rate * to_ppm, inside, mask.shape, 0.0),
        noise_ppm=volume_of(noise * to_ppm, inside, mask.shape, np.inf),
    )


def relative_residual(
    phase: NDArray[np.floating], strength: NDArray[np.floating], te: NDArray[np.float64], rate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared misfit of a single exponential decay with a single frequency over the squared signal.

    Both are seen from the first echo: its magnitude is where the decay starts and its phase is subtracted. The decay
    rate is that of the trapezoidal rule, ``(first - last) / integral of the magnitude``.

    Parameters
    ----------
    phase, strength : (n, e) float
        Unwrapped phase, rad, and magnitude of n voxels.
    te : (e,) float
        Echo times, s.
    rate : (n,) float
        Phase per time, rad/s.

    Returns
    -------
    (n,) float
        0 or more; 0 for one echo, and infinite where no echo has signal.
    """
    first = strength[:, 0].astype(np.float64)
    area = np.zeros_like(first)
    for before, after, gap in zip(strength.T, strength.T[1:], np.diff(te), strict=False):
        area += 0.5 * gap * (before.astype(np.float64) + after)
    misfit, power = np.zeros_like(first), np.zeros_like(first)
    # where the first echo has no signal nothing can be told from it
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = np.nan_to_num((first - strength[:, -1]) / area)
        decay = decay.clip(1.0 / (LONGEST_DECAY * te.max()), 1.0 / (SHORTEST_DECAY * te.min()))
        for echo, since in enumerate(te - te[0]):  # echo by echo, for the memory
            size = strength[:, echo].astype(np.float64)
            model = first * np.exp(-since * decay)
            turn = since * rate - (phase[:, echo].astype(np.float64) - phase[:, 0])
            misfit += model**2 + size**2 - 2.0 * model * size * np.cos(turn)
            power += size**2
        result = misfit / power
    return np.where(np.isnan(result), np.inf, result)


def _mean_rate(
    phase: NDArray[np.floating], strength: NDArray[np.floating], te: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Phase per time, rad/s, weighted by magnitude TE."""
    total, weights = np.zeros(phase.shape[0]), np.zeros(phase.shape[0])
    for echo, time in enumerate(te):
        size = strength[:, echo].astype(np.float64)
        total += size * phase[:, echo]
        weights += size * time
    return np.asarray(total / weights)


def _variance(
    phase: NDArray[np.floating], strength: NDArray[np.floating], te: NDArray[np.float64], rate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Variance of the rate, (rad/s)^2; for a single echo that of a magnitude noise of 1."""
    information, misfit, power = np.zeros_like(rate), np.zeros_like(rate), np.zeros_like(rate)
    for echo, time in enumerate(te):
        squared = strength[:, echo].astype(np.float64) ** 2
        information += squared * time**2
        misfit += squared * (phase[:, echo] - time * rate) ** 2
        power += squared
    if te.size == 1:
        return np.asarray(1.0 / information)
    return noise_variance(information, misfit, power / te.size, te.size - 1, 1.0)


PHASE_SNR = Method(
    name="phase-snr",
    title="Mean of the echoes by their phase's signal-to-noise (ROMEO)",
    function=phase_snr,
    parameters=PhaseSnrParameters,
    sentence=(
        "The total field was the mean of phase over echo time, weighted by magnitude TE; voxels in which a single "
        "exponential decay at a single frequency left a relative residual of {largest_residual:g} or more had no "
        "weight."
    ),
    citations=(
        Citation(
            key="dymerska2021",
            authors="Dymerska B, Eckstein K, Bachrata B, Siow B, Trattnig S, Shmueli K, Robinson SD",
            title="Phase unwrapping with a rapid opensource minimum spanning tree algorithm (ROMEO)",
            journal="Magnetic Resonance in Medicine 85:2294-2308",
            year=2021,
            doi="10.1002/mrm.28563",
        ),
    ),
)
