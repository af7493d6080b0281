"""The single-step inversion: its operator and adjoint, the minimum of its objective, and known sources."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize

from qsmals.recon.dipole import dipole_field, voxel_dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion import tgv as module
from qsmals.recon.inversion.tgv import TGVParameters, interior, tgv
from tests.inversion_phantom import TILTED, blocks, ellipsoid, relative_error

Array = NDArray[np.float64]
TWICE = np.array([1, 1, 1, 2, 2, 2])
"""Off-diagonal components of a symmetric tensor count twice."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


def level_of(grid: Grid, mask: NDArray[np.bool_], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    total = (0.05 * rng.standard_normal(grid.shape) * mask).astype(np.float32)
    power = np.where(mask, rng.uniform(0.5, 1.5, grid.shape), 0).astype(np.float32)
    return module._Level.of(total, power, mask, grid)


def framed(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """All but the outermost voxels, and a corner less."""
    mask = np.zeros(shape, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    mask[1:3, 1:3, 1:3] = False
    return mask


def apply(level: Any, chi: Any, slope: Any, psi: Any) -> tuple[Any, Any, Any]:
    """The operator of the saddle point problem: one step of length 1 from multipliers of 0, without bounds."""
    state, one, huge = module._State.zero(level.mask.shape), np.ones(3, np.float32), np.float32(1e9)
    module._dual_step(
        chi, slope, psi, np.zeros_like(chi), level.mask, level.inner, level.inverse, level.wave, one, huge, huge,
        state.p, state.q, state.eta,
    )  # fmt: skip
    return state.p, state.q, state.eta


def adjoint(level: Any, p: Any, q: Any, eta: Any) -> tuple[Any, Any, Any]:
    """Minus one step of length 1 of the variables from 0, without a data term."""
    state, bar, one = module._State.zero(level.mask.shape), module._State.zero(level.mask.shape), np.ones(3, np.float32)
    module._primal_step(
        p, q, eta, np.zeros_like(eta), level.mask, level.inverse, level.wave, one,
        state.chi, state.slope, state.psi, bar.chi, bar.slope, bar.psi,
    )  # fmt: skip
    return -state.chi, -state.slope, -state.psi


def test_the_operator_and_its_adjoint_are_a_pair() -> None:
    grid = Grid((9, 8, 7), (1.0, 1.2, 1.5), TILTED)
    level, rng = level_of(grid, framed(grid.shape)), np.random.default_rng(1)

    def random(*components: int) -> NDArray[np.float32]:
        values = rng.standard_normal((*grid.shape, *components)).astype(np.float32)
        values[~level.mask] = 0
        return values

    x, start = (random(), random(3), random()), (random(), random(3), random())
    y = apply(level, *start)  # multipliers where there are some
    found = apply(level, *x)
    back = adjoint(level, *y)
    left = sum(np.sum(f.astype(float) * o * w) for f, o, w in zip(found, y, (1, TWICE, 1), strict=True))
    right = sum(np.sum(a.astype(float) * b) for a, b in zip(x, back, strict=True))
    assert left == pytest.approx(right, rel=1e-5)


def test_the_wave_operator_is_that_of_the_dipole() -> None:
    """Applied to a polynomial of the second degree: its third of the Laplacian less the curvature along B0."""
    grid = Grid((7, 7, 7), (1.0, 1.2, 1.5), TILTED)
    matrix = np.array([[0.3, 0.1, -0.2], [0.1, -0.4, 0.5], [-0.2, 0.5, 0.7]])
    axes = np.meshgrid(*[np.arange(7) * h for h in grid.voxel_size_mm], indexing="ij")
    position = np.stack(axes)
    chi = np.einsum("i...,ij,j...->...", position, matrix, position).astype(np.float32)
    level = level_of(grid, framed(grid.shape))
    b = np.asarray(TILTED)
    expected = 2 * np.trace(matrix) / 3 - 2 * b @ matrix @ b
    slope = np.zeros((7, 7, 7, 3), np.float32)
    _, _, eta = apply(level, chi, slope, np.zeros_like(chi))
    np.testing.assert_allclose(-eta[level.inner], expected, atol=2e-4)
    _, _, eta = apply(level, np.zeros_like(chi), slope, chi)
    np.testing.assert_allclose(eta[level.inner], 2 * np.trace(matrix), atol=2e-4)


def test_it_reaches_the_minimum_of_its_objective() -> None:
    """Susceptibility, vector field and rim of the misfit by L-BFGS, its interior by a dense solution."""
    grid = Grid((8, 7, 7), (1.0, 1.2, 1.5), TILTED)
    mask = framed(grid.shape)
    level = level_of(grid, mask)
    params = TGVParameters(regularisation=2e-3, second_order_mm=2.0, levels=1, tolerance=1e-6, max_iterations=6000)
    state, _ = module._iterate(level, module._State.zero(grid.shape), params)
    rim = mask & ~level.inner
    size = (int(mask.sum()), 3 * int(mask.sum()), int(rim.sum()))

    def volumes(x: Array) -> tuple[Any, Any, Any]:
        chi, slope, edge = np.split(x, np.cumsum(size)[:-1])
        full = [np.zeros((*grid.shape, *c), np.float32) for c in ((), (3,), ())]
        full[0][mask], full[1][mask], full[2][rim] = chi, slope.reshape(-1, 3), edge
        return full[0], full[1], full[2]

    # the operator as a matrix, column by column, so that the reference is in double precision
    columns = []
    for column in np.eye(sum(size)):
        p, q, eta = apply(level, *volumes(column))
        columns.append(np.concatenate([p[mask].ravel(), q[mask].ravel(), eta[level.inner]]).astype(float))
    matrix = np.stack(columns, axis=1)
    n_p, n_q = 3 * size[0], 6 * size[0]
    inner = np.zeros((int(level.inner.sum()), int(level.inner.sum())))
    for column, where in enumerate(np.argwhere(level.inner)):
        psi = np.zeros(grid.shape, np.float32)
        psi[tuple(where)] = 1
        inner[:, column] = apply(level, 0 * psi, np.zeros((*grid.shape, 3), np.float32), psi)[2][level.inner]
    solve = -np.linalg.inv(inner)
    source = level.laplacian[level.inner].astype(float)
    corner, alpha1, alpha0 = 1e-6, params.regularisation, params.regularisation * params.second_order_mm

    def value(x: Array) -> tuple[float, Array]:
        image = matrix @ x
        p, q = image[:n_p].reshape(-1, 3), image[n_p : n_p + n_q].reshape(-1, 6)
        psi = solve @ (image[n_p + n_q :] + source)
        edge = x[-size[2] :]
        norm_p = np.sqrt((p**2).sum(1) + corner**2)
        norm_q = np.sqrt((TWICE * q**2).sum(1) + corner**2)
        power, outer = level.power[level.inner].astype(float), level.power[rim].astype(float)
        total = alpha1 * norm_p.sum() + alpha0 * norm_q.sum() + 0.5 * (power @ psi**2 + outer @ edge**2)
        by_image = np.concatenate([
            (alpha1 * p / norm_p[:, None]).ravel(),
            (alpha0 * TWICE * q / norm_q[:, None]).ravel(),
            solve.T @ (power * psi),
        ])  # fmt: skip
        slope = matrix.T @ by_image
        slope[-size[2] :] += outer * edge
        return float(total), slope

    found = np.concatenate([state.chi[mask], state.slope[mask].ravel(), state.psi[rim]]).astype(float)
    options = {"maxiter": 500, "maxfun": 600, "ftol": 1e-14, "gtol": 1e-10}
    best = optimize.minimize(value, found, jac=True, method="L-BFGS-B", options=options)
    assert best.fun >= 0.99 * value(found)[0]
    assert value(found)[0] < 0.9 * value(0 * found)[0]


@pytest.mark.parametrize(("size", "b0"), [((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((1.0, 1.0, 1.5), TILTED)])
def test_blocks_are_found_under_a_background_at_any_tilt_and_voxel(
    size: tuple[float, float, float], b0: tuple[float, float, float]
) -> None:
    grid = Grid((36, 34, 32), size, b0)
    truth, mask = blocks(grid), ellipsoid(grid)
    outside = np.zeros(grid.shape, np.float32)
    outside[:2, 10:16, 10:16], outside[14:20, -2:, 8:14] = 9.0, -5.0
    total = dipole_field(truth, grid) + dipole_field(outside, grid, kernel=voxel_dipole_kernel) + np.float32(0.3)
    before = total.copy(), mask.copy()
    result = tgv(total, mask=mask, grid=grid, params=TGVParameters(max_iterations=300))
    assert result.mask is not None and result.convergence.iterations <= 300
    np.testing.assert_array_equal(result.mask, interior(mask))
    assert result.chi_ppm.dtype == np.float32 and not result.chi_ppm[~result.mask].any()
    assert relative_error(result.chi_ppm, truth, result.mask) < 0.35
    for array, kept in zip((total, mask), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_coarser_grids_that_stopped_early_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COARSEST_VOXELS", 6)
    grid = Grid((26, 26, 26), (1.0, 1.0, 1.0), TILTED)
    local, mask = dipole_field(blocks(grid), grid), ellipsoid(grid)
    few = TGVParameters(max_iterations=25, tolerance=1e-9, levels=3)
    notes = tgv(local, mask=mask, grid=grid, params=few).notes
    assert [note.split(" stopped")[0] for note in notes] == [f"the grid of {n} times the voxel's edges" for n in (4, 2)]
    assert not tgv(local, mask=mask, grid=grid, params=TGVParameters(max_iterations=25, tolerance=2.0)).notes


def test_a_harmonic_field_changes_nothing() -> None:
    """The background, whatever its strength, is in the null space of the equation."""
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.0), TILTED)
    mask, x = ellipsoid(grid), np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 22, 20)], indexing="ij")
    local = dipole_field(blocks(grid), grid)
    steps = [2.0 / (n - 1) for n in (24, 22, 20)]
    bowl = (x[0] / steps[0]) ** 2 + (x[1] / steps[1]) ** 2 - 2 * (x[2] / steps[2]) ** 2
    runs = [
        tgv((local + extra).astype(np.float32), mask=mask, grid=grid, params=TGVParameters(max_iterations=50)).chi_ppm
        for extra in (0.0, 0.001 * bowl)
    ]
    np.testing.assert_allclose(*runs, atol=1e-3)
    again = tgv(local, mask=mask, grid=grid, params=TGVParameters(max_iterations=50)).chi_ppm
    np.testing.assert_array_equal(again, runs[0])


def test_coarser_grids_are_means_and_back_linear() -> None:
    grid = Grid((52, 50, 51), (1.0, 1.0, 2.0), TILTED)
    mask = framed(grid.shape)
    x, y, z = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in grid.shape], indexing="ij")
    level = module._Level.of(0.1 * x - 0.2 * y + 0.05 * z, mask.astype(np.float32), mask, grid)
    coarse = level.halved()
    assert coarse is not None and coarse.size_mm == (2.0, 2.0, 4.0) and coarse.b0 == level.b0
    assert not (coarse.mask[0].any() or coarse.mask[-1].any())
    fine = module._double(coarse.total, grid.shape)
    deep = interior(interior(mask))
    deep[-4:], deep[:, -4:], deep[:, :, -4:] = False, False, False
    deep[:4], deep[:, :4], deep[:, :, :4] = False, False, False
    np.testing.assert_allclose(fine[deep], level.total[deep], atol=1e-4)
    assert coarse.halved() is None


def test_bad_input_is_refused() -> None:
    grid = Grid((9, 9, 9), (1.0, 1.0, 1.0))
    local, mask = blocks(grid), np.ones(grid.shape, bool)
    with pytest.raises(ValueError, match="one shape"):
        tgv(local[1:], mask=mask, grid=grid)
    with pytest.raises(ValueError, match="empty"):
        tgv(local, mask=~mask, grid=grid)
    thin = ~mask
    thin[:, 4] = True
    with pytest.raises(ValueError, match="interior"):
        tgv(local, mask=thin, grid=grid)
    for name in ("regularisation", "second_order_mm", "levels", "chi_size_ppm", "tolerance", "max_iterations"):
        with pytest.raises(ValueError, match="positive"):
            tgv(local, mask=mask, grid=grid, params=replace(TGVParameters(), **{name: 0}))
