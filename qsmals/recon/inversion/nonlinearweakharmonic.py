"""Nonlinear total variation with weak-harmonic regularisation, in FANSI's units: the consensus paper's inversion."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import adjoint_gradient, padded, relative_change, update_gradient
from qsmals.recon.inversion.harmonic import HarmonicSystem, update_charge
from qsmals.recon.inversion.nonlinear import update_phase
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs, harmonic_part
from qsmals.recon.method import Citation, Method
from qsmals.recon.phase.wrap import wrap

Volume = NDArray[np.float32]

CONSENSUS = "consensus paper's pipeline, doi:10.1002/mrm.30006"
GRADIENT_WEIGHTINGS = ("vector-field", "none")

LARGEST_GRADIENT_WEIGHT = 1e6
"""Weight of differences between voxels of equal reliability: they are as good as forbidden."""


@dataclass(frozen=True)
class NonlinearWeakHarmonicParameters:
    """Settings of :func:`nonlinear_weak_harmonic`, which all belong to the phase of ``rad_per_ppm``."""

    regularisation: float = field(
        default=5e-4, metadata={"unit": "1, at rad_per_ppm and differences of voxels", "source": f"lambda; {CONSENSUS}"}
    )
    rad_per_ppm: float = field(
        default=1.0, metadata={"unit": "rad/ppm", "source": f"SEPIA gives FANSI the field in ppm; {CONSENSUS}"}
    )
    gradient_penalty: float = field(default=5e-2, metadata={"unit": "1", "source": f"mu1; {CONSENSUS}"})
    field_penalty: float = field(default=1.0, metadata={"unit": "1", "source": f"mu2; {CONSENSUS}"})
    harmonic_weight: float = field(
        default=150.0, metadata={"unit": "1, at Laplacians of voxels", "source": f"beta; {CONSENSUS}"}
    )
    harmonic_penalty: float = field(default=3.0, metadata={"unit": "1", "source": f"muh; {CONSENSUS}"})
    gradient_weighting: str = field(
        default="vector-field", metadata={"unit": "vector-field or none", "source": f"gradient mode; {CONSENSUS}"}
    )
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "as all inversions here"})
    tolerance: float = field(
        default=1e-3, metadata={"unit": "relative change", "source": f"tol 0.1 percent; {CONSENSUS}"}
    )
    max_iterations: int = field(default=400, metadata={"unit": "iterations", "source": f"maxiter; {CONSENSUS}"})


def nonlinear_weak_harmonic(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    harmonic: NDArray[np.bool_] | None = None,
    weights: Volume | None = None,
    params: NonlinearWeakHarmonicParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility and a weakly harmonic phase that explain the complex signal, with the least total variation.

    Minimises ``1/2 |W (exp(i (D x + h)) - exp(i phi))|^2 + lambda |V E x|_1 + beta/2 |M L h|^2`` over ``x = s chi`` and
    a phase h, with the phase ``phi = s f`` at the scale s of ``rad_per_ppm``, the weights W, the dipole operator D,
    and, between neighbouring voxels rather than per mm, differences E and the Laplacian L; M is the mask, or its part
    ``harmonic``. For voxels of unequal edges the unit of length is the edge of a cube of the same volume.

    With the gradient weighting ``vector-field`` V is the mean of ``|E W|``, over all three components and the whole
    volume, over ``|E W|`` itself: edges of the map are cheap where the weights have theirs. As in FANSI the mean
    counts the surroundings of the head, so that it depends on the field of view, and the weights are what SEPIA hands
    to FANSI in place of the magnitude.

    The minimum is that of FANSI's weak-harmonic method; the way there differs in that x and h are solved for at once.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    harmonic : (x, y, z) bool, optional
        Where the rest of the field is harmonic, at most the mask; the mask where it is not given.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation; they are divided by their mean in the
        mask. Without them there is no gradient weighting.
    params : NonlinearWeakHarmonicParameters, optional
        Settings; weights of the terms and their penalties belong to ``rad_per_ppm``.

    Returns
    -------
    Susceptibility
        With the part of the field that neither the map nor the harmonic phase explains, to the nearest whole turn. The
        local field that belongs to the map is that of :func:`solution.brain_field`, after any removal and so in the
        consensus preset after V-SHARP too (`Method.finds_background`): the harmonic phase is what removal left or took
        too much of.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights, parameters that are not positive, or an unknown
        gradient weighting.

    References
    ----------
    Milovic C, et al. Magn Reson Med 2019;81:1399-1411. doi:10.1002/mrm.27483
    Milovic C, et al. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073
    """
    params = params or NonlinearWeakHarmonicParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    nx, ny, nz = grid.shape
    inside = np.zeros(shape, dtype=bool)
    inside[:nx, :ny, :nz] = harmonic_part(harmonic, mask)
    edge = float(np.cbrt(np.prod(grid.voxel_size_mm)))
    x, y, z = (size / edge for size in grid.voxel_size_mm)
    unit = Grid(grid.shape, (x, y, z), grid.b0_direction)
    relative = np.ones((1, 1, 1, 1), dtype=np.float32)
    if weights is not None and params.gradient_weighting == "vector-field":
        relative = gradient_weights(weight, unit, shape)
    phase = padded(local * np.float32(params.rad_per_ppm), shape)
    full, explained, convergence = _solve(phase, np.square(padded(weight, shape)), relative, inside, unit, params)
    chi, residual = (
        np.where(mask, volume[:nx, :ny, :nz] / np.float32(params.rad_per_ppm), np.float32(0))
        for volume in (full, wrap(phase - explained))
    )
    return Susceptibility(chi, convergence, residual_ppm=residual)


def gradient_weights(image: Volume, grid: Grid, shape: fourier.Shape) -> Volume:
    """Mean difference of an image over each of its differences, by which the variation of the map is weighted there.

    Parameters
    ----------
    image : (x, y, z) float32
        Any unit, finite.
    grid : Grid
        Its voxel size.
    shape : (3,) int
        Size of the result; beyond the image there are no differences.

    Returns
    -------
    (3, *shape) float32
        One volume for the forward difference along each axis, at most `LARGEST_GRADIENT_WEIGHT`.
    """
    slope = np.abs(fourier.gradient(padded(image, shape), grid.voxel_size_mm))
    # per voxel of the image, not of the padding
    mean = float(slope.sum(dtype=np.float64)) / (3 * image.size)
    if mean == 0:
        return np.ones((1, 1, 1, 1), dtype=np.float32)
    return np.asarray(mean / np.maximum(slope, mean / LARGEST_GRADIENT_WEIGHT), dtype=np.float32)


def _check(params: NonlinearWeakHarmonicParameters) -> None:
    numbers = (
        *(params.regularisation, params.rad_per_ppm, params.gradient_penalty, params.field_penalty),
        *(params.harmonic_weight, params.harmonic_penalty, params.tolerance),
    )
    if min(numbers) <= 0 or params.max_iterations < 1:
        raise ValueError(f"nonlinear weak-harmonic inversion needs positive parameters, not {params}")
    if params.gradient_weighting not in GRADIENT_WEIGHTINGS:
        known = ", ".join(GRADIENT_WEIGHTINGS)
        raise ValueError(f"there is no gradient weighting {params.gradient_weighting}; there are {known}")


def _solve(
    phase: Volume,
    power: Volume,
    relative: Volume,
    inside: NDArray[np.bool_],
    grid: Grid,
    params: NonlinearWeakHarmonicParameters,
) -> tuple[Volume, Volume, Convergence]:
    """ADMM on the padded grid: susceptibility, and the phase that it explains with the harmonic one, both in radians.

    With y in place of D x + h, z in place of E x, q in place of L h and scaled multipliers, each round solves for x and
    h together, then for y (Newton's method), z (shrinkage) and q voxel by voxel.
    """
    shape = phase.shape
    system = HarmonicSystem(
        grid,
        shape,
        field_penalty=params.field_penalty,
        slope_penalty=params.gradient_penalty,
        harmonic_penalty=params.harmonic_penalty,
    )
    inverse_size = (1.0 / np.asarray(grid.voxel_size_mm)).astype(np.float32)
    thresholds = relative * np.float32(params.regularisation / params.gradient_penalty)
    kept = np.float32(params.harmonic_penalty / (params.harmonic_penalty + params.harmonic_weight))
    target, multiplier = np.zeros_like(phase), np.zeros_like(phase)
    split, dual = np.zeros((3, *shape), dtype=np.float32), np.zeros((3, *shape), dtype=np.float32)
    source, x = np.zeros_like(phase), np.zeros_like(phase)
    charge, excess = np.zeros_like(phase), np.zeros_like(phase)
    explained = np.zeros_like(phase)
    changes: list[float] = []
    while True:
        update_phase(explained, phase, power, params.field_penalty, 1.0, multiplier, target)
        previous = x
        x, explained, laplacian = system.solve(target, source, charge)
        changes.append(relative_change(x, previous))
        if changes[-1] <= params.tolerance or len(changes) == params.max_iterations:
            return x, explained, Convergence(len(changes), tuple(changes), params.tolerance)
        update_gradient(x, thresholds, inverse_size, dual, split)
        adjoint_gradient(split, inverse_size, source)
        update_charge(laplacian, inside, kept, excess, charge)


NONLINEAR_WEAK_HARMONIC = Method(
    name="nonlinear-weak-harmonic",
    title="nonlinear total variation with weak-harmonic regularisation (FANSI)",
    function=nonlinear_weak_harmonic,
    parameters=NonlinearWeakHarmonicParameters,
    sentence=(
        "Dipole inversion minimised the weighted misfit of the complex signal ({rad_per_ppm:g} rad/ppm) together with "
        "a weakly harmonic phase (weight {harmonic_weight:g}) and total variation regularisation (FANSI, weight "
        "{regularisation:g} at differences of voxels, gradient weighting: {gradient_weighting}; penalties "
        "{gradient_penalty:g}, {field_penalty:g} and {harmonic_penalty:g}; relative change below {tolerance:g} or "
        "{max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="milovic2019",
            authors="Milovic C, Bilgic B, Zhao B, Langkammer C, Tejos C, Acosta-Cabronero J",
            title="Weak-harmonic regularization for quantitative susceptibility mapping",
            journal="Magnetic Resonance in Medicine 81:1399-1411",
            year=2019,
            doi="10.1002/mrm.27483",
        ),
        Citation(
            key="milovic2018",
            authors="Milovic C, Bilgic B, Zhao B, Acosta-Cabronero J, Tejos C",
            title="Fast nonlinear susceptibility inversion with variational regularization",
            journal="Magnetic Resonance in Medicine 80:814-821",
            year=2018,
            doi="10.1002/mrm.27073",
        ),
    ),
    finds_background=True,
)
