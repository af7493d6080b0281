"""Single-step inversion: from the total field to susceptibility with total generalised variation."""

from dataclasses import dataclass, field

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.recon.convergence import Convergence
from qsmals.recon.grid import Grid, bounding_box
from qsmals.recon.inversion.admm import relative_change
from qsmals.recon.inversion.solution import Susceptibility, checked_inputs, stage_notes
from qsmals.recon.method import Citation, Method

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

COARSEST_VOXELS = 24
"""A level is not halved if it would have fewer voxels than this along an axis."""

CHECK_EVERY = 25
"""Iterations between looks at the change of the map."""

SLOPE_OF_CHI, MISFIT_OF_CHI = 0.1, 0.1
"""Sizes of slope, 1/mm, and misfit in units of the size of the susceptibility."""

DUAL_OF_FIELD = 3.0
"""Size of the multiplier of the field's equation, mm, in units of the regularisation."""


@dataclass(frozen=True)
class TGVParameters:
    """Settings of :func:`tgv`."""

    regularisation: float = field(
        default=1.5e-4, metadata={"unit": "mm, at fields in ppm", "source": "by trial on 1 simulated head, no table"}
    )
    second_order_mm: float = field(
        default=3.0, metadata={"unit": "mm", "source": "Langkammer 2015: alpha0 = 3 alpha1 at 1 mm"}
    )
    levels: int = field(
        default=3, metadata={"unit": "grids, each with half the resolution of the next", "source": "design choice"}
    )
    chi_size_ppm: float = field(
        default=0.03, metadata={"unit": "ppm", "source": "size of the solution, for the steps; by trial, no table"}
    )
    tolerance: float = field(
        default=0.01,
        metadata={"unit": "relative change in 25 iterations", "source": "by trial on 1 simulated head, no table"},
    )
    max_iterations: int = field(
        default=500,
        metadata={"unit": "iterations a level", "source": "half of Langkammer 2015, who had no coarser grids"},
    )


def tgv(
    field_ppm: Volume,
    *,
    mask: Mask,
    grid: Grid,
    weights: Volume | None = None,
    params: TGVParameters | None = None,
) -> Susceptibility:
    r"""Susceptibility with the least total generalised variation that explains the Laplacian of the total field.

    Minimises ``1/2 |W psi|^2 + alpha1 |grad chi - v| + alpha0 |E v|`` over the susceptibility chi, a vector field v and
    a misfit psi with ``L (psi + f) = (L/3 - (b . grad)^2) chi`` in the mask's interior, for the total field f, its
    Laplacian L and the direction b of the main field. The norms are those of vectors and symmetric tensors, summed over
    the mask. psi is the misfit of the field of chi up to any harmonic function, so that neither the background nor an
    offset of f matters, and nothing is removed before. Beyond the mask nothing is assumed.

    The published method takes the Laplacian of f from wrapped phase, at which unwrapping cannot fail. For an unwrapped
    field in ppm it is the same Laplacian, and of several echoes the field is their best combination.

    The iterations are those of Chambolle and Pock with diagonal preconditioning, all in the mask, first on coarser
    grids: a step moves what it knows by one voxel, so that large structures come from there.

    Parameters
    ----------
    field_ppm : (x, y, z) float32
        Total field, ppm; a local field will do as well.
    mask : (x, y, z) bool
        Where it is known.
    grid : Grid
        Voxel size and B0 direction; any tilt.
    weights : (x, y, z) float32, optional
        Reliability of the field, proportional to 1 / its standard deviation; their scale has no effect.
    params : TGVParameters, optional
        The regularisation alpha1 belongs to fields in ppm; alpha0 is alpha1 times ``second_order_mm``.

    Returns
    -------
    Susceptibility
        With the mask in whose voxels the equation holds: one voxel less all round. The changes are those in 25
        iterations each, on the finest grid; notes say which coarser ones stopped before the tolerance.

    Raises
    ------
    ValueError
        Shapes differ, the mask is empty or without an interior, NaN in the mask, bad weights or parameters that are not
        positive.

    References
    ----------
    Langkammer C, et al. NeuroImage 2015;111:622-630. doi:10.1016/j.neuroimage.2015.02.041
    Chambolle A, Pock T. J Math Imaging Vis 2011;40:120-145. doi:10.1007/s10851-010-0251-1
    Pock T, Chambolle A. IEEE Int Conf Comput Vis 2011:1762-1769. doi:10.1109/ICCV.2011.6126441
    """
    params = params or TGVParameters()
    _check(params)
    total, weight = checked_inputs(field_ppm, mask, grid, weights)
    box = bounding_box(mask, 1)
    inside = np.pad(mask[box], 1)
    if not interior(inside).any():
        raise ValueError("the mask has no interior: no voxel of it has all its neighbours in it")
    level = _Level.of(np.pad(total[box], 1), np.square(np.pad(weight[box], 1)), inside, grid)
    state, (*coarser, convergence) = _solve(level, params, params.levels)
    chi, known = np.zeros_like(total), np.zeros_like(mask)
    chi[box], known[box] = state.chi[1:-1, 1:-1, 1:-1], interior(inside)[1:-1, 1:-1, 1:-1]
    n = len(coarser)
    notes = stage_notes({f"the grid of {2 ** (n - i)} times the voxel's edges": c for i, c in enumerate(coarser)})
    return Susceptibility(np.where(known, chi, np.float32(0)), convergence, mask=known, notes=notes)


def interior(mask: Mask) -> Mask:
    """Voxels of the mask whose neighbours by face and edge are in it."""
    return np.asarray(ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2)))


def _check(params: TGVParameters) -> None:
    numbers = (params.regularisation, params.second_order_mm, params.chi_size_ppm, params.tolerance)
    if min(numbers) <= 0 or min(params.levels, params.max_iterations) < 1:
        raise ValueError(f"TGV needs positive parameters, not {params}")


@dataclass(frozen=True)
class _Level:
    """The problem on one grid, whose outermost voxels are not in the mask.

    ``wave`` has the coefficients of ``L/3 - (b . grad)^2``, per mm^2: xx, yy, zz, and those of the mixed differences
    xy, xz and yz over four diagonal neighbours.
    """

    total: Volume
    power: Volume
    mask: Mask
    inner: Mask
    laplacian: Volume
    size_mm: tuple[float, float, float]
    b0: tuple[float, float, float]

    @classmethod
    def of(cls, total: Volume, power: Volume, mask: Mask, grid: Grid) -> "_Level":
        inverse = (1.0 / np.asarray(grid.voxel_size_mm)).astype(np.float32)
        inner, laplacian = interior(mask), np.zeros_like(total)
        _laplacian(total, inner, inverse, laplacian)
        return cls(total, power, mask, inner, laplacian, grid.voxel_size_mm, grid.b0_direction)

    @property
    def inverse(self) -> NDArray[np.float32]:
        return np.asarray(1.0 / np.asarray(self.size_mm), dtype=np.float32)

    @property
    def wave(self) -> NDArray[np.float32]:
        b, h = np.asarray(self.b0), np.asarray(self.size_mm)
        mixed = [-b[i] * b[j] / (2.0 * h[i] * h[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        return np.asarray([*((1 / 3 - b**2) / h**2), *mixed], dtype=np.float32)

    def halved(self) -> "_Level | None":
        """Means over blocks of two voxels along each axis; None where too little would be left.

        A block is in the mask if all of it is.
        """
        shape = [n + n % 2 for n in self.mask.shape]
        if min(shape) // 2 < COARSEST_VOXELS:
            return None
        pads = [(0, m - n) for n, m in zip(self.mask.shape, shape, strict=True)]

        def blocks(volume: NDArray[np.floating]) -> Volume:
            x, y, z = (m // 2 for m in shape)
            cut = np.pad(volume, pads).reshape(x, 2, y, 2, z, 2)
            return np.asarray(cut.mean(axis=(1, 3, 5), dtype=np.float32), dtype=np.float32)

        mask = np.pad(blocks(self.mask.astype(np.float32)) == 1, 1)
        if not interior(mask).any():
            return None
        x, y, z = (2 * size for size in self.size_mm)
        nx, ny, nz = mask.shape
        total, power = np.pad(blocks(self.total), 1), np.pad(blocks(self.power), 1)
        return _Level.of(total, power, mask, Grid((nx, ny, nz), (x, y, z), self.b0))


@dataclass
class _State:
    """Variables and multipliers; those of vectors and tensors have their components last."""

    chi: Volume
    slope: Volume
    psi: Volume
    p: Volume
    q: Volume
    eta: Volume

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> "_State":
        def zeros(*components: int) -> Volume:
            return np.zeros((*shape, *components), dtype=np.float32)

        return cls(zeros(), zeros(3), zeros(), zeros(3), zeros(6), zeros())

    def doubled(self, shape: tuple[int, ...]) -> "_State":
        """The same functions on a grid of half the voxel size, linear between the centres."""

        def finer(volume: Volume) -> Volume:
            components = [
                _double(part, shape) for part in (np.moveaxis(volume, -1, 0) if volume.ndim == 4 else [volume])
            ]
            return np.ascontiguousarray(np.stack(components, axis=-1)) if volume.ndim == 4 else components[0]

        return _State(*(finer(v) for v in (self.chi, self.slope, self.psi, self.p, self.q, self.eta)))


def _double(volume: Volume, shape: tuple[int, ...]) -> Volume:
    """Linear interpolation to half the voxel size; the coarse grid has one voxel of border more than the fine one."""
    inner = volume
    for axis, n in enumerate(shape):
        position = (np.arange(n) - 0.5) / 2.0 + 1.0
        low = np.floor(position).astype(int).clip(0, inner.shape[axis] - 2)
        part = (position - low).astype(np.float32)
        part = part.reshape([-1 if a == axis else 1 for a in range(3)])
        inner = np.take(inner, low, axis) * (1 - part) + np.take(inner, low + 1, axis) * part
    return np.asarray(inner, dtype=np.float32)


def _solve(level: _Level, params: TGVParameters, levels: int) -> tuple[_State, list[Convergence]]:
    """From the solution on the next coarser grid, if there is one; what each grid reached, the coarsest first."""
    coarse = level.halved() if levels > 1 else None
    reached: list[Convergence] = []
    if coarse is None:
        state = _State.zero(level.mask.shape)
    else:
        before, reached = _solve(coarse, params, levels - 1)
        state = before.doubled(level.mask.shape)
        _clear(state, level.mask, level.inner)
    state, convergence = _iterate(level, state, params)
    return state, [*reached, convergence]


def _clear(state: _State, mask: Mask, inner: Mask) -> None:
    for volume in (state.chi, state.slope, state.psi, state.p, state.q):
        volume[~mask] = 0
    state.eta[~inner] = 0


def _iterate(level: _Level, state: _State, params: TGVParameters) -> tuple[_State, Convergence]:
    alpha1, alpha0 = params.regularisation, params.regularisation * params.second_order_mm
    sigma, tau = _steps(level, params)
    bar = _State(state.chi.copy(), state.slope.copy(), state.psi.copy(), state.p, state.q, state.eta)
    changes: list[float] = []
    count = 0
    while count < params.max_iterations:
        before = state.chi.copy()
        for _ in range(min(CHECK_EVERY, params.max_iterations - count)):
            _dual_step(
                bar.chi, bar.slope, bar.psi, level.laplacian, level.mask, level.inner, level.inverse, level.wave,
                sigma, np.float32(alpha1), np.float32(alpha0), state.p, state.q, state.eta,
            )  # fmt: skip
            _primal_step(
                state.p, state.q, state.eta, level.power, level.mask, level.inverse, level.wave, tau,
                state.chi, state.slope, state.psi, bar.chi, bar.slope, bar.psi,
            )  # fmt: skip
            count += 1
        changes.append(relative_change(state.chi, before))
        if changes[-1] <= params.tolerance:
            break
    return state, Convergence(count, tuple(changes), params.tolerance)


def _steps(level: _Level, params: TGVParameters) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Steps of the multipliers of gradient, tensor and field, and those of chi, v and psi.

    Diagonal preconditioning with every variable in units of its size: the step of a row is its size over the sum of
    its coefficients times the sizes of the columns, and the other way round.
    """
    h = np.asarray(level.size_mm)
    wave, laplacian = 4.0 * float(np.abs(level.wave).sum()), float((4.0 / h**2).sum())
    chi, slope, psi = params.chi_size_ppm * np.array([1.0, SLOPE_OF_CHI, MISFIT_OF_CHI])
    p, q = params.regularisation, params.regularisation * params.second_order_mm
    eta = DUAL_OF_FIELD * params.regularisation
    steepest, columns = 2.0 / h.min(), float((2.0 / h).sum())
    sigma = [p / (chi * steepest + slope), q / (slope * steepest), eta / (chi * wave + psi * laplacian)]
    tau = [chi / (p * columns + eta * wave), slope / (p + q * columns), psi / (eta * laplacian)]
    return np.asarray(sigma, dtype=np.float32), np.asarray(tau, dtype=np.float32)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _laplacian(volume: Volume, inner: Mask, inverse: NDArray[np.float32], result: Volume) -> None:
    nx, ny, nz = volume.shape
    a, b, c = inverse[0] ** 2, inverse[1] ** 2, inverse[2] ** 2
    for i in prange(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                if inner[i, j, k]:
                    result[i, j, k] = _second_differences(volume, i, j, k, a, b, c)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _second_differences(
    volume: Volume, i: int, j: int, k: int, a: np.float32, b: np.float32, c: np.float32
) -> np.float32:
    twice = np.float32(2) * volume[i, j, k]
    return (
        a * (volume[i + 1, j, k] + volume[i - 1, j, k] - twice)
        + b * (volume[i, j + 1, k] + volume[i, j - 1, k] - twice)
        + c * (volume[i, j, k + 1] + volume[i, j, k - 1] - twice)
    )


@njit(cache=True)  # type: ignore[untyped-decorator]
def _wave_operator(volume: Volume, i: int, j: int, k: int, wave: NDArray[np.float32]) -> np.float32:
    """``L/3 - (b . grad)^2`` of a volume, which is its own adjoint."""
    result = _second_differences(volume, i, j, k, wave[0], wave[1], wave[2])
    if wave[3] != 0:
        result += wave[3] * (
            volume[i + 1, j + 1, k] - volume[i + 1, j - 1, k] - volume[i - 1, j + 1, k] + volume[i - 1, j - 1, k]
        )
    if wave[4] != 0:
        result += wave[4] * (
            volume[i + 1, j, k + 1] - volume[i + 1, j, k - 1] - volume[i - 1, j, k + 1] + volume[i - 1, j, k - 1]
        )
    if wave[5] != 0:
        result += wave[5] * (
            volume[i, j + 1, k + 1] - volume[i, j + 1, k - 1] - volume[i, j - 1, k + 1] + volume[i, j - 1, k - 1]
        )
    return result


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _dual_step(
    chi: Volume, slope: Volume, psi: Volume, laplacian: Volume, mask: Mask, inner: Mask, inverse: NDArray[np.float32],
    wave: NDArray[np.float32], sigma: NDArray[np.float32], alpha1: np.float32, alpha0: np.float32,
    p: Volume, q: Volume, eta: Volume,
) -> None:  # fmt: skip
    """Multipliers up the slope at the extrapolated variables, those of norms then back to at most alpha."""
    nx, ny, nz = chi.shape
    x, y, z = inverse[0], inverse[1], inverse[2]
    a, b, c = x * x, y * y, z * z
    half, one = np.float32(0.5), np.float32(1)
    for i in prange(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                if not mask[i, j, k]:
                    continue
                here = chi[i, j, k]
                u, v, w = slope[i, j, k, 0], slope[i, j, k, 1], slope[i, j, k, 2]
                g0, g1, g2 = np.float32(0), np.float32(0), np.float32(0)
                if mask[i + 1, j, k]:
                    g0 = p[i, j, k, 0] + sigma[0] * ((chi[i + 1, j, k] - here) * x - u)
                if mask[i, j + 1, k]:
                    g1 = p[i, j, k, 1] + sigma[0] * ((chi[i, j + 1, k] - here) * y - v)
                if mask[i, j, k + 1]:
                    g2 = p[i, j, k, 2] + sigma[0] * ((chi[i, j, k + 1] - here) * z - w)
                over = one / max(one, np.sqrt(g0 * g0 + g1 * g1 + g2 * g2) / alpha1)
                p[i, j, k, 0], p[i, j, k, 1], p[i, j, k, 2] = g0 * over, g1 * over, g2 * over

                left, front, below = mask[i - 1, j, k], mask[i, j - 1, k], mask[i, j, k - 1]
                e0, e1, e2 = np.float32(0), np.float32(0), np.float32(0)
                e3, e4, e5 = np.float32(0), np.float32(0), np.float32(0)
                s = sigma[1]
                if left:
                    e0 = q[i, j, k, 0] + s * (u - slope[i - 1, j, k, 0]) * x
                if front:
                    e1 = q[i, j, k, 1] + s * (v - slope[i, j - 1, k, 1]) * y
                if below:
                    e2 = q[i, j, k, 2] + s * (w - slope[i, j, k - 1, 2]) * z
                if left and front:
                    e3 = q[i, j, k, 3] + s * half * ((v - slope[i - 1, j, k, 1]) * x + (u - slope[i, j - 1, k, 0]) * y)
                if left and below:
                    e4 = q[i, j, k, 4] + s * half * ((w - slope[i - 1, j, k, 2]) * x + (u - slope[i, j, k - 1, 0]) * z)
                if front and below:
                    e5 = q[i, j, k, 5] + s * half * ((w - slope[i, j - 1, k, 2]) * y + (v - slope[i, j, k - 1, 1]) * z)
                square = e0 * e0 + e1 * e1 + e2 * e2 + np.float32(2) * (e3 * e3 + e4 * e4 + e5 * e5)
                over = one / max(one, np.sqrt(square) / alpha0)
                q[i, j, k, 0], q[i, j, k, 1], q[i, j, k, 2] = e0 * over, e1 * over, e2 * over
                q[i, j, k, 3], q[i, j, k, 4], q[i, j, k, 5] = e3 * over, e4 * over, e5 * over

                if inner[i, j, k]:
                    misfit = laplacian[i, j, k] + _second_differences(psi, i, j, k, a, b, c)
                    eta[i, j, k] += sigma[2] * (misfit - _wave_operator(chi, i, j, k, wave))


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _primal_step(
    p: Volume, q: Volume, eta: Volume, power: Volume, mask: Mask, inverse: NDArray[np.float32],
    wave: NDArray[np.float32], tau: NDArray[np.float32],
    chi: Volume, slope: Volume, psi: Volume, chi_bar: Volume, slope_bar: Volume, psi_bar: Volume,
) -> None:  # fmt: skip
    """Variables down the slope of the Lagrangian, and extrapolated by as much again."""
    nx, ny, nz = chi.shape
    x, y, z = inverse[0], inverse[1], inverse[2]
    a, b, c = x * x, y * y, z * z
    two = np.float32(2)
    for i in prange(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                if not mask[i, j, k]:
                    continue
                pull = (
                    (p[i - 1, j, k, 0] - p[i, j, k, 0]) * x
                    + (p[i, j - 1, k, 1] - p[i, j, k, 1]) * y
                    + (p[i, j, k - 1, 2] - p[i, j, k, 2]) * z
                )
                old = chi[i, j, k]
                new = old - tau[0] * (pull - _wave_operator(eta, i, j, k, wave))
                chi[i, j, k], chi_bar[i, j, k] = new, two * new - old

                xx, yy, zz = q[i, j, k, 0], q[i, j, k, 1], q[i, j, k, 2]
                xy, xz, yz = q[i, j, k, 3], q[i, j, k, 4], q[i, j, k, 5]
                bent = (
                    (xx - q[i + 1, j, k, 0]) * x + (xy - q[i, j + 1, k, 3]) * y + (xz - q[i, j, k + 1, 4]) * z,
                    (xy - q[i + 1, j, k, 3]) * x + (yy - q[i, j + 1, k, 1]) * y + (yz - q[i, j, k + 1, 5]) * z,
                    (xz - q[i + 1, j, k, 4]) * x + (yz - q[i, j + 1, k, 5]) * y + (zz - q[i, j, k + 1, 2]) * z,
                )
                for axis in range(3):
                    old = slope[i, j, k, axis]
                    new = old - tau[1] * (bent[axis] - p[i, j, k, axis])
                    slope[i, j, k, axis], slope_bar[i, j, k, axis] = new, two * new - old

                old = psi[i, j, k]
                new = (old - tau[2] * _second_differences(eta, i, j, k, a, b, c)) / (
                    np.float32(1) + tau[2] * power[i, j, k]
                )
                psi[i, j, k], psi_bar[i, j, k] = new, two * new - old


TGV = Method(
    name="tgv",
    title="single-step total generalised variation",
    function=tgv,
    parameters=TGVParameters,
    sentence=(
        "Susceptibility was found in a single step from the Laplacian of the total field with total generalised "
        "variation (regularisation {regularisation:g} mm at fields in ppm, {second_order_mm:g} mm times that for the "
        "second order; primal-dual iterations on {levels} grids until the relative change in 25 of them is below "
        "{tolerance:g}, or {max_iterations})."
    ),
    citations=(
        Citation(
            key="langkammer2015",
            authors="Langkammer C, Bredies K, Poser BA, Barth M, Reishofer G, Fan AP, Bilgic B, Fazekas F, Mainero C, "
            "Ropele S",
            title="Fast quantitative susceptibility mapping using 3D EPI and total generalized variation",
            journal="NeuroImage 111:622-630",
            year=2015,
            doi="10.1016/j.neuroimage.2015.02.041",
        ),
        Citation(
            key="chambolle2011",
            authors="Chambolle A, Pock T",
            title="A first-order primal-dual algorithm for convex problems with applications to imaging",
            journal="Journal of Mathematical Imaging and Vision 40:120-145",
            year=2011,
            doi="10.1007/s10851-010-0251-1",
        ),
    ),
    total_field=True,
)
