r"""MCPC-3D-S: the phase at echo time zero, and what a bipolar readout adds to every second echo.

Eckstein K, Dymerska B, Bachrata B, Bogner W, Poljanc K, Trattnig S, Robinson SD. Computationally efficient
combination of multi-channel phase data from multi-echo acquisitions (ASPIRE). Magn Reson Med 2018;79:2996-3006.
doi:10.1002/mrm.26963
Li J, Chang S, Liu T, et al. Phase-corrected bipolar gradients in multi-echo gradient-echo sequences for
quantitative susceptibility mapping. MAGMA 2015;28:347-355. doi:10.1007/s10334-014-0470-3

The model is ``phase_e = offset + rate * TE_e + (even_odd if e is even)`` with smooth ``offset`` and ``even_odd``
(echoes counted from 1). With echoes 1 and 3, which share their polarity, the rate is known without the even-odd phase,

    rate = unwrap(phase_3 - phase_1) / (TE_3 - TE_1)
    even_odd = phase_2 - phase_1 - rate * (TE_2 - TE_1)        (modulo 2 pi)

for any echo spacing; and with the even-odd phase removed, echoes 1 and 2 give

    rate = unwrap(phase_2 - phase_1) / (TE_2 - TE_1)
    offset = phase_1 - rate * TE_1                             (modulo 2 pi)

The combination ``phase_1 + phase_3 - (TE_1 + TE_3) / TE_2 * phase_2`` that is in use elsewhere leaves a part of the
offset in the even-odd phase unless the echoes are equally spaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon.grid import Grid
from qsmals.recon.method import Citation, Method
from qsmals.recon.phase.smooth import smooth_phase
from qsmals.recon.phase.wrap import wrap
from qsmals.recon.unwrap.romeo import RomeoParameters, check_echoes, romeo, valid_voxels


@dataclass(frozen=True)
class Mcpc3dsParameters:
    """Settings of MCPC-3D-S.

    Attributes
    ----------
    sigma_mm : float
        Standard deviation of the Gaussian that smooths the phase offset and the even-odd phase.
    """

    sigma_mm: float = field(
        default=7.0, metadata={"unit": "mm", "source": "default of the ROMEO program, doi:10.1002/mrm.28563"}
    )

    def __post_init__(self) -> None:
        if not self.sigma_mm > 0:
            raise ValueError(f"sigma_mm is a positive length, not {self.sigma_mm}")


@dataclass(frozen=True)
class OffsetFree:
    """Phase that is proportional to echo time, and what was taken off.

    Attributes
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped phase, rad, in -pi..pi; 0 outside the mask and where an input was not finite.
    offset_rad : (x, y, z) float32
        Phase at echo time zero, rad, in -pi..pi, smooth.
    even_odd_rad : (x, y, z) float32 or None
        Phase of the even echoes (the second, fourth, ...) beyond the odd ones, rad; None for a monopolar readout.
    """

    phase_rad: NDArray[np.float32]
    offset_rad: NDArray[np.float32]
    even_odd_rad: NDArray[np.float32] | None


def mcpc3ds(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    grid: Grid,
    bipolar: bool,
    params: Mcpc3dsParameters,
    brain_mask: NDArray[np.bool_] | None = None,
) -> OffsetFree:
    """Remove the phase offset and, for a bipolar readout, the even-odd phase.

    Parameters
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped phase of two or more echoes (three for a bipolar readout), rad, of one or of combined coils.
    magnitude : (x, y, z, e) float32 or None
        Magnitude, any unit, 0 or more: the weight of each voxel.
    te_s : (e,) float
        Echo times, s, positive and increasing.
    mask : (x, y, z) bool
        Voxels with signal. Voxels with a value that is not finite are left out.
    grid : Grid
        Voxel size.
    bipolar : bool
        Whether every second echo was read out backwards; see :func:`qsmals.recon.phase.bipolar.detect_bipolar`.
    params : Mcpc3dsParameters
        Settings.
    brain_mask : (x, y, z) bool, optional
        Where offset and even-odd phase are estimated, best the brain; from there they are continued to the whole mask,
        which is the estimate's region without it. The phase of fat turns by several cycles between echoes, and the
        smoothing carries its false offset into the brain.

    Returns
    -------
    OffsetFree
        The level of the field is arbitrary by whole turns per echo spacing (half turns for a bipolar readout),
        the same everywhere.

    Raises
    ------
    ValueError
        Shapes do not fit, there are too few echoes, or no voxel of ``brain_mask`` has signal.
    """
    te = check_echoes(phase_rad, magnitude, te_s, mask)
    if te.size < (3 if bipolar else 2):
        raise ValueError(
            f"removing the phase offset takes 2 echoes, correcting a bipolar readout 3; the number is {te.size}"
        )
    valid = valid_voxels(phase_rad, magnitude, mask)
    water = valid if brain_mask is None else valid & brain_mask
    if valid.any() and not water.any():
        raise ValueError("no voxel of the brain mask has signal: it does not belong to this scan or is misplaced")
    first, second = _echo(phase_rad, 0), _echo(phase_rad, 1)
    even_odd = None
    if bipolar:
        excess = even_odd_phase(phase_rad, magnitude=magnitude, te_s=te, mask=water)
        weight = _weight(magnitude, (0, 1, 2), (1.0, 1.0, 0.5), water)
        even_odd = smooth_phase(excess, weight=weight, sigma_mm=params.sigma_mm, voxel_size_mm=grid.voxel_size_mm)
        second = wrap(second - even_odd)
    ratio = te[0] / (te[1] - te[0])
    evolution = ratio * _unwrapped_difference(first, second, magnitude, (0, 1), water)
    weight = _weight(magnitude, (0, 1), (1 + ratio, ratio), water)
    offset = smooth_phase(first - evolution, weight=weight, sigma_mm=params.sigma_mm, voxel_size_mm=grid.voxel_size_mm)
    return OffsetFree(_corrected(phase_rad, offset, even_odd, valid), offset, even_odd)


def even_odd_phase(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: NDArray[np.float64],
    mask: NDArray[np.bool_],
    first: int = 0,
) -> NDArray[np.float32]:
    """Phase of an echo beyond the line through its neighbours in time, voxel by voxel.

    Parameters
    ----------
    phase_rad, magnitude, te_s : see :func:`mcpc3ds`
    mask : (x, y, z) bool
        Voxels to use; all their values are finite.
    first : int
        Index of the first of three successive echoes.

    Returns
    -------
    (x, y, z) float32
        In -pi..pi, as noisy as the data; 0 outside the mask. Of the levels that unwrapping leaves open the one whose
        mean is nearest to 0.
    """
    one, two, three = (_echo(phase_rad, first + n) for n in range(3))
    share = (te_s[first + 1] - te_s[first]) / (te_s[first + 2] - te_s[first])
    turns = _unwrapped_difference(one, three, magnitude, (first, first + 2), mask)
    excess = np.where(mask, two - one - share * turns, 0.0)
    weight = _weight(magnitude, (first, first + 1, first + 2), (1.0, 1.0, 1.0), mask)
    mean = np.sum(weight * np.exp(1j * excess), dtype=np.complex128)
    levels = [2.0 * np.pi * share * n for n in (0, 1, -1)]
    best = min(levels, key=lambda level: round(abs(np.angle(mean * np.exp(-1j * level))), 3))
    return np.where(mask, wrap((excess - best).astype(np.float32)), np.float32(0))


def _echo(phase_rad: NDArray[np.float32], echo: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(phase_rad[..., echo], dtype=np.float32)


def _unwrapped_difference(
    earlier: NDArray[np.float32],
    later: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    echoes: tuple[int, int],
    valid: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Phase between two echoes without wraps, by ROMEO."""
    difference = wrap(np.where(valid, later - earlier, np.float32(0)))
    strength = None
    if magnitude is not None:
        strength = np.sqrt(_echo(magnitude, echoes[0]) * _echo(magnitude, echoes[1]))[..., None]
    result = romeo(difference[..., None], magnitude=strength, te_s=[1.0], mask=valid, params=RomeoParameters())
    return result.phase_rad[..., 0]


def _weight(
    magnitude: NDArray[np.float32] | None,
    echoes: Sequence[int],
    factors: Sequence[float],
    valid: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Inverse variance of a sum of phases with the given factors, up to a scale; 0 without signal in an echo."""
    if magnitude is None:
        return valid.astype(np.float32)
    strengths = [np.where(valid, _echo(magnitude, echo), np.float32(0)) for echo in echoes]
    signal = np.minimum.reduce(strengths) > 0
    variance = sum(
        (np.float32(factor) / np.where(signal, strength, np.float32(1))) ** 2
        for factor, strength in zip(factors, strengths, strict=True)
    )
    return np.where(signal, 1 / variance, 0).astype(np.float32)


def _corrected(
    phase_rad: NDArray[np.float32],
    offset: NDArray[np.float32],
    even_odd: NDArray[np.float32] | None,
    valid: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """All echoes without offset and even-odd phase, each contiguous in memory."""
    corrected = np.zeros((phase_rad.shape[3], *valid.shape), dtype=np.float32)
    for echo in range(phase_rad.shape[3]):
        taken_off = offset if even_odd is None or echo % 2 == 0 else offset + even_odd
        corrected[echo][valid] = wrap(phase_rad[..., echo][valid] - taken_off[valid])
    return np.moveaxis(corrected, 0, -1)


MCPC_3D_S = Method(
    name="mcpc-3d-s",
    title="MCPC-3D-S",
    function=mcpc3ds,
    parameters=Mcpc3dsParameters,
    sentence="The phase at echo time zero was estimated in the brain with MCPC-3D-S, smoothed ({sigma_mm} mm), "
    "continued outwards and removed.",
    citations=(
        Citation(
            key="eckstein2018",
            authors="Eckstein K, Dymerska B, Bachrata B, Bogner W, Poljanc K, Trattnig S, Robinson SD",
            title="Computationally efficient combination of multi-channel phase data "
            "from multi-echo acquisitions (ASPIRE)",
            journal="Magnetic Resonance in Medicine",
            year=2018,
            doi="10.1002/mrm.26963",
        ),
        Citation(
            key="li2015",
            authors="Li J, Chang S, Liu T, Jiang H, Dong F, Pei M, Wang Q, Wang Y",
            title="Phase-corrected bipolar gradients in multi-echo gradient-echo sequences "
            "for quantitative susceptibility mapping",
            journal="Magnetic Resonance Materials in Physics, Biology and Medicine",
            year=2015,
            doi="10.1007/s10334-014-0470-3",
        ),
    ),
)
