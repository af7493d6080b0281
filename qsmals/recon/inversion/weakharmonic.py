"""Weak-harmonic inversion: susceptibility together with the background field that removal left or took too much of."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid, bounding_box
from qsmals.recon.inversion.admm import adjoint_gradient, padded, relative_change, update_field, update_gradient
from qsmals.recon.inversion.harmonic import HarmonicSystem, update_charge
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs, harmonic_part
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]

MAD_TO_SD = 1.4826

LEFT_BY_TV = 6.0
"""Largest slope of the total variation by one voxel, in units of regularisation over voxel edge: its six differences.
The misfit that the regularisation holds in balance is of this order."""

MUCH_NOISE = 10.0
"""Noise, in units of that to which the regularisation belongs, from which the map is told to be smooth: design choice,
where the quality measures fail a scan (8 ppb against 10)."""
SMOOTHED = (
    "the noise of the total field, {noise:.1f} ppb, made the regularisation {times:.0f} times as strong as in a good "
    "scan, and the map is smooth: there is little signal, or the echoes disagree (unwrapping, phase offset, motion)"
)

FOLLOWS = "the regularisation, the weight of the total variation, follows the noise of the total field"


@dataclass(frozen=True)
class WeakHarmonicParameters:
    """Settings of :func:`weak_harmonic`."""

    regularisation: float = field(
        default=5e-5,
        metadata={"unit": "mm, at fields in ppm whose noise is reference_noise_ppm", "source": "docs/ablation.md"},
    )
    reference_noise_ppm: float = field(
        default=8e-4, metadata={"unit": "ppm", "source": "6 echoes at 3 T, 1 mm, peak SNR 80 (docs/reconstruction.md)"}
    )
    least_noise_ppm: float = field(
        default=5e-4, metadata={"unit": "ppm", "source": "design choice: what the model itself leaves unexplained"}
    )
    edge_ppm_per_mm: float = field(
        default=0.004,
        metadata={"unit": "ppm/mm", "source": "design choice: a fifth of 0.02 ppm over 1 mm, a border of cortex"},
    )
    outlier_factor: float = field(
        default=3.0,
        metadata={
            "unit": "standard deviations of the misfit",
            "source": "design choice; of little effect (docs/ablation.md)",
        },
    )
    reweight_every: int = field(default=15, metadata={"unit": "iterations", "source": "design choice"})
    reweightings: int = field(default=4, metadata={"unit": "times", "source": "docs/ablation.md"})
    gradient_penalty: float = field(
        default=300.0,
        metadata={"unit": "multiple of the regularisation", "source": "design choice, for the speed"},
    )
    field_penalty: float = field(default=0.3, metadata={"unit": "1", "source": "design choice, for the speed"})
    harmonic_penalty: float = field(
        default=0.2,
        metadata={
            "unit": "mm^2 per square of the voxel's edge",
            "source": "design choice, for the speed; it moves the map a little (docs/ablation.md)",
        },
    )
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "design choice"})
    tolerance: float = field(
        default=0.002,
        metadata={
            "unit": "relative change",
            "source": "design choice; it ends only iterations after the first reweight_every (reweightings + 1), 75",
        },
    )
    max_iterations: int = field(
        default=150, metadata={"unit": "iterations", "source": "design choice; in all of docs/reconstruction.md 75 ran"}
    )

    @property
    def least_iterations(self) -> int:
        """Iterations that run whatever the tolerance: after each change of the weights a whole period."""
        return self.reweight_every * (self.reweightings + 1)

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        return {"least": str(self.least_iterations)}


def weak_harmonic(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    harmonic: NDArray[np.bool_] | None = None,
    weights: Volume | None = None,
    noise_ppm: Volume | None = None,
    params: WeakHarmonicParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility and a harmonic residual field that explain the local field, with the least total variation.

    Minimises ``1/2 |W (D chi + h - f)|^2 + lambda |V grad chi|_1`` over the susceptibility chi and a field h whose
    Laplacian vanishes in the mask (outside it is free, so that h is the field of anything that lies there; ``harmonic``
    names a part of the mask in its place). No measurement inside the mask parts h from the background: what removal
    left of the background, and what it took from the local field, as the part of the cortex's field that sources
    outside the brain could have made, is harmonic. Susceptibility with a harmonic field of its own, the bowls and
    streaks along the magic angle, is chosen by its variation alone. The method therefore depends little on how the
    background was removed. With Milovic et al. the data term is nonlinear in the field, and the Laplacian is charged
    rather than forced to vanish: see :func:`~qsmals.recon.inversion.nonlinearweakharmonic.nonlinear_weak_harmonic`.

    All of it happens in the smallest box around the mask, often half of the field of view or less. The fields of the
    map's cyclic images, which are nearer then, are harmonic in the mask, and h has a place for them.

    The weights V make up for total variation's pull on strong edges: after ``reweight_every`` iterations they are
    ``1 / (1 + (grad chi / edge_ppm_per_mm)^2)`` of the map so far, each difference by itself. At the same time voxels
    whose misfit is beyond ``outlier_factor`` standard deviations lose weight in proportion to its square.

    Noise decides how much regularisation a field needs: lambda is ``regularisation`` times the field's median noise
    over ``reference_noise_ppm``, the noise counting as at least ``least_noise_ppm``. From ten times that on, the result
    has a note.

    It is in effect a scheme of a fixed number of iterations, ``reweight_every (reweightings + 1)``, 75 by default: the
    tolerance is asked only after them, a whole period after the last change of the weights, and under every condition
    of docs/reconstruction.md it had been reached by then. Later iterations, up to ``max_iterations``, belong to fields
    that are mostly noise.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm; at the minimum, any field that differs from it by a harmonic one gives the same map.
    mask : (x, y, z) bool
        Where it is known. It may, and should, reach beyond the brain.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    harmonic : (x, y, z) bool, optional
        Where the rest of the field is harmonic, at most the mask; the mask where it is not given. Boundary values
        (LBV) leave a rest that is harmonic inside, and not on the boundary itself.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation; their scale has no effect.
    noise_ppm : (x, y, z) float32, optional
        Standard deviation of the field, ppm; infinite where unknown. Without it that of ``reference_noise_ppm`` is
        assumed.
    params : WeakHarmonicParameters, optional
        The regularisation belongs to fields in ppm: for a field in other units divide by the unit in ppm.

    Returns
    -------
    Susceptibility
        With the part of the field that neither the map nor the harmonic field explains.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights or parameters that are not positive.

    References
    ----------
    Milovic C, et al. Magn Reson Med 2019;81:1399-1411. doi:10.1002/mrm.27483
    Candes EJ, Wakin MB, Boyd SP. J Fourier Anal Appl 2008;14:877-905. doi:10.1007/s00041-008-9045-x
    Liu T, et al. Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272
    """
    params = params or WeakHarmonicParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    noise = params.reference_noise_ppm if noise_ppm is None else median_noise_ppm(noise_ppm, mask, params)
    times = noise / params.reference_noise_ppm
    params = replace(params, regularisation=params.regularisation * times)
    box = bounding_box(mask)
    known = mask[box]
    small = replace(grid, shape=known.shape)
    shape = fourier.padded_shape(small.shape, fourier.margin_voxels(params.padding_mm, grid))
    inside = np.zeros(shape, dtype=bool)
    kept = tuple(slice(n) for n in small.shape)
    inside[kept] = harmonic_part(harmonic, mask)[box]
    found, explained, convergence = _solve(padded(local[box], shape), padded(weight[box], shape), inside, small, params)
    chi, residual = np.zeros_like(local), local
    chi[box] = np.where(known, found[kept], np.float32(0))
    residual[box] -= np.where(known, explained[kept], np.float32(0))
    return Susceptibility(
        chi,
        convergence,
        notes=(SMOOTHED.format(noise=1000 * noise, times=times),) if times >= MUCH_NOISE else (),
        residual_ppm=residual,
        adapted={"regularisation_mm": params.regularisation, "noise_ppm": noise},
        adapted_to=FOLLOWS,
    )


def median_noise_ppm(noise_ppm: Volume, mask: NDArray[np.bool_], params: WeakHarmonicParameters) -> float:
    """Median noise of the field in the mask, at least ``least_noise_ppm``; ``reference_noise_ppm`` where it is unknown.

    Examples
    --------
    >>> noise = np.full((2, 2, 2), 0.0016, dtype=np.float32)
    >>> round(median_noise_ppm(noise, np.ones((2, 2, 2), dtype=bool), WeakHarmonicParameters()), 4)
    0.0016
    """
    if noise_ppm.shape != mask.shape:
        raise ValueError(f"the noise has shape {noise_ppm.shape}, the mask {mask.shape}")
    known = noise_ppm[mask & np.isfinite(noise_ppm) & (noise_ppm > 0)]
    if known.size == 0:
        return params.reference_noise_ppm
    return max(float(np.median(known)), params.least_noise_ppm)


def _check(params: WeakHarmonicParameters) -> None:
    numbers = (
        *(params.regularisation, params.edge_ppm_per_mm, params.outlier_factor, params.gradient_penalty),
        *(params.field_penalty, params.harmonic_penalty, params.tolerance),
        *(params.reference_noise_ppm, params.least_noise_ppm),
    )
    if min(numbers) <= 0 or min(params.max_iterations, params.reweight_every) < 1 or params.reweightings < 0:
        raise ValueError(f"weak-harmonic inversion needs positive parameters, not {params}")
    if params.max_iterations <= params.reweight_every * params.reweightings:
        raise ValueError(
            f"{params.reweightings} reweightings every {params.reweight_every} iterations need more than "
            f"{params.max_iterations} iterations"
        )


def _solve(
    local: Volume, weight: Volume, inside: NDArray[np.bool_], grid: Grid, params: WeakHarmonicParameters
) -> tuple[Volume, Volume, Convergence]:
    """ADMM on the padded grid: susceptibility, and the field that it explains with the harmonic one.

    With y in place of D chi + h, z in place of grad chi, q in place of the Laplacian L h and their scaled multipliers
    u, v, t, each round solves for chi and h together, frequency by frequency,
    ``mu/2 |D chi + h - (y - u)|^2 + rho/2 |E chi - (z - v)|^2 + kappa/2 |L h - (q - t)|^2``; then for y, z and q voxel
    by voxel.
    """
    shape = local.shape
    system = HarmonicSystem(
        grid,
        shape,
        field_penalty=params.field_penalty,
        slope_penalty=params.gradient_penalty * params.regularisation,
        harmonic_penalty=params.harmonic_penalty * float(np.prod(grid.voxel_size_mm)) ** (2 / 3),
    )
    inverse_size = (np.float32(1.0) / np.asarray(grid.voxel_size_mm, dtype=np.float32)).astype(np.float32)
    threshold = np.float32(1.0 / params.gradient_penalty)
    thresholds = np.full((1, 1, 1, 1), threshold, dtype=np.float32)
    prior = np.square(weight)
    power = prior
    mu = np.float32(params.field_penalty)
    target, multiplier = local.copy(), np.zeros_like(local)
    split, dual = np.zeros((3, *shape), dtype=np.float32), np.zeros((3, *shape), dtype=np.float32)
    source, chi = np.zeros_like(local), np.zeros_like(local)
    charge, excess = np.zeros_like(local), np.zeros_like(local)
    changes: list[float] = []
    while len(changes) < params.max_iterations:
        previous = chi
        chi, explained, laplacian = system.solve(target, source, charge)
        changes.append(relative_change(chi, previous))
        rounds, rest = divmod(len(changes), params.reweight_every)
        if changes[-1] <= params.tolerance and len(changes) >= params.least_iterations:
            break
        if rest == 0 and rounds <= params.reweightings:
            thresholds = edge_thresholds(chi, grid, threshold, params.edge_ppm_per_mm)
            bias = LEFT_BY_TV * params.regularisation / min(grid.voxel_size_mm)
            misfit = _misfit(explained - local, prior, params.outlier_factor, bias)
            power = prior / np.square(np.maximum(misfit, 1))
        update_field(explained, local, power, mu, multiplier, target)
        update_gradient(chi, thresholds, inverse_size, dual, split)
        adjoint_gradient(split, inverse_size, source)
        update_charge(laplacian, inside, np.float32(0), excess, charge)
    return chi, explained, Convergence(len(changes), tuple(changes), params.tolerance)


def edge_thresholds(chi: Volume, grid: Grid, threshold: np.float32, edge_ppm_per_mm: float) -> Volume:
    """Threshold of each difference, lower where the map has an edge.

    The square parts the slopes of noise, which keep theirs, from those of the cortex better than the slope itself.
    """
    result = fourier.gradient(chi, grid.voxel_size_mm)
    result /= np.float32(edge_ppm_per_mm)
    np.square(result, out=result)
    result += np.float32(1.0)
    np.divide(threshold, result, out=result)
    return result


def _misfit(difference: Volume, prior: Volume, factor: float, bias: float) -> Volume:
    """Weighted misfit in units of ``factor`` standard deviations, those estimated without the outliers.

    What the regularisation itself leaves unexplained, up to ``bias``, is no outlier, however small the noise.
    """
    weighted = np.abs(difference)
    weighted *= np.sqrt(prior)
    spread = max(MAD_TO_SD * float(np.median(weighted[prior > 0])), bias)
    weighted *= np.float32(1.0 / (factor * spread))
    return weighted


WEAK_HARMONIC = Method(
    name="weak-harmonic",
    title="weak-harmonic total variation (ADMM)",
    function=weak_harmonic,
    parameters=WeakHarmonicParameters,
    sentence=(
        "Dipole inversion estimated susceptibility together with a harmonic residual field, with total variation "
        "regularisation (weight {regularisation:g} mm at fields with a noise of {reference_noise_ppm:g} ppm and in "
        "proportion to the noise, reweighted {reweightings} times at edges above "
        "{edge_ppm_per_mm:g} ppm/mm and at misfits above {outlier_factor:g} standard deviations; {least} iterations, "
        "and up to {max_iterations} while the relative change was above {tolerance:g})."
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
            key="candes2008",
            authors="Candes EJ, Wakin MB, Boyd SP",
            title="Enhancing sparsity by reweighted l1 minimization",
            journal="Journal of Fourier Analysis and Applications 14:877-905",
            year=2008,
            doi="10.1007/s00041-008-9045-x",
        ),
        Citation(
            key="liu2013merit",
            authors="Liu T, Wisnieff C, Lou M, Chen W, Spincemaille P, Wang Y",
            title="Nonlinear formulation of the magnetic field to source relationship for robust quantitative "
            "susceptibility mapping",
            journal="Magnetic Resonance in Medicine 69:467-476",
            year=2013,
            doi="10.1002/mrm.24272",
        ),
    ),
    finds_background=True,
)
