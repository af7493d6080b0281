"""Morphology enabled dipole inversion."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.background.ismv import sphere_interior
from qsmals.recon.conjugate import conjugate_gradient
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import padded, relative_change
from qsmals.recon.inversion.nonlinear import pull
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

MERIT_FACTOR = 6.0
"""Standard deviations of the misfit beyond which a voxel loses weight, as the MEDI toolbox has it."""


@dataclass(frozen=True)
class MEDIParameters:
    """Settings of :func:`medi`.

    The steps start from a susceptibility of 0, so that fields beyond half a turn, ``pi / rad_per_ppm``, can be taken
    for others: 0.79 ppm for the default. Jumps of the phase are silent if their echo spacing is that of
    ``rad_per_ppm``.
    """

    regularisation: float = field(
        default=3e-4, metadata={"unit": "mm, at fields in ppm", "source": "best of 4 on 1 noisy phantom"}
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
    corner_ppm_per_mm: float = field(default=1e-4, metadata={"unit": "ppm/mm", "source": "design choice"})
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
    tolerance: float = field(default=0.03, metadata={"unit": "relative change", "source": "1 phantom"})
    max_iterations: int = field(default=20, metadata={"unit": "Gauss-Newton steps", "source": "design choice"})
    inner_tolerance: float = field(
        default=0.1, metadata={"unit": "relative residual", "source": "the error of 0.01 at half the time on 1 phantom"}
    )
    inner_iterations: int = field(
        default=30, metadata={"unit": "iterations", "source": "the error of 100 at half the time on 1 phantom"}
    )

    @property
    def words(self) -> Mapping[str, str]:
        """For the methods text."""
        strength = f"regularisation {self.regularisation:g} mm at fields in ppm"
        if self.medi_lambda:
            strength = f"lambda {self.medi_lambda:g}"
        smv = (
            f"; field and dipole less their spherical means of {self.smv_radius_mm:g} mm" if self.smv_radius_mm else ""
        )
        merit = "; voxels of large misfit lost weight at every step (MERIT)" if self.merit else ""
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
    weights W of voxels whose misfit is beyond six standard deviations are divided, after every step, by the square of
    their excess.

    Each step replaces the cosine of the data term and the absolute value, rounded at ``corner_ppm_per_mm``, by
    parabolas that touch them from above, and solves for their minimum by conjugate gradients: the objective can only
    fall.

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
        Image that gives the edges, any unit, finite in the mask. Without it the weights give them, and without those
        there are none: the method is then total variation.
    csf_mask : (x, y, z) bool, optional
        Cerebrospinal fluid of the ventricles. Voxels outside the mask do not count.

    Returns
    -------
    Susceptibility
        With a ``csf_mask`` the mean there is 0. With spherical means off, on the smaller mask. The changes are those of
        the Gauss-Newton steps.

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
    padding = max(params.padding_mm, params.smv_radius_mm) if params.smv_radius_mm else params.padding_mm
    margin = fourier.margin_voxels(padding, grid)
    shape = fourier.padded_shape(grid.shape, margin)
    dipole, smaller = dipole_kernel(grid, shape), None
    if params.smv_radius_mm > 0:
        mask = smaller = sphere_interior(mask, params.smv_radius_mm, grid)
        mean = fourier.sphere_kernel(params.smv_radius_mm, grid, shape)
        local, weight = _without_means(local, weight, mask, mean, shape)
        dipole = dipole * (np.float32(1) - mean)
    fluid = None if csf_mask is None else _checked_fluid(csf_mask, mask)
    charge = np.full((3, *shape), params.variation_mm, dtype=np.float32)
    nx, ny, nz = grid.shape
    charge[:, :nx, :ny, :nz][charged] = 0.0
    within = None if fluid is None else padded(fluid.astype(np.float32), shape) > 0
    system = _System(padded(local, shape), np.square(padded(weight, shape)), charge, within, dipole, grid, params)
    full, convergence = system.solve()
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
        *(params.regularisation, params.rad_per_ppm, params.corner_ppm_per_mm, params.csf_weight),
        *(params.tolerance, params.inner_tolerance),
    )
    if min(numbers) <= 0 or min(params.max_iterations, params.inner_iterations) < 1:
        raise ValueError(f"MEDI needs positive parameters, not {params}")
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


class _System:
    """Objective on the padded grid, and the normal equations of its parabolas."""

    def __init__(
        self,
        local: Volume,
        power: Volume,
        charge: Volume,
        fluid: Mask | None,
        dipole: Volume,
        grid: Grid,
        params: MEDIParameters,
    ) -> None:
        self.local, self.power, self.charge, self.fluid, self.params = local, power, charge, fluid, params
        self.inverse_size = (1.0 / np.asarray(grid.voxel_size_mm)).astype(np.float32)
        self.dipole, self.known = dipole, power > 0
        self.stiffness = np.empty_like(charge)

    def solve(self) -> tuple[Volume, Convergence]:
        """Gauss-Newton steps from 0, each by conjugate gradients."""
        params, chi = self.params, np.zeros_like(self.local)
        changes: list[float] = []
        while len(changes) < params.max_iterations:
            _stiffen(chi, self.charge, np.float32(params.corner_ppm_per_mm), self.inverse_size, self.stiffness)
            step, _ = conjugate_gradient(
                self._curvature, self._descent(chi),
                tolerance=params.inner_tolerance, max_iterations=params.inner_iterations,
            )  # fmt: skip
            previous, chi = chi, chi + step
            if params.merit:
                self.power = reweighted(self._field(chi), self.local, self.power, self.known, params.rad_per_ppm)
            changes.append(relative_change(chi, previous))
            if changes[-1] <= params.tolerance:
                break
        return chi, Convergence(len(changes), tuple(changes), params.tolerance)

    def _field(self, volume: Volume) -> Volume:
        spectrum = fourier.transform(volume, self.local.shape)
        spectrum *= self.dipole
        return fourier.inverse(spectrum, self.local.shape)

    def _descent(self, chi: Volume) -> Volume:
        """Minus the gradient of the objective."""
        result = self._field(chi)
        pull(result, self.local, self.power, self.params.rad_per_ppm, result)
        return -self._with_penalties(self._field(result), chi)

    def _curvature(self, step: Volume) -> Volume:
        """Second derivative of the parabolas along a step."""
        result = self._field(step)
        result *= self.power
        return self._with_penalties(self._field(result), step)

    def _with_penalties(self, result: Volume, volume: Volume) -> Volume:
        _add_stiffness(volume, self.stiffness, self.inverse_size, result)
        if self.fluid is not None:
            values = volume[self.fluid]
            result[self.fluid] += np.float32(self.params.csf_weight) * (values - values.mean(dtype=np.float64))
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


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _stiffen(
    chi: Volume, charge: Volume, corner: np.float32, inverse_size: NDArray[np.float32], stiffness: Volume
) -> None:
    """Curvature of the parabola on each rounded absolute difference: charge / sqrt(difference^2 + corner^2)."""
    nx, ny, nz = chi.shape
    for i in prange(nx):
        i1 = (i + 1) % nx
        for j in range(ny):
            j1 = (j + 1) % ny
            for k in range(nz):
                k1 = (k + 1) % nz
                here = chi[i, j, k]
                x = (chi[i1, j, k] - here) * inverse_size[0]
                y = (chi[i, j1, k] - here) * inverse_size[1]
                z = (chi[i, j, k1] - here) * inverse_size[2]
                stiffness[0, i, j, k] = charge[0, i, j, k] / np.sqrt(x * x + corner * corner)
                stiffness[1, i, j, k] = charge[1, i, j, k] / np.sqrt(y * y + corner * corner)
                stiffness[2, i, j, k] = charge[2, i, j, k] / np.sqrt(z * z + corner * corner)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _add_stiffness(volume: Volume, stiffness: Volume, inverse_size: NDArray[np.float32], result: Volume) -> None:
    """result += grad^T stiffness grad volume, with periodic forward differences."""
    nx, ny, nz = volume.shape
    a, b, c = inverse_size[0] ** 2, inverse_size[1] ** 2, inverse_size[2] ** 2
    for i in prange(nx):
        i0, i1 = (i - 1) % nx, (i + 1) % nx
        for j in range(ny):
            j0, j1 = (j - 1) % ny, (j + 1) % ny
            for k in range(nz):
                k0, k1 = (k - 1) % nz, (k + 1) % nz
                here = volume[i, j, k]
                result[i, j, k] += (
                    a * (stiffness[0, i0, j, k] * (here - volume[i0, j, k]))
                    + a * (stiffness[0, i, j, k] * (here - volume[i1, j, k]))
                    + b * (stiffness[1, i, j0, k] * (here - volume[i, j0, k]))
                    + b * (stiffness[1, i, j, k] * (here - volume[i, j1, k]))
                    + c * (stiffness[2, i, j, k0] * (here - volume[i, j, k0]))
                    + c * (stiffness[2, i, j, k] * (here - volume[i, j, k1]))
                )


MEDI = Method(
    name="medi",
    title="morphology enabled dipole inversion (MEDI)",
    function=medi,
    parameters=MEDIParameters,
    sentence=(
        "Morphology enabled dipole inversion minimised the weighted misfit of the complex signal ({rad_per_ppm:g} "
        "rad/ppm) and the variation of susceptibility away from edges ({strength}; edges are the {edge_fraction:.0%} "
        "largest differences of the image{more}; relative change below {tolerance:g} or {max_iterations} Gauss-Newton "
        "steps)."
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
