"""Steps that the alternating direction methods of the inversions share, each one pass over the volume.

Boyd S, et al. Found Trends Mach Learn 2011;3:1-122. doi:10.1561/2200000016
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid

Volume = NDArray[np.float32]


def padded(volume: Volume, shape: fourier.Shape) -> Volume:
    """The volume with zeros at its high end."""
    result = np.zeros(shape, dtype=np.float32)
    nx, ny, nz = volume.shape
    result[:nx, :ny, :nz] = volume
    return result


def kernel_factors(
    dipole: Volume, grid: Grid, shape: fourier.Shape, field_penalty: float, slope_penalty: float, own_penalty: float = 0
) -> tuple[Volume, Volume, Volume]:
    """Factors from the spectra of the targets of field, gradient and susceptibility to that of the susceptibility.

    Those of ``(mu D^2 + rho |E|^2 + tau) chi = mu D (y - u) + rho E^T (z - v) + tau (w - s)``; 0 at k = 0 without tau.
    """
    mu, rho, tau = np.float32(field_penalty), np.float32(slope_penalty), np.float32(own_penalty)
    denominator = mu * dipole**2 + rho * fourier.laplacian_kernel(grid, shape) + tau
    if denominator[0, 0, 0] == 0:
        denominator[0, 0, 0] = np.inf
    by_field, by_source, by_own = (np.asarray(f / denominator, np.float32) for f in (mu * dipole, rho, tau))
    return by_field, by_source, by_own


def least_variation(
    local: Volume,
    grid: Grid,
    *,
    field_penalty: float,
    slope_penalty: float,
    threshold: float | Volume,
    update: Callable[[Volume, Volume, Volume], None],
    tolerance: float,
    max_iterations: int,
    least_iterations: int = 1,
    dipole: Volume | None = None,
    own_penalty: float = 0.0,
    own_target: Callable[[Volume], Volume] | None = None,
) -> tuple[Volume, Convergence]:
    """Susceptibility with the least total variation on the padded grid, from zero.

    With y in place of D chi, z in place of grad chi and their scaled multipliers u and v, each round solves
    ``(mu D^2 + rho |E|^2) chi = mu D (y - u) + rho E^T (z - v)``, then for z by shrinkage and for y by ``update``,
    which is given the explained field, u and the next target y - u and changes the last two.

    The threshold of the shrinkage may be a volume for each difference, (3, x, y, z), and the dipole another than that
    of the grid. It does not stop before ``least_iterations``, so that an ``update`` may change with them. What else
    the objective says of the susceptibility itself comes in by ``own_target``: it is given chi and returns the next
    target w - s of a copy w of chi with the multiplier s, whose penalty is ``own_penalty``.
    """
    shape = local.shape
    thresholds = np.full((1, 1, 1, 1), threshold, np.float32) if isinstance(threshold, float) else threshold
    inverse_size = (np.float32(1.0) / np.asarray(grid.voxel_size_mm, dtype=np.float32)).astype(np.float32)
    dipole = dipole_kernel(grid, shape) if dipole is None else dipole
    by_field, by_source, by_own = kernel_factors(dipole, grid, shape, field_penalty, slope_penalty, own_penalty)
    target, multiplier = local.copy(), np.zeros_like(local)
    split, dual = np.zeros((3, *shape), dtype=np.float32), np.zeros((3, *shape), dtype=np.float32)
    source, chi = np.zeros_like(local), np.zeros_like(local)
    own = None
    changes: list[float] = []
    while len(changes) < max_iterations:
        spectrum = fourier.transform(target, shape)
        spectrum *= by_field
        if changes:
            add_product(spectrum, fourier.transform(source, shape), by_source)
        if own is not None:
            add_product(spectrum, fourier.transform(own, shape), by_own)
        explained = spectrum * dipole
        previous, chi = chi, fourier.inverse(spectrum, shape)
        changes.append(relative_change(chi, previous))
        if changes[-1] <= tolerance and len(changes) >= least_iterations:
            break
        update(fourier.inverse(explained, shape), multiplier, target)
        update_gradient(chi, thresholds, inverse_size, dual, split)
        adjoint_gradient(split, inverse_size, source)
        if own_target is not None:
            own = own_target(chi)
    return chi, Convergence(len(changes), tuple(changes), tolerance)


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
