"""Kernels of convolution and finite differences on a grid, in the layout of real FFTs.

Every spectrum here is the half spectrum of :func:`scipy.fft.rfftn`, of shape ``(nx, ny, nz // 2 + 1)``.
Volumes are padded with zeros at their high end, which is as good as on both sides because the
transform is cyclic. The number of threads is the caller's (:func:`scipy.fft.set_workers`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qsmals.recon.grid import Grid

Shape = tuple[int, int, int]

EDGE_SAMPLES = 7
"""Points per voxel edge at which the surface of a sphere is sampled."""


def padded_shape(shape: Shape, margin: int | Shape = 0) -> Shape:
    """Smallest sizes of at least ``shape + margin`` voxels for which a real FFT is fast.

    Parameters
    ----------
    shape : (3,) int
        Size of the volume.
    margin : int or (3,) int
        Voxels of zeros to add at least, along each axis.

    Examples
    --------
    >>> padded_shape((101, 97, 40), 12)
    (120, 120, 54)
    """
    margins = (margin,) * 3 if isinstance(margin, int) else margin
    if min(margins) < 0:
        raise ValueError(f"the margin is a number of voxels to add, not {margin}")
    nx, ny, nz = (fft.next_fast_len(n + m, real=True) for n, m in zip(shape, margins, strict=True))
    return nx, ny, nz


def margin_voxels(margin_mm: float, grid: Grid) -> Shape:
    """Voxels that cover ``margin_mm`` along each axis, rounded up."""
    x, y, z = (int(np.ceil(margin_mm / size - 1e-6)) for size in grid.voxel_size_mm)
    return x, y, z


def transform(volume: NDArray[np.float32], shape: Shape) -> NDArray[np.complex64]:
    """Half spectrum of a real volume padded with zeros to ``shape``."""
    spectrum: NDArray[np.complex64] = fft.rfftn(volume, s=shape)
    return spectrum


def inverse(spectrum: NDArray[np.complex64], shape: Shape, crop: Shape | None = None) -> NDArray[np.float32]:
    """Real volume of size ``shape`` of a half spectrum, cut to its first ``crop`` voxels.

    The spectrum is overwritten.
    """
    volume: NDArray[np.float32] = fft.irfftn(spectrum, s=shape, overwrite_x=True)
    if crop is None:
        return volume
    return np.ascontiguousarray(volume[: crop[0], : crop[1], : crop[2]])


def frequencies(shape: Shape, voxel_size_mm: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Spatial frequencies in 1/mm along each axis, as arrays that broadcast to the half spectrum."""
    kx = fft.fftfreq(shape[0], voxel_size_mm[0])
    ky = fft.fftfreq(shape[1], voxel_size_mm[1])
    kz = fft.rfftfreq(shape[2], voxel_size_mm[2])
    return kx[:, None, None], ky[None, :, None], kz[None, None, :]


def laplacian_kernel(grid: Grid, shape: Shape | None = None) -> NDArray[np.float32]:
    r"""Spectrum of minus the discrete Laplacian, ``sum_i (2 - 2 cos(2 pi k_i h_i)) / h_i^2``, 1/mm^2.

    It is the squared modulus of the periodic forward difference of :func:`gradient`.

    Returns
    -------
    (nx, ny, nz // 2 + 1) float32, 0 or more
    """
    shape = shape or grid.shape
    size = grid.voxel_size_mm
    terms = [
        (2.0 - 2.0 * np.cos(2.0 * np.pi * k * h)) / h**2 for k, h in zip(frequencies(shape, size), size, strict=True)
    ]
    return np.asarray(terms[0] + terms[1] + terms[2], dtype=np.float32)


def gradient(volume: NDArray[np.float32], voxel_size_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """Periodic forward differences, per mm.

    Parameters
    ----------
    volume : (x, y, z) float32
        Any unit. NaN spreads to the neighbours.
    voxel_size_mm : (3,) float
        Edge lengths.

    Returns
    -------
    (3, x, y, z) float32, the volume's unit per mm
    """
    result = np.empty((3, *volume.shape), dtype=volume.dtype)
    for axis, size in enumerate(voxel_size_mm):
        np.subtract(np.roll(volume, -1, axis), volume, out=result[axis])
        result[axis] /= volume.dtype.type(size)
    return result


def sphere(radius_mm: float, voxel_size_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Weights of a spherical mean around a voxel, right for voxels of any shape.

    The weight of a voxel is the part of it inside the sphere (anti-aliased by sampling the surface),
    divided by their sum. The face neighbours of the centre are then adjusted to make the second
    moments equal along the three axes, so that the mean of any harmonic polynomial up to the third degree
    is exactly its value at the centre; on a 1x1x2 mm grid this lowers the error for a dipole's field by half,
    and against a sphere of whole voxels by five to ten times.

    Parameters
    ----------
    radius_mm : float
        Radius, at least half of the smallest voxel edge so that a neighbour is reached.
    voxel_size_mm : (3,) float
        Edge lengths.

    Returns
    -------
    (2i+1, 2j+1, 2k+1) float64
        Weights about the central voxel, with sum 1.

    Raises
    ------
    ValueError
        The sphere lies within the central voxel.

    Examples
    --------
    >>> weights = sphere(0.6, (1.0, 1.0, 1.0))
    >>> weights.shape, int((weights > 0).sum())
    ((3, 3, 3), 7)
    """
    size = np.asarray(voxel_size_mm, dtype=float)
    if radius_mm <= 0.5 * size.min():
        raise ValueError(f"a sphere of {radius_mm} mm reaches no neighbour in voxels of {tuple(size.tolist())} mm")
    half = np.maximum(np.ceil(radius_mm / size - 0.5).astype(int), 1)
    axes = np.meshgrid(*[np.arange(-n, n + 1) * h for n, h in zip(half, size, strict=True)], indexing="ij")
    weights = _inside(axes, radius_mm, size)
    weights /= weights.sum()
    return _balanced(weights, axes, size)


def _inside(axes: Sequence[NDArray[np.float64]], radius_mm: float, size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of each voxel within the radius of the origin."""
    distance = np.sqrt(sum(x**2 for x in axes))
    weights = (distance <= radius_mm).astype(float)
    shell = np.abs(distance - radius_mm) <= 0.5 * np.linalg.norm(size)
    offset = (np.arange(EDGE_SAMPLES) + 0.5) / EDGE_SAMPLES - 0.5
    points = np.stack(np.meshgrid(*[offset * h for h in size], indexing="ij")).reshape(3, 1, -1)
    centres = np.stack([x[shell] for x in axes])[:, :, None]
    weights[shell] = (np.sum((centres + points) ** 2, axis=0) < radius_mm**2 * (1 + 1e-9)).mean(axis=1)
    return weights


def _balanced(
    weights: NDArray[np.float64], axes: Sequence[NDArray[np.float64]], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights with equal second moments along the axes, at the least change in the sense of least squares."""
    moments = np.array([np.sum(weights * x**2) for x in axes])
    a = 0.5 / size**2
    target = (np.sum(a**2 * moments) + 2 * np.sum(a * moments) * a.sum()) / (np.sum(a**2) + 2 * a.sum() ** 2)
    centre = np.array(weights.shape) // 2
    for axis in range(3):
        extra = a[axis] * (target - moments[axis])
        for step in (-1, 1):
            neighbour = centre.copy()
            neighbour[axis] += step
            weights[tuple(neighbour)] += extra
        weights[tuple(centre)] -= 2.0 * extra
    return weights


def sphere_reach_mm(radius_mm: float, voxel_size_mm: tuple[float, float, float]) -> float:
    """Distance, mm, from the centre to the farthest voxel that :func:`sphere` gives any weight."""
    weights = sphere(radius_mm, voxel_size_mm)
    offsets = (np.argwhere(weights != 0) - np.array(weights.shape) // 2) * np.asarray(voxel_size_mm)
    return float(np.sqrt((offsets**2).sum(axis=1).max()))


def sphere_kernel(radius_mm: float, grid: Grid, shape: Shape) -> NDArray[np.float32]:
    """Spectrum of :func:`sphere` on a padded grid; real because the sphere is even.

    Parameters
    ----------
    radius_mm : float
        Radius of the spherical mean.
    grid : Grid
        Voxel size.
    shape : (3,) int
        Padded size; the sphere must fit into it.

    Returns
    -------
    (nx, ny, nz // 2 + 1) float32, 1 at k = 0
    """
    weights = sphere(radius_mm, grid.voxel_size_mm)
    if any(w > n for w, n in zip(weights.shape, shape, strict=True)):
        raise ValueError(f"a sphere of {radius_mm} mm does not fit into {shape} voxels of {grid.voxel_size_mm} mm")
    return centred_kernel(weights, shape)


def centred_kernel(weights: NDArray[np.floating], shape: Shape) -> NDArray[np.float32]:
    """Spectrum of even weights about their central voxel on a padded grid at least as large; real."""
    volume = np.zeros(shape, dtype=np.float32)
    volume[: weights.shape[0], : weights.shape[1], : weights.shape[2]] = weights
    x, y, z = (-(n // 2) for n in weights.shape)
    return np.ascontiguousarray(fft.rfftn(np.roll(volume, (x, y, z), (0, 1, 2))).real)
