"""Slices with alternating sign, as GE writes real and imaginary images.

The reconstruction leaves out the shift of the Fourier transform along the slices, which multiplies every second slice
by -1: a phase step of pi from each slice to the next.
"""

import numpy as np
from numpy.typing import NDArray

SHARE = 0.5
"""An axis alternates if its mean cosine of the phase step is below minus this share of the best axis's. Ordinary
heads have 0.8 and more along every axis, noise lowers all axes alike, and a gradient that would bring an axis below 0
leaves no signal."""

CLEAR = 0.25
"""A mean cosine below minus this is an alternation whatever the other axes show."""

CHANCE = 0.05
"""A mean cosine of this size can be chance."""

MAJORITY = 0.8
"""Fraction of the pairs of slices (by signal) that must show the step."""


def neighbour_correlation(signal: NDArray[np.complex64], axis: int) -> tuple[float, float]:
    """How alike neighbouring slices are along an axis.

    Parameters
    ----------
    signal : (x, y, z) complex
        Complex signal of one echo; values that are not finite count as 0.
    axis : int
        Axis across the slices.

    Returns
    -------
    correlation : float
        Mean cosine of the phase step, weighted by the product of the magnitudes; -1..1, 0 without signal.
    alternating : float
        Part of the signal in pairs of slices whose own correlation is negative; 0..1.

    Examples
    --------
    >>> slices = np.ones((4, 4, 6), dtype=np.complex64) * (-1.0) ** np.arange(6)
    >>> neighbour_correlation(slices, 2), neighbour_correlation(slices, 0)
    ((-1.0, 1.0), (1.0, 0.0))
    """
    finite = np.moveaxis(np.where(np.isfinite(signal), signal, 0), axis, 0)
    product = finite[1:] * np.conj(finite[:-1])
    even = product.real.sum(axis=(1, 2), dtype=np.float64)
    total = np.abs(product).sum(axis=(1, 2), dtype=np.float64)
    if total.sum() == 0:
        return 0.0, 0.0
    return float(even.sum() / total.sum()), float(total[even < 0].sum() / total.sum())


def detect_alternating_slices(signal: NDArray[np.complex64]) -> int | None:
    """Axis along which every second slice has the wrong sign.

    The test looks at the phase step of each voxel to its neighbour, weighted by signal, so that air and dephased
    voxels do not count; noise, fat and the field's gradient spread the step about 0 (or about pi with the
    alternation), and no gradient that leaves signal turns one into the other.

    Parameters
    ----------
    signal : (x, y, z) complex64
        First echo: the shortest echo time has the smallest steps of its own. Values that are not finite are ignored.

    Returns
    -------
    int or None
        0, 1 or 2; None for ordinary data.

    Raises
    ------
    ValueError
        The signal is not a complex volume.

    Examples
    --------
    >>> slices = np.ones((4, 4, 6), dtype=np.complex64)
    >>> detect_alternating_slices(slices) is None
    True
    >>> detect_alternating_slices(slices * (-1.0) ** np.arange(6))
    2
    """
    if signal.ndim != 3 or not np.iscomplexobj(signal):
        raise ValueError(f"the signal is one complex volume, not {signal.ndim}-dimensional {signal.dtype}")
    results = [neighbour_correlation(signal, axis) for axis in range(3)]
    axis = int(np.argmin([correlation for correlation, _ in results]))
    correlation, alternating = results[axis]
    best = max(correlation for correlation, _ in results)
    threshold = -min(max(SHARE * best, CHANCE), CLEAR)
    return axis if correlation < threshold and alternating > MAJORITY else None


def undo_alternating_slices(signal: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """Multiply every second slice, beginning with the second, by -1.

    Parameters
    ----------
    signal : (x, y, z) or (x, y, z, e) complex64
        Complex signal.
    axis : int
        Axis across the slices, 0, 1 or 2.

    Returns
    -------
    complex64
        A new array of the same shape. Which half is turned is a matter of a constant phase of pi.
    """
    if axis not in (0, 1, 2):
        raise ValueError(f"the slice axis is 0, 1 or 2, not {axis}")
    result = np.array(signal)
    every_second = tuple(slice(1, None, 2) if a == axis else slice(None) for a in range(3))
    result[every_second] *= -1
    return result
