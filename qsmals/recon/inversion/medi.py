"""Morphology enabled dipole inversion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.background.spheres import sphere_interior
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import least_variation, padded
from qsmals.recon.inversion.nonlinear import update_phase
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

MERIT_FACTOR = 6.0
"""Standard deviations of the misfit beyond which a voxel loses weight, as the MEDI toolbox has it."""


@dataclass(frozen=True)
class MEDIParameters:
    """Settings of :func:`medi`.

    Jumps of the phase are silent if their echo spacing is that of ``rad_per_ppm``.
    """

    regularisation: float = field(
        default=3e-4, metadata={"unit": "mm, at fields in ppm", "source": "by trial on 1 noisy phantom, no table"}
    )
    rad_per_ppm: float = field(
        default=4.0,
        metadata={
            "unit": "rad/ppm",
            "source": "2 pi gamma B0 dTE of the scan's echo spacing, as MEDI takes it; here 3 T and 5 ms",
            "scan": "spacing_rad_per_ppm",
        },
    )
    edge_fraction: float = field(
        default=0.3,
        metadata={"unit": "part of the differences in the mask", "source": "MEDI toolbox: 0.9 per voxel, of 3"},
    )
    csf_weight: float = field(default=0.1, metadata={"unit": "1", "source": "MEDI+0: lambda_CSF 100 at lambda 1000"})
    medi_lambda: float = field(
        default=0.0,
        metadata={
            "unit": "1, at the phase of rad_per_ppm",
            "source": "weight of the data as MEDI counts it, in place of the regularisation if not 0; consensus 2000",
        },
    )
    smv_radius_mm: float = field(
        default=0.0, metadata={"unit": "mm, 0 is off", "source": "design choice; consensus and MEDI toolbox 5"}
    )
    merit: bool = field(default=False, metadata={"unit": "yes or no", "source": "design choice; consensus yes"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    gradient_penalty: float = field(
        default=300.0,
        metadata={"unit": "multiple of the regularisation", "source": "the same as of linear total variation"},
    )
    field_penalty: float = field(default=1.0, metadata={"unit": "1", "source": "the same as of FANSI, mu2"})
    fluid_penalty: float = field(default=0.02, metadata={"unit": "1", "source": "design choice, for the speed"})
    merit_every: int = field(default=5, metadata={"unit": "iterations", "source": "design choice"})
    merit_times: int = field(
        default=10, metadata={"unit": "times", "source": "the Gauss-Newton steps of the MEDI toolbox"}
    )
    tolerance: float = field(
        default=0.01, metadata={"unit": "relative change", "source": "the same as of nonlinear total variation"}
    )
    max_iterations: int = field(default=150, metadata={"unit": "iterations", "source": "design choice"})

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        strength = f"regularisation {self.regularisation:g} mm at fields in ppm"
        if self.medi_lambda:
            strength = f"lambda {self.medi_lambda:g}"
        smv = (
            f"; field and dipole less their spherical means of {self.smv_radius_mm:g} mm" if self.smv_radius_mm else ""
        )
        merit = "; voxels of large misfit lost weight (MERIT)" if self.merit else ""
        return {"strength": strength, "more": smv + merit}

    @property
    def variation_mm(self) -> float:
        """Weight of the variation, mm, at fields in ppm."""
        return 0.5 / (self.rad_per_ppm * self.medi_lambda) if self.medi_lambda else self.regularisation


def medi(
    field_ppm: Volume,
    *,
    mask: Mask,
    grid: Grid,
    weights: Volume | None = None,
    params: MEDIParameters | None = None,
    magnitude: Volume | None = None,
    csf_mask: Mask | None = None,
) -> Susceptibility:
    r"""Susceptibility that explains the complex signal and has its edges where an image has them.

    Minimises ``1/(2 s^2) |W (exp(i s D chi) - exp(i s f))|^2 + lambda |M grad chi|_1`` with the phase s of 1 ppm, the
    weights W (0 outside the mask), the dipole operator D, forward differences per mm and M = 0 where the image's own
    difference is among the ``edge_fraction`` largest of the mask, 1 elsewhere. With a ``csf_mask`` the variance in
    cerebrospinal fluid is charged too: ``+ csf_weight/2 |chi - mean of chi|^2`` over its voxels (MEDI+0).

    With ``smv_radius_mm`` both the field and that of the dipole lose their spherical means, so that what the background
    step left does not matter, and the mask its outer voxels, in which the sphere does not fit. With ``merit`` the
    weights W of voxels whose misfit is beyond six standard deviations are divided, every ``merit_every`` iterations,
    by the square of their excess.

    The objective is minimised by ADMM, as FANSI's, in place of the papers' Gauss-Newton steps with conjugate gradients
    on an absolute value with a rounded corner.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Local field, ppm.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation; their scale has no effect.
    params : MEDIParameters, optional
        The regularisation belongs to fields in ppm: the data term tends to that of :func:`tv.tv` for small misfits.
        MEDI's lambda, which multiplies the data term and belongs to phase in radians, is
        ``1 / (2 rad_per_ppm regularisation)``, and can be given itself.
    magnitude : (x, y, z) float32, optional
        Image that gives the edges, any unit, finite in the mask. The border of the mask is none, other than in the
        MEDI toolbox, which sets the image to 0 beyond it. Without an image the weights give them, and without those
        there are none: the method is then total variation.
    csf_mask : (x, y, z) bool, optional
        Cerebrospinal fluid of the ventricles. Voxels outside the mask do not count.

    Returns
    -------
    Susceptibility
        With a ``csf_mask`` the mean there is 0. With spherical means off, on the smaller mask.

    Raises
    ------
    ValueError
        Shapes differ, the mask or the fluid in it is empty, NaN in the mask, bad weights, parameters that are not
        positive, or an edge fraction outside 0 to 1.

    References
    ----------
    Liu J, et al. NeuroImage 2012;59:2560-2568. doi:10.1016/j.neuroimage.2011.08.082
    Liu T, et al. Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272
    Liu Z, et al. Magn Reson Med 2018;79:2795-2803. doi:10.1002/mrm.26946
    """
    params = params or MEDIParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    image = weight if magnitude is None else _checked_image(magnitude, mask)
    charged = edges(image, mask, grid, params.edge_fraction)
    # where spherical means count their sphere lies in the mask, and needs no margin
    margin = fourier.margin_voxels(params.padding_mm, grid)
    shape = fourier.padded_shape(grid.shape, margin)
    dipole, smaller = dipole_kernel(grid, shape), None
    if params.smv_radius_mm > 0:
        mask = smaller = sphere_interior(mask, params.smv_radius_mm, grid)
        mean = fourier.sphere_kernel(params.smv_radius_mm, grid, shape)
        local, weight = _without_means(local, weight, mask, mean, shape)
        dipole = dipole * (np.float32(1) - mean)
    fluid = None if csf_mask is None else _checked_fluid(csf_mask, mask)
    threshold = np.full((3, *shape), 1.0 / params.gradient_penalty, dtype=np.float32)
    nx, ny, nz = grid.shape
    threshold[:, :nx, :ny, :nz][charged] = 0.0
    within = None if fluid is None else padded(fluid.astype(np.float32), shape) > 0
    power = np.square(padded(weight, shape))
    full, convergence = _solve(padded(local, shape), power, threshold, within, dipole, grid, params)
    chi = full[:nx, :ny, :nz]
    if fluid is not None:
        chi = chi - np.float32(chi[fluid].mean(dtype=np.float64))
    return Susceptibility(np.where(mask, chi, np.float32(0)), convergence, smaller)


def _without_means(
    local: Volume, weight: Volume, mask: Mask, mean: Volume, shape: fourier.Shape
) -> tuple[Volume, Volume]:
    """Field less its spherical mean, and the weights of that difference, both 0 outside the smaller mask."""

    def averaged(volume: Volume) -> Volume:
        return fourier.inverse(fourier.transform(volume, shape) * mean, shape, local.shape)

    variance = np.divide(1, np.square(weight), out=np.zeros_like(weight), where=weight > 0)
    total = variance + np.maximum(averaged(variance), 0)
    kept = np.divide(1, np.sqrt(total), out=np.zeros_like(weight), where=mask & (weight > 0))
    kept /= np.float32(kept[mask].mean(dtype=np.float64))
    return np.where(mask, local - averaged(local), np.float32(0)), kept


def edges(image: Volume, mask: Mask, grid: Grid, fraction: float) -> Mask:
    """Where an image has its largest differences per mm.

    Parameters
    ----------
    image : (x, y, z) float32
        Any unit, finite in the mask.
    mask : (x, y, z) bool
        Only differences between two of its voxels count.
    grid : Grid
        Voxel size.
    fraction : float
        Part of those differences, of all three axes together, to call edges, 0 to 1. Differences of 0 are none.

    Returns
    -------
    (3, x, y, z) bool
        One volume for the forward difference along each axis.
    """
    slope = np.abs(fourier.gradient(np.where(mask, image, np.float32(0)), grid.voxel_size_mm))
    inside = np.stack([mask & np.roll(mask, -1, axis) for axis in range(3)])
    for axis in range(3):  # the last difference of an axis is to the first voxel, and no neighbour
        np.moveaxis(inside[axis], axis, 0)[-1] = False
    if not inside.any():
        return inside
    return np.asarray(inside & (slope > np.quantile(slope[inside], 1.0 - fraction)))


def _check(params: MEDIParameters) -> None:
    numbers = (
        *(params.regularisation, params.rad_per_ppm, params.csf_weight, params.tolerance),
        *(params.gradient_penalty, params.field_penalty, params.fluid_penalty),
    )
    if min(numbers) <= 0 or min(params.max_iterations, params.merit_every, params.merit_times) < 1:
        raise ValueError(f"MEDI needs positive parameters, not {params}")
    if params.merit and params.max_iterations <= params.merit_every * params.merit_times:
        raise ValueError(
            f"MERIT {params.merit_times} times every {params.merit_every} iterations needs more than "
            f"{params.max_iterations} iterations"
        )
    if min(params.medi_lambda, params.smv_radius_mm) < 0:
        raise ValueError(f"lambda and radius of MEDI are 0 or more, not {params}")
    if not 0 <= params.edge_fraction <= 1:
        raise ValueError(f"the edge fraction lies between 0 and 1, not at {params.edge_fraction}")


def _checked_image(magnitude: Volume, mask: Mask) -> Volume:
    if magnitude.shape != mask.shape:
        raise ValueError(f"magnitude {magnitude.shape} and mask {mask.shape} must have one shape")
    if not np.isfinite(magnitude[mask]).all():
        raise ValueError("the magnitude has NaN or infinity in the mask")
    return magnitude.astype(np.float32)


def _checked_fluid(csf_mask: Mask, mask: Mask) -> Mask:
    if csf_mask.shape != mask.shape:
        raise ValueError(f"mask of cerebrospinal fluid {csf_mask.shape} and mask {mask.shape} must have one shape")
    fluid = np.asarray(csf_mask, dtype=bool) & mask
    if not fluid.any():
        raise ValueError("the mask of cerebrospinal fluid has no voxel in the mask")
    return fluid


def _solve(
    local: Volume,
    power: Volume,
    threshold: Volume,
    fluid: Mask | None,
    dipole: Volume,
    grid: Grid,
    params: MEDIParameters,
) -> tuple[Volume, Convergence]:
    """ADMM on the padded grid, as of :func:`nonlineartv.nonlinear_tv` with a threshold for each difference.

    MERIT changes the weights now and then. The fluid's term is met by a copy of the susceptibility.
    """
    known, rounds = power > 0, count(1)

    def update(explained: Volume, multiplier: Volume, target: Volume) -> None:
        nonlocal power
        every, rest = divmod(next(rounds), params.merit_every)
        if params.merit and rest == 0 and every <= params.merit_times:
            power = reweighted(explained, local, power, known, params.rad_per_ppm)
        update_phase(explained, local, power, params.field_penalty, params.rad_per_ppm, multiplier, target)

    return least_variation(
        local,
        grid,
        field_penalty=params.field_penalty,
        slope_penalty=params.gradient_penalty * params.variation_mm,
        threshold=threshold,
        update=update,
        tolerance=params.tolerance,
        max_iterations=params.max_iterations,
        least_iterations=params.merit_every * params.merit_times + 1 if params.merit else 1,
        dipole=dipole,
        own_penalty=0.0 if fluid is None else params.fluid_penalty,
        own_target=None if fluid is None else _FluidTarget(fluid, params.csf_weight, params.fluid_penalty),
    )


class _FluidTarget:
    """Copy w of the susceptibility with the charge on its variance in the fluid, less the multiplier s."""

    def __init__(self, fluid: Mask, charge: float, penalty: float) -> None:
        self.fluid, self.kept = fluid, np.float32(penalty / (penalty + charge))
        self.multiplier = np.zeros(int(fluid.sum()), dtype=np.float32)

    def __call__(self, chi: Volume) -> Volume:
        """Outside the fluid w is the susceptibility and s is 0; inside, the deviation from the mean shrinks."""
        result = chi.copy()
        asked = chi[self.fluid] + self.multiplier
        mean = np.float32(asked.mean(dtype=np.float64))
        copy = mean + self.kept * (asked - mean)
        self.multiplier = asked - copy
        result[self.fluid] = copy - self.multiplier
        return result


def reweighted(explained: Volume, local: Volume, power: Volume, known: Mask, rad_per_ppm: float) -> Volume:
    """Squared weights after a step of MERIT: those of voxels of large misfit over the fourth power of its excess.

    The excess is the modulus of the weighted misfit of the complex signal, less its mean, in units of `MERIT_FACTOR`
    times the standard deviation of such moduli; below 1 it has no effect. The weights keep their mean of 1.
    """
    scale = 1j * rad_per_ppm
    weight = np.sqrt(power[known].astype(np.float64))
    misfit = weight * (np.exp(scale * explained[known]) - np.exp(scale * local[known]))
    size = np.abs(misfit - misfit.mean())
    limit = MERIT_FACTOR * float(size.std())
    if limit > 0:
        weight /= np.maximum(size / limit, 1.0) ** 2
    result = np.zeros_like(power)
    result[known] = np.square(weight / weight.mean())
    return result


MEDI = Method(
    name="medi",
    title="morphology enabled dipole inversion (MEDI)",
    function=medi,
    parameters=MEDIParameters,
    sentence=(
        "Morphology enabled dipole inversion minimised the weighted misfit of the complex signal ({rad_per_ppm:g} "
        "rad/ppm) and the variation of susceptibility away from edges ({strength}; edges are the {edge_fraction:.0%} "
        "largest differences of the image{more}; ADMM to a relative change below {tolerance:g} or {max_iterations} "
        "iterations)."
    ),
    citations=(
        Citation(
            key="liu2012medi",
            authors="Liu J, Liu T, de Rochefort L, Ledoux J, Khalidov I, Chen W, Tsiouris AJ, Wisnieff C, "
            "Spincemaille P, Prince MR, Wang Y",
            title="Morphology enabled dipole inversion for quantitative susceptibility mapping using structural "
            "consistency between the magnitude image and the susceptibility map",
            journal="NeuroImage 59:2560-2568",
            year=2012,
            doi="10.1016/j.neuroimage.2011.08.082",
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
)
