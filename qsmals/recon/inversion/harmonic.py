"""Susceptibility and a nearly harmonic field together, frequency by frequency: a step of alternating directions."""

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid

Volume = NDArray[np.float32]
Spectrum = NDArray[np.complex64]


class HarmonicSystem:
    """The two-by-two system for susceptibility chi and residual field h at every frequency.

    ``solve`` gives the minimum of ``mu/2 |D chi + h - a|^2 + rho/2 |E chi - b|^2 + kappa/2 |L h - c|^2`` with the
    dipole operator D, forward differences E and the Laplacian L, all periodic.

    Parameters
    ----------
    grid : Grid
        Voxel size, in the unit in which differences are taken, and B0 direction.
    shape : (3,) int
        Padded size.
    field_penalty, slope_penalty, harmonic_penalty : float
        mu, rho and kappa, positive.
    """

    def __init__(
        self, grid: Grid, shape: fourier.Shape, *, field_penalty: float, slope_penalty: float, harmonic_penalty: float
    ) -> None:
        self.shape = shape
        mu, rho, kappa = (np.float32(penalty) for penalty in (field_penalty, slope_penalty, harmonic_penalty))
        self.dipole = dipole_kernel(grid, shape)
        self.minus_laplacian = fourier.laplacian_kernel(grid, shape)
        squared = self.minus_laplacian
        # for chi mu D^2 + smooth, for h mu + bend, between them mu D; so written that nothing cancels at low frequency
        power, smooth, bend = mu * self.dipole**2, rho * squared, kappa * squared**2
        determinant = power * bend + smooth * (mu + bend)
        determinant[0, 0, 0] = 1.0
        self.factors = np.stack([
            mu * self.dipole * bend / determinant,
            rho * (mu + bend) / determinant,
            mu * self.dipole * kappa * squared / determinant,
            mu * smooth / determinant,
            -mu * self.dipole * rho / determinant,
            -kappa * squared * (power + smooth) / determinant,
        ]).astype(np.float32)  # fmt: skip
        # a constant susceptibility has no field; a constant field is wholly harmonic
        self.factors[:, 0, 0, 0] = (0, 0, 0, 1, 0, 0)

    def solve(self, target: Volume, source: Volume, charge: Volume) -> tuple[Volume, Volume, Volume]:
        """Susceptibility, D chi + h, and the Laplacian of h, for a = target, E^T b = source and c = charge."""
        spectra = [fourier.transform(volume, self.shape) for volume in (target, source, charge)]
        _solve_frequencies(*spectra, self.dipole, self.minus_laplacian, self.factors)
        chi, explained, laplacian = (fourier.inverse(spectrum, self.shape) for spectrum in spectra)
        return chi, explained, laplacian


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _solve_frequencies(
    a: Spectrum, b: Spectrum, c: Spectrum, dipole: Volume, minus_laplacian: Volume, factors: Volume
) -> None:
    """In place: spectra of target, source and charge become those of chi, D chi + h and the Laplacian of h."""
    for i in prange(a.shape[0]):
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                p, q, r = a[i, j, k], b[i, j, k], c[i, j, k]
                chi = factors[0, i, j, k] * p + factors[1, i, j, k] * q + factors[2, i, j, k] * r
                rest = factors[3, i, j, k] * p + factors[4, i, j, k] * q + factors[5, i, j, k] * r
                a[i, j, k] = chi
                b[i, j, k] = dipole[i, j, k] * chi + rest
                c[i, j, k] = -minus_laplacian[i, j, k] * rest


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def update_charge(
    laplacian: Volume, inside: NDArray[np.bool_], kept: np.float32, excess: Volume, charge: Volume
) -> None:
    """q, the part ``kept`` of L h + t in the mask and all of it elsewhere, its multiplier t, and the target q - t."""
    for i in prange(laplacian.shape[0]):
        for j in range(laplacian.shape[1]):
            for k in range(laplacian.shape[2]):
                value = laplacian[i, j, k] + excess[i, j, k]
                q = kept * value if inside[i, j, k] else value
                excess[i, j, k] = value - q
                charge[i, j, k] = q - excess[i, j, k]
