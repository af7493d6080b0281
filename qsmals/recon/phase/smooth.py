"""Smoothing of a phase: as a complex number, inside a mask, without bias at the mask's edge."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SAMPLES_PER_SIGMA = 3.0
"""Smoothing happens on blocks of voxels, about so many to a standard deviation."""

PASSES = 2
"""Times that planes are fitted to what is left. On a simulated head the error of a coil's phase falls from 22 mrad
(mean only) to 3.5 and 1.8 mrad, in the outer 4 mm of the brain from 41 to 6 and 3 mrad."""

RIDGE = 0.01
"""Variance, in units of sigma^2, that is added to the spread of the samples around a point; it makes the fitted
plane flat where all samples lie to one side."""


def smooth_phase(
    angle_rad: NDArray[np.float32],
    *,
    weight: NDArray[np.float32],
    sigma_mm: float,
    voxel_size_mm: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Gaussian smoothing of wrapped phase by local linear regression.

    A normalised Gaussian mean of the complex phase gives a first estimate. At the edge of the mask it is
    the phase of a point further inside, because all samples lie there. A plane is therefore fitted around every point
    to what is left, with the same Gaussian as weight, and its value at the point is added; then once more.

    Parameters
    ----------
    angle_rad : (x, y, z) float32
        Phase, rad, wrapped or not; smooth apart from noise.
    weight : (x, y, z) float32
        Weight of each voxel, 0 or more; 0 outside the mask, where the phase may be anything.
    sigma_mm : float
        Standard deviation of the Gaussian, mm.
    voxel_size_mm : (3,) float
        Edge lengths of a voxel, mm.

    Returns
    -------
    (x, y, z) float32
        Smooth phase in -pi..pi, continued outside the mask; 0 everywhere without any weight.

    References
    ----------
    Local linear regression: Fan J. J Am Stat Assoc 1992;87:998-1004. doi:10.1080/01621459.1992.10476255
    """
    block = tuple(max(1, round(sigma_mm / (SAMPLES_PER_SIGMA * size))) for size in voxel_size_mm)
    sigma = np.array([sigma_mm / (size * n) for size, n in zip(voxel_size_mm, block, strict=True)])
    inside = weight > 0
    angle = np.where(inside, angle_rad, 0.0).astype(np.float32)
    amount = np.where(inside, weight, 0.0).astype(np.float32)
    real, imaginary = (block_sum(amount * part(angle), block) for part in (np.cos, np.sin))
    signal = np.asarray(real + 1j * imaginary, dtype=np.complex128)
    peak = float(np.abs(signal).max())
    if peak == 0.0:
        return np.zeros(angle.shape, dtype=np.float32)
    smooth = _local_linear(signal / peak, sigma)
    return _enlarge(smooth, block, angle.shape)


def block_sum(volume: NDArray[np.float32], block: tuple[int, ...]) -> NDArray[np.float64]:
    """Sum over blocks of voxels; an incomplete block at the high end counts what it has.

    Examples
    --------
    >>> block_sum(np.ones((3, 2, 1), dtype=np.float32), (2, 2, 1))[:, 0, 0].tolist()
    [4.0, 2.0]
    """
    total: NDArray[np.floating] = volume
    for axis, n in enumerate(block):
        total = np.add.reduceat(total, np.arange(0, volume.shape[axis], n), axis=axis, dtype=np.float64)
    return np.asarray(total, dtype=np.float64)


def _local_linear(signal: NDArray[np.complex128], sigma: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Unit complex numbers with the smoothed phase of a weighted complex signal."""
    angle = np.angle(_gaussian(signal.real, sigma) + 1j * _gaussian(signal.imag, sigma))
    weight = np.abs(signal)
    for _ in range(PASSES):
        angle = angle + _plane_value(np.angle(signal * np.exp(-1j * angle)), weight, sigma)
    return np.asarray(np.exp(1j * angle))


def _plane_value(
    values: NDArray[np.float64], weight: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Value at each point of the plane that fits the values around it best; coordinates in units of sigma."""
    axes = [
        (np.arange(n) / s).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, s) in enumerate(zip(values.shape, sigma, strict=True))
    ]
    w0 = _gaussian(weight, sigma)
    d0 = _gaussian(weight * values, sigma)
    w1 = [_gaussian(weight * x, sigma) for x in axes]
    matrix = np.empty((*values.shape, 3, 3))
    right = np.empty((*values.shape, 3))
    first = np.stack([w1[i] - axes[i] * w0 for i in range(3)], axis=-1)
    for i in range(3):
        right[..., i] = _gaussian(weight * values * axes[i], sigma) - axes[i] * d0
        for j in range(i, 3):
            second = _gaussian(weight * axes[i] * axes[j], sigma)
            matrix[..., i, j] = second - axes[i] * w1[j] - axes[j] * w1[i] + axes[i] * axes[j] * w0
            matrix[..., j, i] = matrix[..., i, j]
    return _solve_plane(w0, d0, first, matrix, right)


def _solve_plane(
    w0: NDArray[np.float64],
    d0: NDArray[np.float64],
    first: NDArray[np.float64],
    matrix: NDArray[np.float64],
    right: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Constant term of the weighted plane, from the moments about each point; 0 where there is no weight near."""
    value = np.zeros_like(w0)
    near = w0 > 1e-12 * w0.max()
    total = w0[near]
    centre = first[near] / total[:, None]
    mean = d0[near] / total
    spread = matrix[near] / total[:, None, None] - centre[:, :, None] * centre[:, None, :]
    covariance = right[near] / total[:, None] - centre * mean[:, None]
    slope = np.linalg.solve(spread + RIDGE * np.eye(3), covariance[..., None])[..., 0]
    value[near] = mean - np.sum(slope * centre, axis=1)
    return value


def _gaussian(volume: NDArray[np.float64], sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian filter that sees zeros beyond the faces."""
    filtered: NDArray[np.float64] = ndimage.gaussian_filter(volume, sigma, mode="constant", truncate=4.0)
    return filtered


def _enlarge(coarse: NDArray[np.complex128], block: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Phase of unit complex numbers at block centres, interpolated linearly to the voxels."""
    volume = coarse.astype(np.complex64)
    for axis, (n, size) in enumerate(zip(block, shape, strict=True)):
        if n > 1:
            position = np.clip((np.arange(size) - (n - 1) / 2) / n, 0, volume.shape[axis] - 1)
            low = np.minimum(position.astype(int), max(volume.shape[axis] - 2, 0))
            share = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            high = np.minimum(low + 1, volume.shape[axis] - 1)
            volume = volume.take(low, axis) * (1 - share) + volume.take(high, axis) * share
    return np.angle(volume).astype(np.float32)
