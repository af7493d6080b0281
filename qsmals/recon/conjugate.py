"""Conjugate gradients on volumes, with sums in float64 that do not depend on the number of threads."""

from collections.abc import Callable

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon.convergence import Convergence

Volume = NDArray[np.float32]


def conjugate_gradient(
    operator: Callable[[Volume], Volume], right: Volume, *, tolerance: float, max_iterations: int
) -> tuple[Volume, Convergence]:
    """Solve ``operator(x) = right`` from x = 0.

    Parameters
    ----------
    operator : callable
        Symmetric, positive semidefinite; volume in, new volume out.
    right : (x, y, z) float32
        Right-hand side, in the operator's range.
    tolerance : float
        Stop when the residual's norm is below this multiple of that of ``right``.
    max_iterations : int
        Stop after these many applications of the operator.

    Returns
    -------
    solution : (x, y, z) float32
    convergence : Convergence
        Relative residual after each iteration.

    References
    ----------
    Hestenes MR, Stiefel E. J Res Natl Bur Stand 1952;49:409-436. doi:10.6028/jres.049.044

    Examples
    --------
    >>> ones = np.ones((2, 2, 2), np.float32)
    >>> x, reached = conjugate_gradient(lambda v: 2 * v, ones, tolerance=1e-6, max_iterations=5)
    >>> float(x[0, 0, 0]), reached.iterations
    (0.5, 1)
    """
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = right.copy()
    power = start = dot(residual, residual)
    changes: list[float] = []
    while power > 0 and len(changes) < max_iterations:
        image = operator(direction)
        curvature = dot(direction, image)
        if curvature <= 0:
            break
        _advance(solution, residual, direction, image, np.float32(power / curvature))
        previous, power = power, dot(residual, residual)
        changes.append(float(np.sqrt(power / start)))
        if changes[-1] <= tolerance:
            break
        _turn(direction, residual, np.float32(power / previous))
    return solution, Convergence(len(changes), tuple(changes), tolerance)


def dot(a: Volume, b: Volume) -> float:
    """Sum of products in float64, slab by slab."""
    return float(_slab_dots(a, b).sum())


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _slab_dots(a: Volume, b: Volume) -> NDArray[np.float64]:
    sums = np.zeros(a.shape[0])
    for i in prange(a.shape[0]):
        total = 0.0
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                total += np.float64(a[i, j, k]) * np.float64(b[i, j, k])
        sums[i] = total
    return sums


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _advance(solution: Volume, residual: Volume, direction: Volume, image: Volume, step: np.float32) -> None:
    for i in prange(solution.shape[0]):
        for j in range(solution.shape[1]):
            for k in range(solution.shape[2]):
                solution[i, j, k] += step * direction[i, j, k]
                residual[i, j, k] -= step * image[i, j, k]


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _turn(direction: Volume, residual: Volume, factor: np.float32) -> None:
    for i in prange(direction.shape[0]):
        for j in range(direction.shape[1]):
            for k in range(direction.shape[2]):
                direction[i, j, k] = residual[i, j, k] + factor * direction[i, j, k]
