"""Magnetic field that a distribution of susceptibility makes in the scanner.

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
        Field shift along B0 over B0, ppm; zero on average over the padded space.

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
    _multiply_by_dipole(spectrum, padded, grid)
    field = fft.irfftn(spectrum, s=padded, overwrite_x=True)
    return np.ascontiguousarray(field[tuple(slice(n) for n in grid.shape)], dtype=np.float32)


def _multiply_by_dipole(spectrum: NDArray[np.complex64], shape: tuple[int, ...], grid: Grid) -> None:
    """Multiply a half spectrum in place by 1/3 - (k.b)^2/k^2, plane by plane to save memory.

    The highest frequency of an even size stands for both signs, so products of it with another
    axis's frequency average to zero and only its square counts.
    """
    size, (bx, by, bz) = grid.voxel_size_mm, grid.b0_direction
    kx = fft.fftfreq(shape[0], size[0])
    ky = fft.fftfreq(shape[1], size[1])[:, None]
    kz = fft.rfftfreq(shape[2], size[2])[None, :]
    signed = [np.where(np.isclose(np.abs(k) * v, 0.5), 0.0, k) for k, v in zip((kx, ky, kz), size, strict=True)]
    squared_yz = ky**2 + kz**2
    along_yz = signed[1] * by + signed[2] * bz
    rest_yz = (ky**2 - signed[1] ** 2) * by**2 + (kz**2 - signed[2] ** 2) * bz**2
    for i, (k, k_signed) in enumerate(zip(kx, signed[0], strict=True)):
        squared = k * k + squared_yz
        if k == 0:
            squared[0, 0] = 1
        projected = (k_signed * bx + along_yz) ** 2 + (k * k - k_signed * k_signed) * bx**2 + rest_yz
        dipole = 1 / 3 - projected / squared
        if k == 0:
            dipole[0, 0] = 0
        spectrum[i] *= dipole.astype(np.float32)
