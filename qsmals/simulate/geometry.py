"""Rigid motion, smooth random fields and resampling on head grids."""

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)
BOX_MM = 320.0
"""Edge of the cube, centred on the head's origin, on which the random fields are defined."""
_SPLINE_SPREAD = np.float32(np.sqrt(151 / 315))
"""Standard deviation of a cubic B-spline series with random coefficients of standard deviation 1."""


def rotation(axis: ArrayLike, degrees: float) -> NDArray[np.float64]:
    """(4, 4) rotation about an axis through the origin, right-handed.

    Examples
    --------
    >>> (rotation((0, 0, 1), 90) @ [1, 0, 0, 1]).round(6).tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    direction = np.asarray(axis, dtype=float)
    length = np.linalg.norm(direction)
    if length == 0:
        raise ValueError("the axis of a rotation cannot be zero")
    x, y, z = direction / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def random_motion(*, translation_mm: float, rotation_deg: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(4, 4) rigid motion of the stated size, about the origin, in a random direction."""
    axis, shift = rng.standard_normal(3), rng.standard_normal(3)
    matrix = rotation(axis, rotation_deg)
    matrix[:3, 3] = translation_mm * shift / np.linalg.norm(shift)
    return matrix


def cubic_weights(position: NDArray[np.float64], count: int) -> FloatArray:
    """Weights of ``count`` uniform cubic B-splines, one per unit, at each position.

    Parameters
    ----------
    position : (n,) float
        Positions; spline i is centred on i.

    Returns
    -------
    (n, count) float32
    """
    distance = np.abs(position[:, None] - np.arange(count)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def random_field(
    shape: tuple[int, int, int], *, affine: NDArray[np.float64], spacing_mm: float, rng: np.random.Generator
) -> FloatArray:
    """Smooth Gaussian random field, the same function of position on every grid.

    Cubic B-splines on a lattice of random control values over a fixed cube around the origin.

    Parameters
    ----------
    shape : tuple of int, (3,)
    affine : (4, 4) float
        Voxel to head coordinates, mm; axes aligned with the head's.
    spacing_mm : float
        Distance of the control points; features are about twice as large.

    Returns
    -------
    (x, y, z) float32
        Mean 0 and standard deviation 1 over the ensemble.
    """
    count = int(np.ceil(BOX_MM / spacing_mm)) + 4
    control = rng.standard_normal((count, count, count)).astype(np.float32)
    for axis in range(3):
        position = (affine[axis, axis] * np.arange(shape[axis]) + affine[axis, 3] + BOX_MM / 2) / spacing_mm + 1.5
        weights = cubic_weights(np.clip(position, 1, count - 2), count)
        control = np.moveaxis(np.tensordot(control, weights / _SPLINE_SPREAD, axes=(0, 1)), -1, 2)
    return np.ascontiguousarray(control, dtype=np.float32)


def coordinates(shape: tuple[int, ...], affine: NDArray[np.float64]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Open mesh of head coordinates, mm, of a grid whose axes are the head's."""
    x, y, z = (affine[i, i] * np.arange(shape[i]) + affine[i, 3] for i in range(3))
    return (
        x[:, None, None].astype(np.float32),
        y[None, :, None].astype(np.float32),
        z[None, None, :].astype(np.float32),
    )


def resample(
    volume: NDArray[Scalar],
    *,
    matrix: NDArray[np.float64],
    shape: tuple[int, int, int],
    order: int = 1,
    outside: str = "nearest",
    fill: float = 0.0,
) -> NDArray[Scalar]:
    """Sample ``volume`` at ``matrix @ index`` for every index of a new grid.

    Parameters
    ----------
    volume : (x, y, z) array
    matrix : (4, 4) float
        Voxel of the new grid to voxel of ``volume``.
    order : int
        0 for labels, 1 for linear interpolation.
    outside : str
        ``nearest`` continues the edge, ``constant`` gives ``fill``.

    Returns
    -------
    array of ``shape`` and of the type of ``volume``
    """
    result: NDArray[Scalar] = ndimage.affine_transform(
        volume, matrix[:3, :3], offset=matrix[:3, 3], output_shape=shape, order=order, mode=outside, cval=fill
    )
    return result
