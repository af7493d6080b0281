"""Dipole inversion with a nonlinear data term and total generalised variation of second order (FANSI)."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from qsmals.recon import fourier
from qsmals.recon.convergence import Convergence
from qsmals.recon.dipole import dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.admm import adjoint_gradient, padded, relative_change
from qsmals.recon.inversion.nonlinear import MEAN_TE_SOURCE, RAD_PER_PPM, update_phase
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]
Spectrum = NDArray[np.complex64]


@dataclass(frozen=True)
class NonlinearTGVParameters:
    """Settings of :func:`nonlinear_tgv`.

    Where the phase disagrees by more than a quarter turn the data term is concave, by up to the squared weight, which
    is 1 on average: iterations that do not settle want a ``field_penalty`` above the square of the largest weight.
    Jumps of the phase are silent if their echo time, or spacing, is that of ``rad_per_ppm``.
    """

    regularisation: float = field(
        default=1e-4, metadata={"unit": "mm, at fields in ppm", "source": "the same as of linear total variation"}
    )
    second_order_mm: float = field(default=2.0, metadata={"unit": "mm", "source": "FANSI alpha0 = 2 alpha1 at 1 mm"})
    rad_per_ppm: float = field(
        default=RAD_PER_PPM,
        metadata={"unit": "rad/ppm", "source": MEAN_TE_SOURCE, "scan": "mean_te_rad_per_ppm"},
    )
    gradient_penalty: float = field(
        default=300.0,
        metadata={"unit": "multiple of the regularisation", "source": "the same as of linear total variation"},
    )
    field_penalty: float = field(default=1.0, metadata={"unit": "1", "source": "FANSI mu2"})
    padding_mm: float = field(default=16.0, metadata={"unit": "mm", "source": "STI Suite pads 12 voxels"})
    tolerance: float = field(
        default=0.01, metadata={"unit": "relative change", "source": "the same as of nonlinear total variation"}
    )
    max_iterations: int = field(default=100, metadata={"unit": "iterations", "source": "design choice"})


def nonlinear_tgv(
    field_ppm: Volume,
    *,
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: Volume | None = None,
    params: NonlinearTGVParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility with the least total generalised variation that explains the complex signal.

    Minimises ``1/(2 s^2) |W (exp(i s D chi) - exp(i s f))|^2 + alpha1 |grad chi - v|_1 + alpha0 |E v|_1`` over the
    susceptibility chi and a vector field v, with the phase s of 1 ppm, the weights W (0 outside the mask), the
    dipole operator D, forward differences for the gradient and backward ones for the symmetrised gradient E of a
    vector field, both per mm. Total variation takes a ramp for many small steps and makes stairs of it; here v takes
    the slope, and only its changes are charged.

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
    params : NonlinearTGVParameters, optional
        The regularisation alpha1 belongs to fields in ppm: the data term tends to that of :func:`tv.tv` for small
        misfits. alpha0 is alpha1 times ``second_order_mm``. FANSI's alpha1, for phase in radians and isotropic voxels,
        is the regularisation over the voxel's edge times ``rad_per_ppm``.

    Returns
    -------
    Susceptibility

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty, NaN in the mask, bad weights or parameters that are not positive.

    References
    ----------
    Milovic C, et al. Magn Reson Med 2018;80:814-821. doi:10.1002/mrm.27073
    Bredies K, Kunisch K, Pock T. SIAM J Imaging Sci 2010;3:492-526. doi:10.1137/090769521
    """
    params = params or NonlinearTGVParameters()
    _check(params)
    local, weight = checked_inputs(field_ppm, mask, grid, weights)
    shape = fourier.padded_shape(grid.shape, fourier.margin_voxels(params.padding_mm, grid))
    chi, convergence = _solve(padded(local, shape), np.square(padded(weight, shape)), grid, params)
    nx, ny, nz = grid.shape
    return Susceptibility(np.where(mask, chi[:nx, :ny, :nz], np.float32(0)), convergence)


def _check(params: NonlinearTGVParameters) -> None:
    numbers = (
        *(params.regularisation, params.second_order_mm, params.rad_per_ppm, params.gradient_penalty),
        *(params.field_penalty, params.tolerance),
    )
    if min(numbers) <= 0 or params.max_iterations < 1:
        raise ValueError(f"nonlinear TGV needs positive parameters, not {params}")


def _solve(local: Volume, power: Volume, grid: Grid, params: NonlinearTGVParameters) -> tuple[Volume, Convergence]:
    """ADMM on the padded grid.

    With y in place of D chi, z in place of grad chi - v, q in place of E v and their scaled multipliers u, t, p, each
    round solves for chi and v together, frequency by frequency,
    ``mu/2 |D chi - (y - u)|^2 + rho1/2 |grad chi - v - (z - t)|^2 + rho0/2 |E v - (q - p)|^2``; then for y, z and q
    voxel by voxel.
    """
    shape = local.shape
    mu, threshold = params.field_penalty, np.float32(1.0 / params.gradient_penalty)
    rho1 = params.gradient_penalty * params.regularisation
    rho0 = rho1 * params.second_order_mm
    inverse_size = (np.float32(1.0) / np.asarray(grid.voxel_size_mm, dtype=np.float32)).astype(np.float32)
    dipole, steps = dipole_kernel(grid, shape), _difference_spectra(grid, shape)
    target, multiplier = local.copy(), np.zeros_like(local)
    split, dual = np.zeros((3, *shape), dtype=np.float32), np.zeros((3, *shape), dtype=np.float32)
    bend, bend_dual = np.zeros((6, *shape), dtype=np.float32), np.zeros((6, *shape), dtype=np.float32)
    source, chi, right = np.zeros_like(local), np.zeros_like(local), np.zeros_like(split)
    changes: list[float] = []
    while len(changes) < params.max_iterations:
        spectra = [fourier.transform(volume, shape) for volume in (target, source, right)]
        _solve_frequencies(*spectra, dipole, *steps, mu, rho1, rho0)
        previous = chi
        chi, explained, slope = (fourier.inverse(spectrum, shape) for spectrum in spectra)
        changes.append(relative_change(chi, previous))
        if changes[-1] <= params.tolerance:
            break
        update_phase(explained, local, power, mu, params.rad_per_ppm, multiplier, target)
        update_remainder(chi, slope, threshold, inverse_size, dual, split)
        update_bend(slope, threshold, inverse_size, bend_dual, bend)
        adjoint_gradient(split, inverse_size, source)
        adjoint_bend(bend, inverse_size, right)
        right *= np.float32(rho0)
        right -= np.float32(rho1) * split
    return chi, Convergence(len(changes), tuple(changes), params.tolerance)


def _difference_spectra(grid: Grid, shape: fourier.Shape) -> list[NDArray[np.complex128]]:
    """Spectrum of the forward difference per mm along each axis."""
    axes = zip(fourier.frequencies(shape, grid.voxel_size_mm), grid.voxel_size_mm, strict=True)
    return [(np.exp(2j * np.pi * k.ravel() * h) - 1.0) / h for k, h in axes]


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _solve_frequencies(
    a: Spectrum, b: Spectrum, r: Spectrum, dipole: Volume,
    gx: NDArray[np.complex128], gy: NDArray[np.complex128], gz: NDArray[np.complex128],
    mu: float, rho1: float, rho0: float,
) -> None:  # fmt: skip
    """In place: spectra of the targets of field, gradient and slope become those of chi, D chi and v.

    With the forward difference g, E^H E = |g|^2/2 + conj(g) g^T/2: the block of v is a multiple p of the identity and
    one outer product, which Sherman and Morrison invert, and v is eliminated.
    """
    q = 0.5 * rho0
    for i in prange(a.shape[0]):
        x = gx[i]
        for j in range(a.shape[1]):
            y = gy[j]
            for k in range(a.shape[2]):
                z = gz[k]
                d = np.float64(dipole[i, j, k])
                rx, ry, rz = r[0, i, j, k], r[1, i, j, k], r[2, i, j, k]
                length = (
                    (x.real * x.real + x.imag * x.imag)
                    + (y.real * y.real + y.imag * y.imag)
                    + (z.real * z.real + z.imag * z.imag)
                )
                square = x * x + y * y + z * z
                p = rho1 + q * length
                inverse = 1.0 / p
                c = q / (p + q * length)
                chi = 0.0j
                if length > 0:  # the mean of the susceptibility has no field
                    along = x.conjugate() * rx + y.conjugate() * ry + z.conjugate() * rz
                    along -= c * (square.conjugate() * (x * rx + y * ry + z * rz))
                    bent = square.real * square.real + square.imag * square.imag
                    divisor = mu * d * d + rho1 * inverse * (q * length * length + rho1 * c * bent)
                    chi = (mu * d * a[i, j, k] + rho1 * (b[i, j, k] + inverse * along)) * (1.0 / divisor)
                rx += rho1 * x * chi
                ry += rho1 * y * chi
                rz += rho1 * z * chi
                common = c * (x * rx + y * ry + z * rz)
                a[i, j, k] = chi
                b[i, j, k] = d * chi
                r[0, i, j, k] = inverse * (rx - x.conjugate() * common)
                r[1, i, j, k] = inverse * (ry - y.conjugate() * common)
                r[2, i, j, k] = inverse * (rz - z.conjugate() * common)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def update_remainder(
    chi: Volume, slope: Volume, threshold: np.float32, inverse_size: NDArray[np.float32], dual: Volume, split: Volume
) -> None:
    """z = shrink(grad chi - v + t), t = what the shrinkage cut off, and split = z - t for the next step."""
    nx, ny, nz = chi.shape
    for i in prange(nx):
        i1 = (i + 1) % nx
        for j in range(ny):
            j1 = (j + 1) % ny
            for k in range(nz):
                k1 = (k + 1) % nz
                here = chi[i, j, k]
                for axis in range(3):
                    if axis == 0:
                        step = (chi[i1, j, k] - here) * inverse_size[0]
                    elif axis == 1:
                        step = (chi[i, j1, k] - here) * inverse_size[1]
                    else:
                        step = (chi[i, j, k1] - here) * inverse_size[2]
                    value = step - slope[axis, i, j, k] + dual[axis, i, j, k]
                    cut = min(max(value, -threshold), threshold)
                    dual[axis, i, j, k] = cut
                    split[axis, i, j, k] = value - np.float32(2.0) * cut


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def update_bend(
    slope: Volume, threshold: np.float32, inverse_size: NDArray[np.float32], dual: Volume, bend: Volume
) -> None:
    """q = shrink(E v + p), p = what the shrinkage cut off, and bend = q - p for the next step.

    E v has the components xx, yy, zz, xy, xz and yz: ``(d_a v_b + d_b v_a) / 2`` with periodic backward differences.
    Those off the diagonal count twice in norms and products, as in the full tensor.
    """
    _, nx, ny, nz = slope.shape
    half = np.float32(0.5)
    a, b, c = inverse_size[0], inverse_size[1], inverse_size[2]
    for i in prange(nx):
        i0 = (i - 1) % nx
        for j in range(ny):
            j0 = (j - 1) % ny
            for k in range(nz):
                k0 = (k - 1) % nz
                x, y, z = slope[0, i, j, k], slope[1, i, j, k], slope[2, i, j, k]
                xy = (y - slope[1, i0, j, k]) * a + (x - slope[0, i, j0, k]) * b
                xz = (z - slope[2, i0, j, k]) * a + (x - slope[0, i, j, k0]) * c
                yz = (z - slope[2, i, j0, k]) * b + (y - slope[1, i, j, k0]) * c
                _shrink((x - slope[0, i0, j, k]) * a, threshold, dual, bend, 0, i, j, k)
                _shrink((y - slope[1, i, j0, k]) * b, threshold, dual, bend, 1, i, j, k)
                _shrink((z - slope[2, i, j, k0]) * c, threshold, dual, bend, 2, i, j, k)
                _shrink(half * xy, threshold, dual, bend, 3, i, j, k)
                _shrink(half * xz, threshold, dual, bend, 4, i, j, k)
                _shrink(half * yz, threshold, dual, bend, 5, i, j, k)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _shrink(
    value: np.float32, threshold: np.float32, dual: Volume, bend: Volume, component: int, i: int, j: int, k: int
) -> None:
    total = value + dual[component, i, j, k]
    cut = min(max(total, -threshold), threshold)
    dual[component, i, j, k] = cut
    bend[component, i, j, k] = total - np.float32(2.0) * cut


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def adjoint_bend(bend: Volume, inverse_size: NDArray[np.float32], result: Volume) -> None:
    """Adjoint of E: minus the forward differences of each row of the tensor, summed."""
    _, nx, ny, nz = bend.shape
    a, b, c = inverse_size[0], inverse_size[1], inverse_size[2]
    for i in prange(nx):
        i1 = (i + 1) % nx
        for j in range(ny):
            j1 = (j + 1) % ny
            for k in range(nz):
                k1 = (k + 1) % nz
                xx, yy, zz = bend[0, i, j, k], bend[1, i, j, k], bend[2, i, j, k]
                xy, xz, yz = bend[3, i, j, k], bend[4, i, j, k], bend[5, i, j, k]
                result[0, i, j, k] = (
                    (xx - bend[0, i1, j, k]) * a + (xy - bend[3, i, j1, k]) * b + (xz - bend[4, i, j, k1]) * c
                )
                result[1, i, j, k] = (
                    (xy - bend[3, i1, j, k]) * a + (yy - bend[1, i, j1, k]) * b + (yz - bend[5, i, j, k1]) * c
                )
                result[2, i, j, k] = (
                    (xz - bend[4, i1, j, k]) * a + (yz - bend[5, i, j1, k]) * b + (zz - bend[2, i, j, k1]) * c
                )


NONLINEAR_TGV = Method(
    name="nonlinear-tgv",
    title="nonlinear total generalised variation (FANSI)",
    function=nonlinear_tgv,
    parameters=NonlinearTGVParameters,
    sentence=(
        "Dipole inversion minimised the weighted misfit of the complex signal ({rad_per_ppm:g} rad/ppm) with total "
        "generalised variation of second order by ADMM (regularisation {regularisation:g} mm at fields in ppm, "
        "{second_order_mm:g} mm times that for the second order; relative change below {tolerance:g} or "
        "{max_iterations} iterations)."
    ),
    citations=(
        Citation(
            key="milovic2018",
            authors="Milovic C, Bilgic B, Zhao B, Acosta-Cabronero J, Tejos C",
            title="Fast nonlinear susceptibility inversion with variational regularization",
            journal="Magnetic Resonance in Medicine 80:814-821",
            year=2018,
            doi="10.1002/mrm.27073",
        ),
        Citation(
            key="bredies2010",
            authors="Bredies K, Kunisch K, Pock T",
            title="Total generalized variation",
            journal="SIAM Journal on Imaging Sciences 3:492-526",
            year=2010,
            doi="10.1137/090769521",
        ),
    ),
)
