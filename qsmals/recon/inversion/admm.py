"""Steps that the alternating direction methods of the inversions share, each one pass over the volume.

Boyd S, et al. Found Trends Mach Learn 2011;3:1-122. doi:10.1561/2200000016
"""

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier

Volume = NDArray[np.float32]


def padded(volume: Volume, shape: fourier.Shape) -> Volume:
    """The volume with zeros at its high end."""
    result = np.zeros(shape, dtype=np.float32)
    nx, ny, nz = volume.shape
    result[:nx, :ny, :nz] = volume
    return result


def relative_change(new: Volume, old: Volume) -> float:
    """Norm of the change over the norm of the new volume, summed in float64; 0 if both vanish."""
    change, norm = _squares(new, old).sum(axis=0)
    return float(np.sqrt(change / norm)) if norm > 0 else 0.0


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _squares(new: Volume, old: Volume) -> NDArray[np.float64]:
    """Sums of squares of change and value per slab, so that the result does not depend on the threads."""
    result = np.zeros((new.shape[0], 2))
    for i in prange(new.shape[0]):
        change = 0.0
        norm = 0.0
        for j in range(new.shape[1]):
            for k in range(new.shape[2]):
                difference = np.float64(new[i, j, k]) - np.float64(old[i, j, k])
                change += difference * difference
                norm += np.float64(new[i, j, k]) * np.float64(new[i, j, k])
        result[i, 0] = change
        result[i, 1] = norm
    return result


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def add_product(total: NDArray[np.complex64], spectrum: NDArray[np.complex64], factor: Volume) -> None:
    """total += spectrum * factor, in one pass."""
    for i in prange(total.shape[0]):
        for j in range(total.shape[1]):
            for k in range(total.shape[2]):
                total[i, j, k] += spectrum[i, j, k] * factor[i, j, k]


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def update_field(
    explained: Volume, local: Volume, weight: Volume, mu: np.float32, multiplier: Volume, target: Volume
) -> None:
    """y between data and model by their weights, then its multiplier u, and the next target y - u."""
    for i in prange(local.shape[0]):
        for j in range(local.shape[1]):
            for k in range(local.shape[2]):
                w = weight[i, j, k]
                sum_ = explained[i, j, k] + multiplier[i, j, k]
                y = (w * local[i, j, k] + mu * sum_) / (w + mu)
                multiplier[i, j, k] = sum_ - y
                target[i, j, k] = y - multiplier[i, j, k]


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def update_gradient(
    chi: Volume, thresholds: Volume, inverse_size: NDArray[np.float32], dual: Volume, split: Volume
) -> None:
    """z = shrink(grad chi + v), v = what the shrinkage cut off, and split = z - v for the next step.

    The thresholds have the shape (3, x, y, z), or (1, 1, 1, 1) for the same everywhere.
    """
    nx, ny, nz = chi.shape
    single = thresholds.size == 1
    for i in prange(nx):
        i1 = (i + 1) % nx
        for j in range(ny):
            j1 = (j + 1) % ny
            for k in range(nz):
                k1 = (k + 1) % nz
                here = chi[i, j, k]
                for axis in range(3):
                    if axis == 0:
                        slope = (chi[i1, j, k] - here) * inverse_size[0]
                    elif axis == 1:
                        slope = (chi[i, j1, k] - here) * inverse_size[1]
                    else:
                        slope = (chi[i, j, k1] - here) * inverse_size[2]
                    threshold = thresholds[0, 0, 0, 0] if single else thresholds[axis, i, j, k]
                    value = slope + dual[axis, i, j, k]
                    cut = min(max(value, -threshold), threshold)
                    dual[axis, i, j, k] = cut
                    split[axis, i, j, k] = value - np.float32(2.0) * cut


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def adjoint_gradient(split: Volume, inverse_size: NDArray[np.float32], source: Volume) -> None:
    """Adjoint of the periodic forward difference."""
    nx, ny, nz = source.shape
    for i in prange(nx):
        i0 = (i - 1) % nx
        for j in range(ny):
            j0 = (j - 1) % ny
            for k in range(nz):
                k0 = (k - 1) % nz
                source[i, j, k] = (
                    (split[0, i0, j, k] - split[0, i, j, k]) * inverse_size[0]
                    + (split[1, i, j0, k] - split[1, i, j, k]) * inverse_size[1]
                    + (split[2, i, j, k0] - split[2, i, j, k]) * inverse_size[2]
                )
