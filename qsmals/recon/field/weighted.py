"""Total field as the mean of phase over echo time, weighted by magnitude^2 TE^2.

The phase noise of an echo is inversely proportional to its magnitude, so that of phase over echo time is to
magnitude times TE: these weights give the least variance. The noise-weighted mean and others are compared in
Biondetti E, Karsa A, Grussu F, Battiston M, Yiannakas MC, Thomas DL, Shmueli K. Magn Reson Med
2022;88:2101-2116. doi:10.1002/mrm.29365
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.recon.field.resolution import AS_STORED, Steps
from qsmals.recon.field.total import TotalField
from qsmals.recon.method import Citation, Method

MAD_TO_SD = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""

PHASE_RESOLUTION_RAD = 1e-6
"""Least phase noise: the resolution of float32 at a few radians."""


@dataclass(frozen=True)
class WeightedParameters:
    """Settings of the weighted mean.

    Attributes
    ----------
    residual_quantile : float
        Quantile of the residuals' expected distribution above which the noise of a voxel is raised: its echoes disagree
        by more than noise explains (flow, dephasing, a wrong wrap). 1 leaves the noise as predicted.
    """

    residual_quantile: float = field(
        default=0.99, metadata={"unit": "probability", "source": "one voxel of normal tissue in a hundred"}
    )

    def __post_init__(self) -> None:
        if not 0.5 <= self.residual_quantile <= 1.0:
            raise ValueError(f"residual_quantile is a probability from 0.5 to 1, not {self.residual_quantile}")


def weighted(
    unwrapped_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    b0_tesla: float,
    params: WeightedParameters,
    acquired_steps: Steps = AS_STORED,
) -> TotalField:
    r"""Weighted mean over the echoes of ``phase / (2 pi gamma B0 TE)``.

    The noise follows from the weights up to a scale. With two or more echoes the scale is the median misfit of
    the echoes in the mask; with one echo it is the noise of the magnitude, from the median of its finest
    diagonal detail (differences along all three axes at once, which anatomy hardly reaches). In voxels whose own
    misfit is improbable the noise is raised in proportion.

    Parameters
    ----------
    unwrapped_rad : (x, y, z, e) float32
        Unwrapped phase, rad, free of a phase offset.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, any unit, 0 or more; without it every echo counts as equally strong.
    te_s : (e,) float
        Echo times, s, positive.
    mask : (x, y, z) bool
        Where to estimate. Voxels where phase or magnitude is not finite, or no echo has signal, are left out.
    b0_tesla : float
        Field strength, T.
    params : WeightedParameters
        Settings.
    acquired_steps : (3,) int
        Stored voxels to a measured one along each axis (:func:`resolution.acquired_steps`), for the noise of a single
        echo: that of interpolated images does not show between neighbours.

    Returns
    -------
    TotalField

    Raises
    ------
    ValueError
        Shapes do not fit, or an echo time or the field strength is not positive.

    Examples
    --------
    >>> phase = np.full((2, 2, 2, 1), 2 * np.pi * 127.732434 * 0.01, dtype=np.float32)  # 1 ppm at 3 T, 10 ms
    >>> inside = np.ones((2, 2, 2), dtype=bool)
    >>> total = weighted(
    ...     phase, magnitude=None, te_s=[0.01], mask=inside, b0_tesla=3.0, params=WeightedParameters()
    ... )
    >>> round(float(total.field_ppm[0, 0, 0]), 4)
    1.0
    """
    te = checked_echo_times(unwrapped_rad, magnitude, te_s, mask, b0_tesla)
    phase, strength, inside = usable_voxels(unwrapped_rad, magnitude, mask)
    rate, information = _mean_rate(phase, strength, te)
    variance = _rate_variance(phase, strength, te, rate, information, params.residual_quantile)
    if te.size == 1 and rate.size:
        variance *= detail_noise((unwrapped_rad if magnitude is None else magnitude)[..., 0], mask, acquired_steps) ** 2
    to_ppm = 1.0 / (2.0 * np.pi * GAMMA_BAR_MHZ_PER_TESLA * b0_tesla)
    return TotalField(
        field_ppm=volume_of(rate * to_ppm, inside, mask.shape, 0.0),
        noise_ppm=volume_of(np.sqrt(variance) * to_ppm, inside, mask.shape, np.inf),
    )


def checked_echo_times(
    unwrapped_rad: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    b0_tesla: float,
) -> NDArray[np.float64]:
    """Echo times as an array, after checking that everything fits together."""
    te = np.asarray(te_s, dtype=np.float64)
    if unwrapped_rad.ndim != 4 or unwrapped_rad.shape[3] != te.size or unwrapped_rad.shape[:3] != mask.shape:
        raise ValueError(f"phase {unwrapped_rad.shape}, mask {mask.shape} and {te.size} echo times do not fit together")
    if magnitude is not None and magnitude.shape != unwrapped_rad.shape:
        raise ValueError(f"magnitude {magnitude.shape} and phase {unwrapped_rad.shape} differ in shape")
    if te.size == 0 or not np.all(te > 0) or not b0_tesla > 0:
        raise ValueError(f"echo times and field strength are positive, not {te.tolist()} s and {b0_tesla} T")
    return te


def usable_voxels(
    unwrapped_rad: NDArray[np.float32], magnitude: NDArray[np.float32] | None, mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """Phase and magnitude, (n, e), of the mask's voxels where both are finite and an echo has signal, and their places.

    Without a magnitude every echo counts as equally strong. The places are indices of the flat volume.
    """
    phase = unwrapped_rad[mask]
    strength = np.ones_like(phase) if magnitude is None else magnitude[mask]
    good = np.isfinite(phase).all(axis=1) & np.isfinite(strength).all(axis=1) & (strength > 0).any(axis=1)
    return phase[good], strength[good], np.flatnonzero(mask)[good]


def _mean_rate(
    phase: NDArray[np.float32], strength: NDArray[np.float32], te: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Phase per time (rad/s) and the sum of the weights, per voxel of the rows."""
    weighted_sum = np.zeros(phase.shape[0])
    information = np.zeros(phase.shape[0])
    for echo, time in enumerate(te):
        weight = strength[:, echo].astype(np.float64) ** 2 * time
        weighted_sum += weight * phase[:, echo]
        information += weight * time
    return weighted_sum / information, information


def _rate_variance(
    phase: NDArray[np.float32],
    strength: NDArray[np.float32],
    te: NDArray[np.float64],
    rate: NDArray[np.float64],
    information: NDArray[np.float64],
    quantile: float,
) -> NDArray[np.float64]:
    """Variance of the rate, (rad/s)^2; for a single echo that of a magnitude noise of 1."""
    if te.size == 1 or rate.size == 0:
        return 1.0 / information
    misfit = np.zeros_like(rate)
    power = np.zeros_like(rate)
    for echo, time in enumerate(te):
        squared = strength[:, echo].astype(np.float64) ** 2
        misfit += squared * (phase[:, echo] - time * rate) ** 2
        power += squared
    return noise_variance(information, misfit, power / te.size, te.size - 1, quantile)


def noise_variance(
    information: NDArray[np.float64],
    misfit: NDArray[np.float64],
    power: NDArray[np.float64],
    freedom: int,
    quantile: float,
) -> NDArray[np.float64]:
    """Variance of the rate, (rad/s)^2, from the misfit with its degrees of freedom; ``power`` is that of an echo."""
    if misfit.size == 0:
        return information
    floor = PHASE_RESOLUTION_RAD**2 * float(np.median(power))
    scale = max(float(np.median(misfit) / chi2.median(freedom)), floor)
    variance = scale / information
    if quantile < 1.0:
        variance *= np.maximum(misfit / (scale * chi2.ppf(quantile, freedom)), 1.0)
    return np.asarray(variance)


def detail_noise(volume: NDArray[np.floating], mask: NDArray[np.bool_], steps: Steps = AS_STORED) -> float:
    """Noise of a volume from differences along its three axes at once, in cubes that lie inside the mask.

    The finest diagonal wavelet detail, scaled by its median absolute deviation: Donoho DL, Johnstone IM. Biometrika
    1994;81:425-455. doi:10.1093/biomet/81.3.425. An axis of size 1 is left out.

    Parameters
    ----------
    volume : (x, y, z) float
        Any unit.
    mask : (x, y, z) bool
        Where to look; voxels that are not finite are left out.
    steps : (3,) int
        Distance of the voxels compared, along each axis: the edge of a measured voxel in stored ones.

    Raises
    ------
    ValueError
        No such cube lies inside the mask.
    """
    inside = mask & np.isfinite(volume)
    detail = np.where(inside, volume, 0).astype(np.float64)
    gain = 1.0
    for axis in range(3):
        if volume.shape[axis] > 1:
            n = steps[axis]
            high, low = (tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(n, None), slice(-n)))
            detail = detail[high] - detail[low]
            inside = inside[low] & inside[high]
            gain *= np.sqrt(2.0)
    values = np.abs(detail[inside])
    if values.size == 0:
        raise ValueError("the mask has no cube of 2x2x2 measured voxels to estimate the noise from")
    return float(MAD_TO_SD * np.median(values) / gain)


def volume_of(
    values: NDArray[np.float64], inside: NDArray[np.intp], shape: tuple[int, ...], outside: float
) -> NDArray[np.float32]:
    """Values at flat positions of a volume, something else elsewhere."""
    volume = np.full(shape, outside, dtype=np.float32)
    volume.reshape(-1)[inside] = values
    return volume


WEIGHTED = Method(
    name="weighted",
    title="Weighted mean of the echoes",
    function=weighted,
    parameters=WeightedParameters,
    sentence="The total field was the mean of phase over echo time, weighted by magnitude^2 TE^2.",
    citations=(
        Citation(
            key="biondetti2022",
            authors="Biondetti E, Karsa A, Grussu F, Battiston M, Yiannakas MC, Thomas DL, Shmueli K",
            title="Multi-echo quantitative susceptibility mapping: "
            "how to combine echoes for accuracy and precision at 3 Tesla",
            journal="Magnetic Resonance in Medicine",
            year=2022,
            doi="10.1002/mrm.29365",
        ),
    ),
)
