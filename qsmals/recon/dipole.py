"""The dipole on a periodic grid: the kernel that a scanner's band-limited images obey, and that of a single voxel.

References
----------
Salomir R, de Senneville BD, Moonen CTW. Concepts Magn Reson B 2003;19B:26-34. doi:10.1002/cmr.b.10083
Marques JP, Bowtell R. Concepts Magn Reson B 2005;25B:65-78. doi:10.1002/cmr.b.20034
Ewald PP. Ann Phys 1921;369:253-287. doi:10.1002/andp.19213690304
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

from qsmals.recon import fourier
from qsmals.recon.grid import Grid

Kernel = Callable[[Grid, fourier.Shape], NDArray[np.float32]]

WIDTH = 1.5
"""Standard deviation, in the longest voxel edge, of the Gaussian that parts the near from the far dipole."""

NEAR = 7.0
"""Distance, in standard deviations, beyond which the near part is below float32's precision."""


def dipole_kernel(grid: Grid, shape: fourier.Shape | None = None) -> NDArray[np.float32]:
    r"""Half spectrum of the dipole as a scanner sees it, ``1/3 - (k.b)^2 / |k|^2`` up to the grid's highest frequency.

    A scanner measures the centre of k-space: of a susceptibility and of its field the part below the highest frequency
    of the grid, and between these two the kernel is exact, at any tilt and for voxels of unequal edges. Where an edge
    has an even number of voxels the highest frequency stands for both its signs, and the kernel is their mean.

    The kernel of sources that a grid cannot hold, air with its jump of 9 ppm, is :func:`voxel_dipole_kernel`.

    Parameters
    ----------
    grid : Grid
        Voxel size and B0 direction.
    shape : (3,) int, optional
        Padded size of the transform; ``grid.shape`` without it.

    Returns
    -------
    (nx, ny, nz // 2 + 1) float32
        Dimensionless, from -2/3 to 1/3; 0 at k = 0.

    Examples
    --------
    >>> kernel = dipole_kernel(Grid((32, 32, 32), (1.0, 1.0, 1.0)))
    >>> round(float(kernel[1, 0, 0]), 3), round(float(kernel[0, 0, 1]), 3)
    (0.333, -0.667)
    """
    shape = shape or grid.shape
    k = fourier.frequencies(shape, grid.voxel_size_mm)
    along = [(x * b).astype(np.float32) for x, b in zip(k, grid.b0_direction, strict=True)]
    x, y, z = (np.where(_both_signs(n, f), np.float32(0), part) for n, f, part in zip(shape, k, along, strict=True))
    squares = np.square(along[0]) + np.square(along[1]) + np.square(along[2])
    kernel = np.float32(1 / 3) - (squares + 2 * (x * y + y * z + z * x)) / _squared(k)
    kernel[0, 0, 0] = 0.0
    return np.asarray(kernel, dtype=np.float32)


def voxel_dipole_kernel(grid: Grid, shape: fourier.Shape | None = None) -> NDArray[np.float32]:
    r"""Half spectrum of the field at the centres of all voxels of one voxel of unit susceptibility, periodic.

    The continuous kernel (:func:`dipole_kernel`) cut off at the highest frequency of the grid rings along the voxel
    axes, and for an oblique B0, whose mixed terms jump there, with a slow decay. Around 9 ppm of air that is a field
    deep in the brain that no source explains. As in Ewald's summation the dipole is therefore split by a Gaussian:
    the far part, ``(1/3 - (k.b)^2 / |k|^2) exp(-2 pi^2 s^2 |k|^2)``, has next to nothing left at the highest frequency
    and is taken in k-space with all its periodic copies; the near part, a dipole screened by the same Gaussian, decays
    within a few voxels and is sampled in space, voxels of unequal edges as rows of cubes.

    Parameters
    ----------
    grid : Grid
        Voxel size and B0 direction.
    shape : (3,) int, optional
        Padded size of the transform; ``grid.shape`` without it.

    Returns
    -------
    (nx, ny, nz // 2 + 1) float32
        Dimensionless; 0 at k = 0, and tends to the continuous kernel for small k.
    """
    shape = shape or grid.shape
    sigma = WIDTH * max(grid.voxel_size_mm)
    kernel = _far(grid, shape, sigma)
    kernel += fft.rfftn(_near(grid, shape, sigma)).real
    kernel[0, 0, 0] = 0.0
    return kernel


def dipole_field(
    chi_ppm: NDArray[np.float32], grid: Grid, padding: float = 2.0, kernel: Kernel = dipole_kernel
) -> NDArray[np.float32]:
    """Relative field, ppm, of a susceptibility map that is zero beyond its edges.

    Parameters
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility, ppm. NaN is not allowed.
    grid : Grid
        Its geometry.
    padding : float
        Size of the transform over that of the map; 2 leaves no influence of the cyclic images
        but that of their far field.
    kernel : function of a grid and a shape
        :func:`dipole_kernel`, or :func:`voxel_dipole_kernel` where the map has air.

    Returns
    -------
    (x, y, z) float32, ppm
    """
    x, y, z = (int(np.ceil((padding - 1.0) * n)) for n in grid.shape)
    shape = fourier.padded_shape(grid.shape, (x, y, z))
    spectrum = fourier.transform(np.asarray(chi_ppm, dtype=np.float32), shape)
    spectrum *= kernel(grid, shape)
    return fourier.inverse(spectrum, shape, grid.shape)


def _both_signs(n: int, k: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the frequencies of an axis of n voxels are the highest one, which an even number has with one sign only."""
    return np.abs(k) == np.abs(k).max() if n % 2 == 0 else np.zeros(k.shape, bool)


def _squared(k: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """|k|^2, 1 at k = 0."""
    squared = (k[0] ** 2 + k[1] ** 2 + k[2] ** 2).astype(np.float32)
    squared[0, 0, 0] = 1.0
    return np.asarray(squared, dtype=np.float32)


def _far(grid: Grid, shape: fourier.Shape, sigma: float) -> NDArray[np.float32]:
    """The dipole of a Gaussian in k-space, and 0 at k = 0."""
    k = fourier.frequencies(shape, grid.voxel_size_mm)
    along = sum(np.float32(b) * x.astype(np.float32) for x, b in zip(k, grid.b0_direction, strict=True))
    squared = _squared(k)
    kernel = np.float32(1 / 3) - np.square(along) / squared
    kernel *= np.exp(np.float32(-2.0 * np.pi**2 * sigma**2) * squared)
    kernel[0, 0, 0] = 0.0
    return np.asarray(kernel, dtype=np.float32)


def _near(grid: Grid, shape: fourier.Shape, sigma: float) -> NDArray[np.float32]:
    """Field of a voxel less that of a Gaussian with the same moment, in the wrapped order of an FFT; its sum is 0."""
    size = grid.voxel_size_mm
    reach = [min(int(NEAR * sigma / h), (n - 1) // 2) for n, h in zip(shape, size, strict=True)]
    offsets = [np.arange(-n, n + 1) for n in reach]
    cells = [max(1, round(h / min(size))) for h in size]
    total = np.zeros([o.size for o in offsets])
    for cell in product(*(range(n) for n in cells)):
        shift = [((i + 0.5) / n - 0.5) * h for i, n, h in zip(cell, cells, size, strict=True)]
        axes = np.meshgrid(*(o * h - s for o, h, s in zip(offsets, size, shift, strict=True)), indexing="ij")
        total += _screened_dipole(axes, grid.b0_direction, sigma)
    total *= np.prod(size) / np.prod(cells)
    total[tuple(reach)] -= total.sum()
    near = np.zeros(shape, dtype=np.float32)
    near[np.ix_(*(o % n for o, n in zip(offsets, shape, strict=True)))] = total
    return near


def _screened_dipole(
    axes: Sequence[NDArray[np.float64]], b0: tuple[float, float, float], sigma: float
) -> NDArray[np.float64]:
    """Field, inside the sphere of Lorentz, of a unit point dipole less that of a Gaussian one; 0 at the origin."""
    alpha = 1.0 / (np.sqrt(2.0) * sigma)
    squared = sum(x**2 for x in axes)
    origin = squared < (1e-6 * sigma) ** 2
    squared = np.where(origin, 1.0, squared)
    r = np.sqrt(squared)
    gauss = 2.0 * alpha / np.sqrt(np.pi) * np.exp(-(alpha**2) * squared)
    screen = special.erfc(alpha * r) / r**3 + gauss / squared
    along = sum(x * b for x, b in zip(axes, b0, strict=True))
    slope = 3.0 * screen / squared + 2.0 * alpha**2 * gauss / squared
    field = (slope * along**2 - screen - 2.0 / 3.0 * alpha**2 * gauss) / (4.0 * np.pi)
    return np.where(origin, 0.0, field)
