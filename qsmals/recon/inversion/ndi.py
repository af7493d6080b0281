"""Nonlinear dipole inversion: gradient descent with momentum on the misfit of the complex signal."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import padded
from qsmals.recon.inversion.nonlinear import MEAN_TE_SOURCE, RAD_PER_PPM
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]
Spectrum = NDArray[np.complex64]


@dataclass(frozen=True)
class NdiParameters:
    """Settings of :func:`ndi`."""

    rad_per_ppm: float = field(
        default=RAD_PER_PPM,
        metadata={"unit": "rad/ppm", "source": MEAN_TE_SOURCE, "scan": "mean_te_rad_per_ppm"},
    )
    regularisation: float = field(default=1e-5, metadata={"unit": "1, at weights of at most 1", "source": "QSM.rs"})
    step: float = field(
        default=2.0,
        metadata={"unit": "1, at weights of at most 1", "source": "NDI toolbox, its 1 of twice this gradient; QSM.rs"},
    )
    momentum: float = field(
        default=0.7,
        metadata={
            "unit": "part of the last change that the next one begins with",
            "source": "design choice: on 1 simulated head 38 iterations did what 135 do without",
        },
    )
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(
        default=0.003,
        metadata={
            "unit": "relative change",
            "source": "design choice: on 2 simulated heads about where the gradient changes by 1 percent, as for SEPIA",
        },
    )
    max_iterations: int = field(
        default=60, metadata={"unit": "iterations", "source": "NDI toolbox, SEPIA and QSM.rs: 200 without momentum"}
    )


def ndi(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: NdiParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility by gradient descent on the misfit of the complex signal, with next to no prior.

    With the phase ``phi = s f`` and ``x = s chi`` at the scale s of ``rad_per_ppm``, the misfit
    ``1/2 |W (exp(i D x) - exp(i phi))|^2 + alpha/2 |x|^2`` has the gradient
    ``D W^2 sin(D x - phi) + alpha x``. Each iteration goes ``step`` times that downhill from where it would be if
    ``momentum`` times the last change were repeated, beginning with x = 0. The sine limits what a voxel with a wrong
    phase can do. It is the stop after few iterations that regularises: what the dipole operator D passes badly comes
    last. The paper's descent has no momentum and goes the same way in three times as many steps.

    The weights W are divided by their median and count as 1 above it, as the paper's magnitude lies in 0..1. The
    curvature is then at most ``max D^2 + alpha``, about 4/9, whatever the data, so that one step suits every scan and
    the stop means the same: with the maximum in place of the median, a few bright voxels would hold back the rest.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation (the magnitude will do); their scale has no
        effect. Step and regularisation belong to what is made of them.
    params : NdiParameters, optional
        ``rad_per_ppm`` is the scale of the phase: for a field in other units multiply by the unit in ppm. It
        sets which misfit counts as large, and no other parameter depends on it.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights, parameters that are not positive, a negative
        regularisation, a momentum outside 0 to 1, or a step at which the descent would not converge.

    References
    ----------
    Polak D, et al. NMR Biomed 2020;33:e4271. doi:10.1002/nbm.4271
    Nesterov Y. Introductory lectures on convex optimization. Springer 2004. doi:10.1007/978-1-4419-8853-9
    """
    params = params or NdiParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    weight = np.minimum(weight / np.median(weight[weight > 0]), np.float32(1))
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    phase = padded(local * np.float32(params.rad_per_ppm), shape)
    x, convergence = _descend(phase, padded(np.square(weight), shape), grid, params)
    nx, ny, nz = grid.shape
    chi = x[:nx, :ny, :nz] / np.float32(params.rad_per_ppm)
    return Susceptibility(np.where(mask, chi, np.float32(0)), convergence)


def _check(params: NdiParameters) -> None:
    numbers = (params.rad_per_ppm, params.step, params.tolerance)
    if min(numbers) <= 0 or params.regularisation < 0 or params.max_iterations < 1:
        raise ValueError(f"NDI needs positive parameters, not {params}")
    if not 0 <= params.momentum < 1:
        raise ValueError(f"the momentum of NDI lies between 0 and 1, not at {params.momentum}")


def _descend(phase: Volume, power: Volume, grid: Grid, params: NdiParameters) -> tuple[Volume, Convergence]:
    """Gradient descent with momentum on the padded grid, the susceptibility in radians."""
    shape = phase.shape
    dipole = dipole_kernel(grid, shape)
    _check_step(params, float(np.abs(dipole).max()) ** 2 + params.regularisation)
    numbers = [np.float32(n) for n in (params.step, params.momentum, 1.0 - params.step * params.regularisation)]
    spectrum, ahead = np.zeros(dipole.shape, dtype=np.complex64), np.zeros(dipole.shape, dtype=np.complex64)
    explained = np.zeros_like(phase)
    changes: list[float] = []
    while True:
        _force(explained, phase, power)
        force = fourier.transform(explained, shape)
        change, norm = _step(spectrum, ahead, force, dipole, *numbers, shape[2]).sum(axis=0)
        changes.append(float(np.sqrt(change / norm)) if norm > 0 else 0.0)
        if changes[-1] <= params.tolerance or len(changes) == params.max_iterations:
            return fourier.inverse(spectrum, shape), Convergence(len(changes), tuple(changes), params.tolerance)
        explained = fourier.inverse(ahead * dipole, shape)


def _check_step(params: NdiParameters, curvature: float) -> None:
    """The step must be below that at which the steepest direction of a quadratic would swing ever wider."""
    largest = (2.0 + 2.0 * params.momentum) / (1.0 + 2.0 * params.momentum) / curvature
    if params.step >= largest:
        raise ValueError(f"NDI converges with steps below {largest:.2f}, not {params.step}")


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _force(explained: Volume, phase: Volume, power: Volume) -> None:
    """In place: the explained phase becomes W^2 sin(explained - phase)."""
    for i in prange(phase.shape[0]):
        for j in range(phase.shape[1]):
            for k in range(phase.shape[2]):
                w = power[i, j, k]
                explained[i, j, k] = w * np.sin(explained[i, j, k] - phase[i, j, k]) if w > 0 else np.float32(0)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _step(
    spectrum: Spectrum,
    ahead: Spectrum,
    force: Spectrum,
    dipole: Volume,
    step: np.float32,
    momentum: np.float32,
    shrink: np.float32,
    depth: int,
) -> NDArray[np.float64]:
    """In place: spectrum = shrink * ahead - step * dipole * force, and the next ``ahead``.

    Returns per slab the squares of change and value, summed over the full k-space, of which the planes of the half
    spectrum but the first, and for an even ``depth`` the last, stand for two.
    """
    sums = np.zeros((spectrum.shape[0], 2))
    for i in prange(spectrum.shape[0]):
        change = 0.0
        norm = 0.0
        for j in range(spectrum.shape[1]):
            for k in range(spectrum.shape[2]):
                start, pull, old, factor = ahead[i, j, k], force[i, j, k], spectrum[i, j, k], step * dipole[i, j, k]
                # part by part: products of a complex and a real number are dear
                x, y = shrink * start.real - factor * pull.real, shrink * start.imag - factor * pull.imag
                dx, dy = x - old.real, y - old.imag
                spectrum[i, j, k] = complex(x, y)
                ahead[i, j, k] = complex(x + momentum * dx, y + momentum * dy)
                times = 1.0 if k == 0 or 2 * k == depth else 2.0
                change += times * (np.float64(dx) ** 2 + np.float64(dy) ** 2)
                norm += times * (np.float64(x) ** 2 + np.float64(y) ** 2)
        sums[i, 0] = change
        sums[i, 1] = norm
    return sums


NDI = Method(
    name="ndi",
    title="NDI",
    function=ndi,
    parameters=NdiParameters,
    sentence=(
        "Dipole inversion was by gradient descent with momentum on the misfit of the complex signal (NDI; phase scaled "
        "to {rad_per_ppm:g} rad/ppm, weights of at most their median, step {step:g}, momentum {momentum:g}, Tikhonov "
        "weight {regularisation:g}, relative change below {tolerance:g} or {max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="polak2020",
            authors="Polak D, Chatnuntawech I, Yoon J, Iyer SS, Milovic C, Lee J, Bachert P, Adalsteinsson E, "
            "Setsompop K, Bilgic B",
            title="Nonlinear dipole inversion (NDI) enables robust quantitative susceptibility mapping (QSM)",
            journal="NMR in Biomedicine 33:e4271",
            year=2020,
            doi="10.1002/nbm.4271",
        ),
    ),
)
