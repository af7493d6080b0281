"""Weighted least squares of the dipole's field, without any regularisation but the stop."""

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.conjugate import conjugate_gradient
from qsmals.recon.convergence import Convergence

Volume = NDArray[np.float32]


def weighted_least_squares(
    local: Volume, power: Volume, dipole: Volume, *, tolerance: float, max_iterations: int
) -> tuple[Volume, Convergence]:
    """Map that brings ``|W (D chi - f)|^2`` down from zero by conjugate gradients on the normal equations.

    Parameters
    ----------
    local, power : (x, y, z) float32
        Field f, ppm, and squared weights W, on the padded grid.
    dipole : (x, y, z // 2 + 1) float32
        Its half spectrum.
    tolerance, max_iterations : float, int
        When to stop, which is what regularises.

    Returns
    -------
    chi : (x, y, z) float32
        Susceptibility, ppm.
    convergence : Convergence
        Relative residuals.
    """
    shape = local.shape

    def through_dipole(volume: Volume) -> Volume:
        spectrum = fourier.transform(volume, shape)
        spectrum *= dipole
        return fourier.inverse(spectrum, shape)

    def normal(chi: Volume) -> Volume:
        explained = through_dipole(chi)
        explained *= power
        return through_dipole(explained)

    return conjugate_gradient(normal, through_dipole(power * local), tolerance=tolerance, max_iterations=max_iterations)
