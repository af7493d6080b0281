"""Laplacian phase unwrapping: smooth and without a path, but not congruent with the measured phase.

Schofield MA, Zhu Y. Fast phase unwrapping algorithm for interferometric applications. Opt Lett
2003;28:1194-1196. doi:10.1364/OL.28.001194
Ghiglia DC, Romero LA. Robust two-dimensional weighted and unweighted phase unwrapping that uses fast transforms and
iterative methods. J Opt Soc Am A 1994;11:107-117. doi:10.1364/JOSAA.11.000107
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qsmals.recon.method import Citation, Method
from qsmals.recon.unwrap.islands import TWO_PI, component_offsets
from qsmals.recon.unwrap.romeo import check_echoes, phase_quality, valid_voxels
from qsmals.recon.unwrap.unwrapped import Unwrapped


@dataclass(frozen=True)
class LaplacianParameters:
    """Laplacian unwrapping has no settings."""


def laplacian(
    phase_rad: NDArray[np.float32],
    *,
    magnitude: NDArray[np.float32] | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    params: LaplacianParameters,
) -> Unwrapped:
    """Solve the Poisson equation whose source are the wrapped differences between neighbours.

    The volume is mirrored at its faces (a cosine transform), and the differences of the whole volume are used: noise in
    air has a mean difference of 0 and so flattens the smooth field of distant sources near the head's surface.
    The result is a least-squares fit: it differs from the measured phase where the wrapped
    differences are not a gradient (noise, singularities). Good for filtering and display; for susceptibility an
    exact method is better. The level of each echo is that of its wrapped phase up to whole turns: the first echo gets
    those with which the others agree best, as ROMEO's template, and each further echo those that bring it nearest to
    the field of the echoes before.

    Parameters
    ----------
    phase_rad : (x, y, z, e) float32
        Wrapped phase, rad, free of a phase offset (phase proportional to echo time) if e is 2 or more.
        Voxels with a value that is not finite are treated as outside the mask.
    magnitude : (x, y, z, e) float32 or None
        Used for the quality map, and as weight where the echoes' whole turns are told.
    te_s : (e,) float
        Echo times, s, positive and increasing.
    mask : (x, y, z) bool
        Where to unwrap.
    params : LaplacianParameters
        None.

    Returns
    -------
    Unwrapped
        Every echo on its own but for its whole turns; quality as ROMEO's.

    Raises
    ------
    ValueError
        Shapes do not fit, or echo times do not increase.
    """
    te = check_echoes(phase_rad, magnitude, te_s, mask)
    valid = valid_voxels(phase_rad, magnitude, mask)
    unwrapped = np.zeros((te.size, *mask.shape), dtype=np.float32)
    eigenvalues = _eigenvalues(mask.shape)
    for echo in range(te.size):
        wrapped = np.ascontiguousarray(phase_rad[..., echo], dtype=np.float32)
        solution = _solve(_source(wrapped), eigenvalues)
        unwrapped[echo][valid] = solution[valid] + _circular_mean(wrapped[valid] - solution[valid])
    result = np.moveaxis(unwrapped, 0, -1)
    if te.size > 1 and valid.any():
        _level_echoes(result, magnitude, te, valid)
    quality = phase_quality(phase_rad, magnitude=magnitude, te_s=te_s, mask=mask)
    return Unwrapped(phase_rad=result, quality=quality)


def _level_echoes(
    unwrapped: NDArray[np.float32],
    magnitude: NDArray[np.float32] | None,
    te_s: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> None:
    """Add to each echo, in place, the whole turns that make the phase proportional to the echo time.

    A mean over the mask has lost them: beyond half a turn it jumps, and the echoes would be whole turns apart.
    """
    whole, no_wraps = valid.astype(np.int32), np.zeros(valid.shape, dtype=np.int16)
    first = int(component_offsets(whole, no_wraps, unwrapped, magnitude, te_s, 0)[1])
    unwrapped[valid, 0] += np.float32(TWO_PI * first)
    # the field of the echoes before, weighted by magnitude^2 TE^2
    weighted, weights = np.zeros(np.count_nonzero(valid)), np.zeros(np.count_nonzero(valid))
    for echo, time in enumerate(te_s):
        phase = unwrapped[valid, echo]
        if echo > 0:
            turns = round(float(np.median(time * weighted / weights - phase)) / TWO_PI)
            phase += np.float32(TWO_PI * turns)
            unwrapped[valid, echo] = phase
        power = 1.0 if magnitude is None else np.square(np.maximum(magnitude[valid, echo], 1e-12), dtype=np.float64)
        weighted += power * time * phase
        weights += power * time**2


def _source(wrapped: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divergence of the wrapped differences, 0 for a difference that is not finite and at the volume's faces."""
    source = np.zeros_like(wrapped)
    turn = np.float32(2 * np.pi)
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        step = wrapped[high] - wrapped[low]
        step -= turn * np.rint(step / turn)
        np.nan_to_num(step, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        source[low] += step
        source[high] -= step
    return source


def _eigenvalues(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Of the discrete Laplacian with mirrored faces, in the order of the cosine transform; 1 at the mean."""
    x, y, z = (2.0 * np.cos(np.pi * np.arange(n) / n) - 2.0 for n in shape)
    values = (x[:, None, None] + y[None, :, None] + z[None, None, :]).astype(np.float32)
    values[0, 0, 0] = 1.0
    return values


def _solve(source: NDArray[np.float32], eigenvalues: NDArray[np.float32]) -> NDArray[np.float32]:
    """Solution of the Poisson equation with mirrored faces and mean 0."""
    spectrum = fft.dctn(source)
    spectrum /= eigenvalues
    spectrum[0, 0, 0] = 0.0
    solution: NDArray[np.float32] = fft.idctn(spectrum, overwrite_x=True)
    return solution


def _circular_mean(angle_rad: NDArray[np.float32]) -> float:
    """Direction of the mean unit vector, rad; 0 for no angles."""
    if angle_rad.size == 0:
        return 0.0
    return float(np.arctan2(np.mean(np.sin(angle_rad), dtype=np.float64), np.mean(np.cos(angle_rad), dtype=np.float64)))


LAPLACIAN = Method(
    name="laplacian",
    title="Laplacian unwrapping",
    function=laplacian,
    parameters=LaplacianParameters,
    sentence="The phase was unwrapped with the Laplacian method.",
    citations=(
        Citation(
            key="schofield2003",
            authors="Schofield MA, Zhu Y",
            title="Fast phase unwrapping algorithm for interferometric applications",
            journal="Optics Letters",
            year=2003,
            doi="10.1364/OL.28.001194",
        ),
        Citation(
            key="ghiglia1994",
            authors="Ghiglia DC, Romero LA",
            title="Robust two-dimensional weighted and unweighted phase unwrapping "
            "that uses fast transforms and iterative methods",
            journal="Journal of the Optical Society of America A",
            year=1994,
            doi="10.1364/JOSAA.11.000107",
        ),
    ),
)
