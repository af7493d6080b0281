"""Magnetic field that air, bone and fat make in the scanner.

The convolution with the dipole is done by FFT, with the dipole itself sampled in space.

References
----------
Marques JP, Bowtell R. Application of a Fourier-based method for rapid calculation of field
inhomogeneity due to spatial variation of magnetic susceptibility. Concepts Magn Reson B 2005.
DOI 10.1002/cmr.b.20034.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from qsmals.recon.grid import Grid

FloatArray = NDArray[np.float32]


def field_from_susceptibility(
    chi_ppm: FloatArray, *, grid: Grid, padding_factor: float = 2.0, chi_outside_ppm: float = 0.0
) -> FloatArray:
    """Relative field shift of a susceptibility map, with the sphere of Lorentz taken out.

    Parameters
    ----------
    chi_ppm : (x, y, z) float32
        Susceptibility, ppm, finite everywhere.
    grid : Grid
        Shape, voxel size and B0 direction of ``chi_ppm``.
    padding_factor : float, >= 1
        The array is continued to this multiple of its size before the convolution, which is
        circular; two keeps the copies of the head a whole head apart.
    chi_outside_ppm : float
        Susceptibility of the space around the array (air around a head).

    Returns
    -------
    (x, y, z) float32
        Field shift along B0 over B0, ppm.

    Raises
    ------
    ValueError
        If the shape is not that of ``grid``, the padding is below 1 or a value is not finite.

    Examples
    --------
    >>> point = np.zeros((9, 9, 9), np.float32)
    >>> point[4, 4, 4] = 1
    >>> field = field_from_susceptibility(point, grid=Grid((9, 9, 9), (1, 1, 1)))
    >>> bool(field[4, 4, 7] > 0 > field[7, 4, 4])
    True
    """
    if chi_ppm.shape != grid.shape:
        raise ValueError(f"the susceptibility has shape {chi_ppm.shape}, its grid {grid.shape}")
    if padding_factor < 1:
        raise ValueError(f"the padding factor is at least 1, not {padding_factor}")
    if not np.isfinite(chi_ppm).all():
        raise ValueError("the susceptibility holds values that are not finite")
    padded = tuple(fft.next_fast_len(int(np.ceil(n * padding_factor)), real=True) for n in grid.shape)
    spectrum = fft.rfftn(np.subtract(chi_ppm, np.float32(chi_outside_ppm), dtype=np.float32), s=padded)
    spectrum *= fft.rfftn(dipole_kernel(padded, grid), overwrite_x=True)
    field = fft.irfftn(spectrum, s=padded, overwrite_x=True)
    return np.ascontiguousarray(field[tuple(slice(n) for n in grid.shape)], dtype=np.float32)


def dipole_kernel(shape: tuple[int, ...], grid: Grid) -> FloatArray:
    """Field of one voxel of unit susceptibility at the centres of all others, in the wrapped order of an FFT.

    The kernel is sampled in space, where it decays as 1/r^3 and is harmonic. Sampled in k-space it rings, above all
    for an oblique B0, whose mixed terms jump at the highest frequency: around 9 ppm of air that is a field of several
    ppb that no source explains, deep in the brain.

    Parameters
    ----------
    shape : (3,) int
        Size of the (padded) transform.
    grid : Grid
        Voxel size and B0 direction.

    Returns
    -------
    (x, y, z) float32
        Dimensionless (ppm per ppm). The voxel's own value is such that a sphere of one susceptibility has no field
        in its centre, as the sphere of Lorentz wants; in cubic voxels that is 0.
    """
    x, y, z = (
        (fft.fftfreq(n, 1 / n) * size).astype(np.float32) for n, size in zip(shape, grid.voxel_size_mm, strict=True)
    )
    bx, by, bz = grid.b0_direction
    volume = float(np.prod(grid.voxel_size_mm))
    reach = min(n * size for n, size in zip(shape, grid.voxel_size_mm, strict=True)) / 2
    along_yz, squared_yz = y[:, None] * by + z[None, :] * bz, y[:, None] ** 2 + z[None, :] ** 2
    kernel = np.empty(shape, np.float32)
    inner = 0.0
    for i, here in enumerate(x):
        squared = squared_yz + here**2
        if i == 0:
            squared[0, 0] = 1
        plane = (3 * (along_yz + here * bx) ** 2 / squared - 1) * (volume / (4 * np.pi)) / squared**1.5
        if i == 0:
            plane[0, 0] = 0
        kernel[i] = plane
        inner += float(plane[squared < reach**2].sum(dtype=np.float64))
    kernel[0, 0, 0] = -inner
    return kernel
