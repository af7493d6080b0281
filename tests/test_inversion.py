"""Dipole inversion: each method against a dense solution of its own objective and on known sources."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from qsmals.recon import fourier
from qsmals.recon.dipole import dipole_field, dipole_kernel
from qsmals.recon.grid import Grid
from qsmals.recon.inversion import INVERSION
from qsmals.recon.inversion.admm import adjoint_gradient, relative_change
from qsmals.recon.inversion.harmonic import HarmonicSystem
from qsmals.recon.inversion.l2 import L2Parameters, l2
from qsmals.recon.inversion.tkd import TkdParameters, mean_over_k_space, tkd
from qsmals.recon.inversion.tv import TVParameters, tv
from tests.inversion_phantom import TILTED, blocks, divergence, ellipsoid, relative_error


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


def test_relative_change_is_its_definition() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 5, 6, 7)).astype(np.float32)
    assert relative_change(a, b) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-6)
    assert relative_change(0 * a, 0 * a) == 0


def tv_objective(
    chi: NDArray[np.float64], local: NDArray[np.float32], weight: NDArray[np.float64], grid: Grid, lam: float
) -> float:
    field = fft.irfftn(dipole_kernel(grid) * fft.rfftn(chi), s=grid.shape)
    slope = fourier.gradient(chi, grid.voxel_size_mm)
    return float(0.5 * np.sum((weight * (field - local)) ** 2) + lam * np.abs(slope).sum())


@pytest.mark.parametrize("b0", [(0.0, 0.0, 1.0), TILTED])
def test_tv_reaches_the_minimum_of_its_objective(b0: tuple[float, float, float]) -> None:
    """Against L-BFGS on the objective with a smoothed corner, from the dense problem's own gradient."""
    grid = Grid((8, 6, 5), (1.0, 1.2, 1.5), b0)
    rng = np.random.default_rng(1)
    local = (0.05 * rng.standard_normal(grid.shape)).astype(np.float32)
    mask = np.ones(grid.shape, bool)
    weights = rng.uniform(0.5, 1.5, grid.shape).astype(np.float32)
    scaled = weights.astype(float) / weights.mean()
    lam, corner = 2e-3, 1e-5
    params = TVParameters(
        regularisation=lam, padding_mm=0.0, tolerance=1e-6, max_iterations=1500, gradient_penalty=50.0
    )
    found = tv(local, mask=mask, grid=grid, weights=weights, params=params)
    kernel = dipole_kernel(grid).astype(float)

    def smooth(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        chi = x.reshape(grid.shape)
        residual = scaled**2 * (fft.irfftn(kernel * fft.rfftn(chi), s=grid.shape) - local)
        slope = fourier.gradient(chi, grid.voxel_size_mm)
        modulus = np.sqrt(slope**2 + corner**2)
        value = 0.5 * np.sum((residual / scaled) ** 2) + lam * modulus.sum()
        descent = fft.irfftn(kernel * fft.rfftn(residual), s=grid.shape)
        return value, (descent - lam * divergence(slope / modulus, grid.voxel_size_mm)).ravel()

    best = optimize.minimize(
        smooth,
        np.zeros(local.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 6000, "ftol": 1e-12, "gtol": 1e-8},
    )
    reference = tv_objective(best.x.reshape(grid.shape), local, scaled, grid, lam)
    reached = tv_objective(found.chi_ppm.astype(float), local, scaled, grid, lam)
    assert reached <= reference * 1.002
    assert reached >= reference * 0.995  # the smoothed corner costs the reference a little, never more
    assert reached < 0.9 * tv_objective(np.zeros(grid.shape), local, scaled, grid, lam)


@pytest.mark.parametrize(("size", "b0"), [((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)), ((1.0, 1.0, 1.5), TILTED)])
def test_tv_recovers_blocks_at_any_tilt_and_voxel(
    size: tuple[float, float, float], b0: tuple[float, float, float]
) -> None:
    grid = Grid((33, 30, 26), size, b0)
    truth, mask = blocks(grid), ellipsoid(grid)
    local = dipole_field(truth, grid)
    before = local.copy()
    params = TVParameters(regularisation=3e-6, tolerance=1e-3, max_iterations=300)
    result = tv(local, mask=mask, grid=grid, params=params)
    assert result.chi_ppm.dtype == np.float32
    assert result.convergence.iterations == len(result.convergence.changes) <= 300
    assert relative_error(result.chi_ppm, truth, mask) < 0.2
    assert not result.chi_ppm[~mask].any()
    np.testing.assert_array_equal(local, before)


def test_tv_weights_silence_bad_voxels() -> None:
    grid = Grid((30, 28, 26), (1.0, 1.0, 1.0))
    truth, mask = blocks(grid), ellipsoid(grid)
    rng = np.random.default_rng(2)
    bad = mask & (rng.random(grid.shape) < 0.05)
    local = dipole_field(truth, grid) + np.where(bad, 0.2 * rng.standard_normal(grid.shape), 0)
    weights = np.where(bad, 0.01, 1.0).astype(np.float32)
    params = TVParameters(regularisation=3e-5, tolerance=3e-3)
    plain = tv(local.astype(np.float32), mask=mask, grid=grid, params=params).chi_ppm
    weighted = tv(local.astype(np.float32), mask=mask, grid=grid, weights=weights, params=params).chi_ppm
    assert relative_error(weighted, truth, mask) < 0.5 * relative_error(plain, truth, mask)
    scaled = tv(local.astype(np.float32), mask=mask, grid=grid, weights=7 * weights, params=params).chi_ppm
    np.testing.assert_allclose(scaled, weighted, atol=2e-5)


def test_tv_is_bitwise_repeatable() -> None:
    grid = Grid((20, 18, 16), (1.0, 1.0, 1.0))
    local = dipole_field(blocks(grid), grid)
    runs = [tv(local, mask=ellipsoid(grid), grid=grid).chi_ppm for _ in range(2)]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("method", [m.function for m in INVERSION.values()])
def test_bad_input_is_refused(method) -> None:  # type: ignore[no-untyped-def]
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    local, mask = blocks(grid), np.ones(grid.shape, bool)
    with pytest.raises(ValueError, match="one shape"):
        method(local[1:], mask=mask, grid=grid)
    with pytest.raises(ValueError, match="empty"):
        method(local, mask=~mask, grid=grid)
    with pytest.raises(ValueError, match="weights"):
        method(local, mask=mask, grid=grid, weights=-np.ones(grid.shape, np.float32))
    local[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        method(local, mask=mask, grid=grid)


def test_tv_refuses_bad_parameters() -> None:
    grid = Grid((12, 10, 8), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="positive"):
        tv(blocks(grid), mask=np.ones(grid.shape, bool), grid=grid, params=TVParameters(regularisation=0.0))


def dense_dipole(grid: Grid) -> NDArray[np.float64]:
    """Matrix of the periodic dipole convolution, from the definition of the kernel, column by column."""
    kernel = dipole_kernel(grid).astype(float)
    units = np.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)
    return np.stack([fft.irfftn(kernel * fft.rfftn(u), s=grid.shape).ravel() for u in units], axis=1)


def dense_gradient(grid: Grid) -> NDArray[np.float64]:
    units = np.eye(int(np.prod(grid.shape))).reshape(-1, *grid.shape)
    return np.stack([fourier.gradient(u, grid.voxel_size_mm).ravel() for u in units], axis=1)


@pytest.mark.parametrize("b0", [(0.0, 0.0, 1.0), TILTED])
def test_l2_is_the_dense_least_squares_solution(b0: tuple[float, float, float]) -> None:
    grid = Grid((8, 6, 5), (1.0, 1.2, 1.5), b0)
    local = np.random.default_rng(4).standard_normal(grid.shape).astype(np.float32)
    d, e = dense_dipole(grid), dense_gradient(grid)
    lam = 0.03
    expected = np.linalg.lstsq(d.T @ d + lam * e.T @ e, d.T @ local.ravel().astype(float), rcond=1e-10)[0]
    params = L2Parameters(regularisation=lam, padding_mm=0.0)
    found = l2(local, mask=np.ones(grid.shape, bool), grid=grid, params=params).chi_ppm
    difference = found.ravel() - expected
    np.testing.assert_allclose(difference, difference.mean(), atol=2e-5)


@pytest.mark.parametrize("shape", [(6, 5, 8), (6, 5, 9)])
def test_tkd_is_its_formula_on_the_full_k_space(shape: fourier.Shape) -> None:
    grid = Grid(shape, (1.0, 1.0, 1.5), TILTED)
    local = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    eigen = fft.fftn(dense_dipole(grid)[:, 0].reshape(shape)).real
    divisor = np.where(eigen < 0, -1, 1) * np.maximum(np.abs(eigen), 0.2)
    factor = np.where(np.arange(eigen.size).reshape(shape) == 0, 0, 1 / divisor)
    expected = fft.ifftn(factor * fft.fftn(local)).real / np.mean(factor * eigen)
    params = TkdParameters(threshold=0.2, padding_mm=0.0)
    found = tkd(local, mask=np.ones(shape, bool), grid=grid, params=params).chi_ppm
    np.testing.assert_allclose(found, expected, atol=2e-4)
    even = fft.rfftn(dense_dipole(grid)[:, 0].reshape(shape)).real.astype(np.float32)
    assert mean_over_k_space(even + 1, shape) == pytest.approx(1 + eigen.mean(), abs=1e-6)
    plain = TkdParameters(threshold=0.2, padding_mm=0.0, correct_underestimation=False)
    smaller = tkd(local, mask=np.ones(shape, bool), grid=grid, params=plain).chi_ppm
    np.testing.assert_allclose(smaller, found * np.mean(factor * eigen), atol=2e-5)


LEFT = {
    "tkd": 0.5,
    "l2": 0.4,
    "ndi": 0.5,
    "rts": 0.2,
    "ilsqr": 0.22,
    "nonlinear-weak-harmonic": 0.2,
    "tgv": 0.15,
    "medi": 0.13,
    "medi-0": 0.13,
}
"""Largest relative error on a field without noise, of methods that regularise it nevertheless or stop early."""


@pytest.mark.parametrize("name", list(INVERSION))
def test_every_method_finds_the_blocks(name: str) -> None:
    method = INVERSION[name]
    grid = Grid((33, 30, 26), (1.0, 1.0, 1.5), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    result = method.function(dipole_field(truth, grid), mask=mask, grid=grid)
    assert result.chi_ppm.dtype == np.float32 and not result.chi_ppm[~mask].any()
    assert relative_error(result.chi_ppm, truth, mask) < LEFT.get(name, 0.05)
    params = method.make_parameters()
    assert method.sentence.format(**vars(params) | dict(getattr(params, "words", {})))
    assert all(f.metadata["unit"] and f.metadata["source"] for f in fields(method.parameters))


@pytest.mark.parametrize("name", ["weak-harmonic", "tgv"])
def test_the_field_of_view_beyond_the_mask_has_no_influence(name: str) -> None:
    grid, wide = Grid((18, 20, 16), (1.0, 1.0, 1.5), TILTED), Grid((30, 27, 21), (1.0, 1.0, 1.5), TILTED)
    local, mask = dipole_field(blocks(grid), grid), ellipsoid(grid)
    place = (slice(7, 25), slice(2, 22), slice(5, 21))
    field, inside = np.full(wide.shape, np.nan, np.float32), np.zeros(wide.shape, bool)
    field[place], inside[place] = local, mask
    narrow = INVERSION[name].function(local, mask=mask, grid=grid)
    found = INVERSION[name].function(field, mask=inside, grid=wide)
    np.testing.assert_array_equal(found.chi_ppm[place], narrow.chi_ppm)
    for volume in (found.chi_ppm, found.mask, found.residual_ppm):
        if volume is not None:
            assert volume.shape == wide.shape
            volume[place] = 0
            assert not volume.any()


@pytest.mark.parametrize("name", list(INVERSION))
def test_every_method_nears_the_truth_as_noise_goes_and_iterations_grow(name: str) -> None:
    method = INVERSION[name]
    grid = Grid((24, 22, 20), (1.0, 1.0, 1.2), TILTED)
    truth, mask = blocks(grid), ellipsoid(grid)
    random = np.random.default_rng(21).standard_normal(grid.shape)

    def error_of(spread: float, **changes: Any) -> float:
        local = (dipole_field(truth, grid) + spread * random).astype(np.float32)
        params = method.make_parameters(changes)
        return relative_error(method.function(local, mask=mask, grid=grid, params=params).chi_ppm, truth, mask)

    clean = error_of(0.0)
    assert clean < error_of(0.03)
    if "max_iterations" in {f.name for f in fields(method.parameters)}:
        assert error_of(0.0, **FEWER.get(name, {"max_iterations": 2})) > clean


FEWER = {
    "weak-harmonic": {"max_iterations": 2, "reweightings": 0},
    "hd-qsm": {"max_iterations": 3, "robust_iterations": 2},
}
"""Parameters that stop a method early, where the number of iterations alone may not be so small."""


def test_susceptibility_and_harmonic_field_solve_their_normal_equations() -> None:
    """The step that the weak-harmonic method shares, against a dense solution in double precision."""
    grid = Grid((5, 4, 4), (1.0, 1.2, 1.5), TILTED)
    rng = np.random.default_rng(22)
    mu, rho, kappa = 0.7, 0.02, 0.3
    a, b, c = rng.standard_normal((3, *grid.shape)).astype(np.float32)
    system = HarmonicSystem(grid, grid.shape, field_penalty=mu, slope_penalty=rho, harmonic_penalty=kappa)
    chi, explained, laplacian = system.solve(a.copy(), b.copy(), c.copy())
    size = a.size

    def matrix(kernel: NDArray[np.float32]) -> NDArray[np.float64]:
        unit = np.eye(size).reshape(size, *grid.shape)
        rows = [fft.irfftn(kernel.astype(float) * fft.rfftn(u), s=grid.shape).ravel() for u in unit]
        return np.stack(rows, axis=1)

    dipole, minus_laplacian = matrix(dipole_kernel(grid)), matrix(fourier.laplacian_kernel(grid))
    left = np.block([
        [mu * dipole @ dipole + rho * minus_laplacian, mu * dipole],
        [mu * dipole, mu * np.eye(size) + kappa * minus_laplacian @ minus_laplacian],
    ])  # fmt: skip
    right = np.r_[mu * dipole @ a.ravel() + rho * b.ravel(), mu * a.ravel() - kappa * minus_laplacian @ c.ravel()]
    best = np.linalg.lstsq(left, right, rcond=1e-10)[0]  # a constant susceptibility has no effect
    x, h = best[:size] - best[:size].mean(), best[size:]
    np.testing.assert_allclose(chi.ravel(), x, atol=2e-4)
    np.testing.assert_allclose(explained.ravel(), dipole @ x + h, atol=2e-4)
    np.testing.assert_allclose(laplacian.ravel(), -minus_laplacian @ h, atol=2e-4)


def test_fields_agree_with_qsm_forward() -> None:
    """For a smooth source: its kernel is the continuous one, ours that of points, which differ at sharp edges."""
    main = pytest.importorskip("qsm_forward.qsm_forward")
    grid = Grid((48, 44, 40), (1.0, 1.0, 1.0), TILTED)
    p = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in grid.shape], indexing="ij")
    chi = np.exp(-sum(x**2 for x in p) / (2 * 5.0**2)).astype(np.float32)
    theirs = main.generate_field(chi, voxel_size=grid.voxel_size_mm, B0_dir=list(TILTED))
    ours = dipole_field(chi, grid)
    difference = (ours - ours.mean()) - (theirs - theirs.mean())
    assert np.abs(difference).max() < 1e-2 * np.ptp(ours)


@pytest.mark.parametrize("name", ["weak-harmonic", "tv", "nonlinear-tv", "medi", "hd-qsm"])
def test_maps_of_fields_by_qsm_forward_are_good_by_the_measure_of_qsm_ci(name: str) -> None:
    """Neither the field nor the measure is ours."""
    main = pytest.importorskip("qsm_forward.qsm_forward")
    measure = pytest.importorskip("qsm_ci.qsm_eval")
    grid = Grid((32, 30, 28), (1.0, 1.0, 1.0), TILTED)
    mask = ellipsoid(grid)
    # smoothed, as the partial volume of a scan does: at sharp edges the continuous kernel rings
    truth = ndimage.gaussian_filter(blocks(grid), 1.0).astype(np.float32)
    wide = np.pad(truth, 16)
    field = main.generate_field(wide, voxel_size=grid.voxel_size_mm, B0_dir=list(TILTED))[16:-16, 16:-16, 16:-16]
    noise = 5e-4 * np.random.default_rng(11).standard_normal(grid.shape)
    method = INVERSION[name]
    chi = method.function(
        (field + noise).astype(np.float32), mask=mask, grid=grid, params=method.make_parameters()
    ).chi_ppm
    a, b = ((v - v[mask].mean()) * mask for v in (chi, truth))
    assert measure.xsim(a, b, mask) > 0.8
    assert np.corrcoef(a[mask], b[mask])[0, 1] > 0.95


def test_the_adjoint_of_the_gradient_is_its_adjoint() -> None:
    rng = np.random.default_rng(12)
    size = (1.0, 1.2, 1.5)
    chi, split = rng.standard_normal((6, 5, 7)).astype(np.float32), rng.standard_normal((3, 6, 5, 7)).astype(np.float32)
    back = np.empty_like(chi)
    adjoint_gradient(split, (1 / np.array(size)).astype(np.float32), back)
    forward = float(np.sum(fourier.gradient(chi, size) * split, dtype=float))
    assert float(np.sum(chi * back, dtype=float)) == pytest.approx(forward, rel=1e-5)
